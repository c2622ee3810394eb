//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestPassedThrough sends what cannot be kept exact: the target gets what the
// client sent, and the client what the target answered, byte for byte.
func TestPassedThrough(t *testing.T) {
	l := laneOf(t, "score")
	for _, c := range passed() {
		check(t, c.prompt.name+"/whole", func(t *testing.T) {
			got, want := l.passed(t, c.reason, &c.prompt)
			sameBytes(t, got.raw, want.raw)
			if c.prompt.name == "tools" && !strings.Contains(got.tools, "get_weather{") {
				t.Errorf("no tool call in %s", got.raw)
			}
		})
		check(t, c.prompt.name+"/streamed", func(t *testing.T) {
			l.passed(t, c.reason, &c.prompt, stream...)
		})
	}
}

// passed asks through the proxy and directly, and compares.
func (l *lane) passed(t *testing.T, reason string, p *prompt, fields ...any) (got, want *reply) {
	t.Helper()
	mark := l.recording.Mark()
	got, err := post(within(t, time.Minute), l.url, p, fields...)
	if err != nil {
		t.Fatal(err)
	}
	if want, err = post(within(t, time.Minute), targetURL, p, fields...); err != nil {
		t.Fatal(err)
	}
	if mode, why := got.header.Get("X-Paceline-Mode"), got.header.Get("X-Paceline-Reason"); mode != "pass-through" || why != reason {
		t.Errorf("mode %q, reason %q, want pass-through and %q", mode, why, reason)
	}
	list, err := l.recording.Since(within(t, 10*time.Second), mark)
	if err != nil || len(list) != 1 {
		t.Fatalf("want one exchange with the target, have %v\n%s", err, describe(list))
	}
	if e := list[0]; !bytes.Equal(e.Body, got.sent) || !bytes.Equal(e.Response, got.raw) || e.Status != got.status || e.Path != p.path() {
		t.Errorf("the client sent\n%s\nand got %d\n%s\nthe target was asked and answered\n%s", got.sent, got.status, got.raw, describe(list))
	}
	if got.status != want.status || got.header.Get("Content-Type") != want.header.Get("Content-Type") {
		t.Errorf("status %d, %q, the target's are %d, %q", got.status, got.header.Get("Content-Type"), want.status, want.header.Get("Content-Type"))
	}
	if d := differs(got, want); d != "" {
		t.Error(d)
	}
	return got, want
}

// TestDeparture leaves in the middle of an answer: both engines have to be idle
// within a second, and stay so.
func TestDeparture(t *testing.T) {
	for _, c := range []struct{ mode, speculation string }{{"score", ""}, {"fan-out", ""}, {"score", "off"}} {
		for _, streamed := range []bool{true, false} {
			check(t, fmt.Sprintf("%s%s/streamed=%v", c.mode, c.speculation, streamed), func(t *testing.T) {
				laneOf(t, c.mode).departure(t, c.speculation, streamed)
			})
		}
	}
}

func (l *lane) departure(t *testing.T, speculation string, streamed bool) {
	ctx, leave := context.WithCancel(within(t, time.Minute))
	defer leave()
	text, err := json.Marshal(map[string]any{
		"model": "target", "prompt": asks("Tell me a story about a wolf."), "temperature": 0, "max_tokens": 1900, "ignore_eos": true,
		"stream": streamed, "cache_salt": fmt.Sprint(l.mode, speculation, streamed),
	})
	if err != nil {
		t.Fatal(err)
	}
	q, _ := http.NewRequestWithContext(ctx, "POST", l.url+"/v1/completions", bytes.NewReader(text))
	q.Header.Set("Content-Type", "application/json")
	if speculation != "" {
		q.Header.Set("X-Paceline-Speculation", speculation)
	}
	mark := l.recording.Mark()
	answered := make(chan error, 1)
	go func() {
		resp, err := client.Do(q)
		if err == nil {
			defer resp.Body.Close()
			_, err = resp.Body.Read(make([]byte, 1<<16))
			if streamed && err == nil {
				answered <- nil
				<-ctx.Done()
				return
			}
		}
		answered <- err
	}()
	if streamed {
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	}
	if err := eventually(10*time.Second, func() bool { return l.recording.Mark() > mark }); err != nil {
		t.Fatal("nothing reached the engines")
	}
	time.Sleep(300 * time.Millisecond) // well into the answer: it takes seconds
	leave()
	left := time.Now()
	if err := eventually(time.Second, func() bool { return running(t, targetURL)+running(t, draftURL) == 0 }); err != nil {
		t.Errorf("a second after the client left, the target runs %v requests and the draft %v", running(t, targetURL), running(t, draftURL))
	}
	idle := time.Since(left)
	time.Sleep(time.Second)
	list, err := l.recording.Since(within(t, time.Second), mark)
	if err != nil {
		t.Error(err)
	}
	late, after := 0, time.Duration(0)
	for _, e := range list {
		if e.Began.Sub(left) > 100*time.Millisecond && e.Method == "POST" {
			late++
		}
		after = max(after, e.Ended.Sub(left))
	}
	t.Logf("idle after %d ms (a poll takes some), the last exchange ended %d ms after the client had left, %d exchanges", idle.Milliseconds(), after.Milliseconds(), len(list))
	if late > 0 {
		t.Errorf("%d requests reached the engines later than 100 ms after the client had left:\n%s", late, describe(list[len(list)-late:]))
	}
}

// eventually waits until f is true; it fails when f, begun after that time, is
// still false.
func eventually(d time.Duration, f func() bool) error {
	for end := time.Now().Add(d); ; {
		began := time.Now()
		if f() {
			return nil
		}
		if began.After(end) {
			return context.DeadlineExceeded
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// running reads how many requests an engine works on.
func running(t *testing.T, engine string) (n float64) {
	t.Helper()
	text, err := get(within(t, 10*time.Second), engine+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "vllm:num_requests_running{") || strings.HasPrefix(line, "vllm:num_requests_waiting{") {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				t.Fatalf("cannot read %q: %v", line, err)
			}
			n += v
		}
	}
	return n
}
