package simulate

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"paceline/simulate/lm"

	"go.uber.org/goleak"
)

// TestMain looks for goroutines that outlive the servers.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	)
}

// start starts an engine for the test's life.
func start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Seed == 0 {
		o.Seed = 1
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// client keeps no connections, so that none outlives its test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// call makes a request and reads its whole answer.
func call(t testing.TB, s *Server, method, path string, body []byte, headers map[string]string) (status int, contentType string, answer []byte) {
	t.Helper()
	r, err := http.NewRequest(method, s.URL()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	w, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	answer, err = io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, w.Header.Get("Content-Type"), answer
}

// post posts JSON.
func post(t testing.TB, s *Server, path, body string) (status int, answer string) {
	t.Helper()
	status, _, b := call(t, s, http.MethodPost, path, []byte(body), map[string]string{"Content-Type": "application/json"})
	return status, string(b)
}

// readAnswer reads one answer off a connection.
func readAnswer(t testing.TB, r *bufio.Reader) (status int, text string) {
	t.Helper()
	w, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, string(b)
}

// draftModel is the small model, for tests in which the weights do not matter.
func draftModel(t testing.TB) *lm.Model {
	t.Helper()
	m, err := lm.Draft()
	if err != nil {
		t.Fatal(err)
	}
	return m
}
