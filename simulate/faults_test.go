package simulate

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	shortStream = `{"prompt":"Hello","stream":true,"max_tokens":6,"ignore_eos":true,"temperature":0,"return_token_ids":true}`
	shortWhole  = `{"prompt":"Hello","max_tokens":6,"ignore_eos":true,"temperature":0,"return_token_ids":true}`
)

// try posts and says what came of it.
func try(s *Server, path, body string) (status int, text string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	w, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	return w.StatusCode, string(b), err
}

func set(t *testing.T, s *Server, f ...Fault) {
	t.Helper()
	if err := s.SetFaults(f...); err != nil {
		t.Fatal(err)
	}
}

// TestFaults: each kind does what it says, and when it is cleared everything
// is as before.
func TestFaults(t *testing.T) {
	s := start(t, Options{})
	const path = "/v1/completions"
	_, wholeStream, _ := try(s, path, shortStream)
	_, whole, _ := try(s, path, shortWhole)
	healthy := func(t *testing.T) {
		t.Helper()
		set(t, s)
		for body, want := range map[string]string{shortStream: wholeStream, shortWhole: whole} {
			if status, text, err := try(s, path, body); status != 200 || len(text) != len(want) || err != nil {
				t.Errorf("after the fault: %d %q %v", status, text, err)
			}
		}
	}

	t.Run("status", func(t *testing.T) {
		set(t, s, Fault{Kind: "status", Path: path, Skip: 1, Count: 1, Status: 503, Body: `{"x":1}`})
		for i, want := range []int{200, 503, 200} {
			if status, text, _ := try(s, path, shortWhole); status != want || status == 503 && text != `{"x":1}` {
				t.Errorf("request %d: %d %s, want %d", i, status, text, want)
			}
		}
		if status, _, _ := try(s, "/tokenize", `{"prompt":"x"}`); status != 200 {
			t.Errorf("another path: %d", status)
		}
		healthy(t)
	})
	t.Run("stall", func(t *testing.T) {
		set(t, s, Fault{Kind: "stall", Count: 1, For: 50 * time.Millisecond})
		begin := time.Now()
		if status, _, err := try(s, path, shortWhole); status != 200 || err != nil || time.Since(begin) < 50*time.Millisecond {
			t.Errorf("%d %v after %v", status, err, time.Since(begin))
		}
		healthy(t)
	})
	t.Run("stall until cleared", func(t *testing.T) {
		set(t, s, Fault{Kind: "stall_mid", After: 3})
		done := make(chan error, 1)
		go func() {
			_, text, err := try(s, path, shortStream)
			if err == nil && len(text) != len(wholeStream) {
				err = errors.New(text)
			}
			done <- err
		}()
		select {
		case err := <-done:
			t.Errorf("did not stall: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		healthy(t)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("cut", func(t *testing.T) {
		set(t, s, Fault{Kind: "cut", After: 3})
		_, text, err := try(s, path, shortStream)
		if err == nil || strings.Count(text, "data: ") != 3 {
			t.Errorf("%q %v, want three events and an error", text, err)
		}
		if _, _, err := try(s, path, shortWhole); err == nil {
			t.Error("a whole answer in spite of the cut")
		}
		healthy(t)
	})
	t.Run("truncate", func(t *testing.T) {
		set(t, s, Fault{Kind: "truncate", After: 3})
		_, text, err := try(s, path, shortStream)
		if err != nil || strings.Count(text, "data: ") != 4 || strings.HasSuffix(text, "\n") {
			t.Errorf("%q %v, want three events and a half", text, err)
		}
		if _, text, err := try(s, path, shortWhole); err != nil || len(text) != len(whole)/2 {
			t.Errorf("%q %v, want half the body", text, err)
		}
		healthy(t)
	})
	t.Run("garbage", func(t *testing.T) {
		set(t, s, Fault{Kind: "garbage", After: 2})
		for _, body := range []string{shortStream, shortWhole} {
			if _, text, err := try(s, path, body); err != nil || !strings.Contains(text, "\x00\xff") {
				t.Errorf("%q %v", text, err)
			}
		}
		healthy(t)
	})
	t.Run("lie", func(t *testing.T) {
		set(t, s, Fault{Kind: "lie"})
		status, text, _ := try(s, path, shortWhole)
		truth := whole
		if a, b := decode[answer](t, status, text), decode[answer](t, 200, truth); list(a.Choices[0].TokenIDs) == list(b.Choices[0].TokenIDs) || len(a.Choices[0].TokenIDs) != 6 {
			t.Errorf("wrote %v", a.Choices[0].TokenIDs)
		}
		healthy(t)
	})
	t.Run("bad ids", func(t *testing.T) {
		set(t, s, Fault{Kind: "bad_ids"})
		status, text, _ := try(s, path, shortWhole)
		if a := decode[answer](t, status, text); a.Choices[0].TokenIDs[0] < 2048 {
			t.Errorf("wrote %v", a.Choices[0].TokenIDs)
		}
		healthy(t)
	})
	t.Run("slow", func(t *testing.T) {
		set(t, s, Fault{Kind: "slow", For: 10 * time.Millisecond})
		begin := time.Now()
		if _, _, err := try(s, path, shortStream); err != nil || time.Since(begin) < 60*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		healthy(t)
	})
	t.Run("refuse", func(t *testing.T) {
		set(t, s, Fault{Kind: "refuse"})
		if _, _, err := try(s, path, shortWhole); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want a refusal", err)
		}
		healthy(t)
	})
	t.Run("sever", func(t *testing.T) {
		set(t, s, Fault{Kind: "stall_mid", After: 1})
		conn := dial(t, s, path, shortStream)
		r := bufio.NewReader(conn)
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		s.Sever()
		var broken *net.OpError
		if _, err := io.ReadAll(r); !errors.As(err, &broken) {
			t.Errorf("%v, want a reset", err)
		}
		healthy(t)
	})
}

// TestFaultsOverHTTP: the endpoint exists only where it was asked for.
func TestFaultsOverHTTP(t *testing.T) {
	closed, open := start(t, Options{}), start(t, Options{FaultsOverHTTP: true})
	body := `[{"kind":"status","path":"/v1","status":418}]`
	if status, _ := post(t, closed, faultsPath, body); status != 404 {
		t.Errorf("without the option: %d", status)
	}
	if status, text := post(t, open, faultsPath, body); status != 204 {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := post(t, open, "/v1/completions", shortWhole); status != 418 {
		t.Errorf("the fault gives %d", status)
	}
	if status, _, _ := call(t, open, http.MethodDelete, faultsPath, nil, nil); status != 204 {
		t.Errorf("DELETE: %d", status)
	}
	if status, _ := post(t, open, "/v1/completions", shortWhole); status != 200 {
		t.Errorf("after it was cleared: %d", status)
	}
}
