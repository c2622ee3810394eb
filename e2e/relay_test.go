package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRelayPassesStreamsUnbuffered(t *testing.T) {
	next := make(chan string)
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "data: %s %s %s\n\n", r.Method, r.URL.RequestURI(), body)
		w.(http.Flusher).Flush()
		fmt.Fprint(w, <-next)
	}))
	defer engine.Close()
	recording := NewRecording()
	relay, err := StartRelay("target", engine.URL, recording)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()

	resp, err := http.Post(relay.URL()+"/v1/x?y=1", "text/plain", strings.NewReader("hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 100)
	n, err := resp.Body.Read(buf) // while the engine waits
	if got := string(buf[:n]); err != nil || got != "data: POST /v1/x?y=1 hi\n\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	next <- "data: [DONE]\n\n"
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "data: [DONE]\n\n" {
		t.Fatalf("got %q, %v", rest, err)
	}
	list, err := recording.Since(t.Context(), 0)
	if err != nil || len(list) != 1 || list[0].Status != 200 || list[0].Gone || string(list[0].Body) != "hi" ||
		string(list[0].Response) != "data: POST /v1/x?y=1 hi\n\ndata: [DONE]\n\n" {
		t.Errorf("recorded %+v, %v", list, err)
	}
}

func TestRelayLeavesWithItsCaller(t *testing.T) {
	left := make(chan struct{})
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		fmt.Fprint(w, "data: {}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(left)
	}))
	defer engine.Close()
	recording := NewRecording()
	relay, err := StartRelay("target", engine.URL, recording)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()

	ctx, cancel := context.WithCancel(t.Context())
	q, _ := http.NewRequestWithContext(ctx, "POST", relay.URL(), strings.NewReader("{}"))
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("the engine was not left")
	}
	list, err := recording.Since(t.Context(), 0)
	if err != nil || len(list) != 1 || !list[0].Gone {
		t.Errorf("recorded %+v, %v", list, err)
	}
}
