package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"paceline/speculate"
)

// stall makes the target wait at a word until its context is cancelled; left
// is when it was, or will be.
func (s *script) stall(at int) (stalled chan struct{}, left *atomic.Int64) {
	stalled, left = make(chan struct{}, 10), &atomic.Int64{}
	s.step = func(ctx context.Context, now int) error {
		if now < at {
			return ctx.Err()
		}
		stalled <- struct{}{}
		<-ctx.Done()
		left.CompareAndSwap(0, time.Now().UnixNano())
		return context.Cause(ctx)
	}
	return stalled, left
}

// noticed prints how long a departure took to reach the target: 50 ms is the
// aim, a fraction of a millisecond usual. What fails is a departure that only a
// later write would have shown; the machine may be busy.
func noticed(t *testing.T, name string, took time.Duration) {
	t.Helper()
	t.Logf("%s: cancelled after %v", name, took)
	if took > 2*time.Second {
		t.Errorf("%s: cancelled after %v only", name, took)
	}
}

// A client that goes takes its work in the target with it, at every stage of a
// generation: before the first token, in plain streaming, in a verification;
// streamed or not.
func TestDepartures(t *testing.T) {
	f := func(name string, at int, k, body string) {
		t.Helper()
		target := newScript(words...)
		target.holdAt, target.hold = 1, 100*time.Millisecond
		stalled, left := target.stall(at)
		r := newRig(t, target)
		conn := r.dial(t)
		conn.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+body+`}`, "X-Paceline-Speculation: "+k)
		select {
		case <-stalled:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the target was not asked", name)
		}
		began := time.Now()
		conn.Close()
		until(t, "the departure", func() bool { return r.Stats().Departed == 1 && r.Stats().InFlight == 0 })
		until(t, "the target", func() bool { return left.Load() != 0 })
		noticed(t, name, time.Unix(0, left.Load()).Sub(began))
		if log := r.logs.String(); !strings.Contains(log, `"status":499`) || !strings.Contains(log, `"level":"INFO"`) || strings.Contains(log, `"error"`) || strings.Count(log, "\n") != 1 {
			t.Errorf("%s: log %s", name, log)
		}
	}
	f("before the first token", 0, "0", "")
	f("before the first token, streamed", 0, "0", `,"stream":true`)
	f("in plain streaming", 4, "0", "")
	f("in plain streaming, streamed", 4, "0", `,"stream":true`)
	f("in a verification", 2, "3", "")
	f("in a verification, streamed", 2, "3", `,"stream":true`)
}

// The same for what passes through: the connection to the target is closed.
func TestDeparturesPassThrough(t *testing.T) {
	f := func(name, path, body, begin, expect string) {
		t.Helper()
		r := newRig(t, newScript("a"))
		asked, left := make(chan struct{}), make(chan time.Time, 1)
		r.upstream.handle(path, func(c net.Conn, _ []byte) {
			io.WriteString(c, begin)
			close(asked)
			c.Read(make([]byte, 1))
			left <- time.Now()
		})
		conn := r.dial(t)
		conn.send("POST", path, body)
		<-asked
		conn.expect(expect)
		began := time.Now()
		conn.Close()
		noticed(t, name, (<-left).Sub(began))
		until(t, "the departure", func() bool { return r.Stats().Departed == 1 && r.Stats().InFlight == 0 })
	}
	chat := `{"model":"target",` + hello + `,"logprobs":true,"stream":true}`
	f("before the header", "/v1/chat/completions", chat, "", "")
	f("after the header", "/v1/chat/completions", chat, sseHead, "text/event-stream")
	f("in the stream", "/v1/chat/completions", chat, sseHead+chunked("data: 1\n\n"), "data: 1\n\n")
	f("in another call", "/v1/embeddings", `{}`, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "")
}

// A client that waits for its turn leaves the queue when it goes.
func TestDepartureFromTheQueue(t *testing.T) {
	target := newScript("a")
	stalled, _ := target.stall(0)
	r := newRig(t, target, func(o *Options, _ *Pair) { o.MaxInFlight = 1 })
	first := r.dial(t)
	first.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`}`)
	<-stalled
	second := r.dial(t)
	second.send("POST", "/v1/embeddings", `{}`)
	until(t, "the second request", func() bool { return r.Stats().InFlight == 2 })
	second.Close()
	until(t, "its departure", func() bool { return r.Stats().Departed == 1 && r.Stats().InFlight == 1 })
	first.Close()
	until(t, "the first departure", func() bool { return r.Stats().Departed == 2 })
}

// A client that does not read is given up, and counts as gone.
func TestClientDoesNotRead(t *testing.T) {
	long := make([]string, 4000)
	for i := range long {
		long[i] = strings.Repeat("x", 4000)
	}
	target := newScript(long...)
	target.caps.MaxModelLen = 0
	r := newRig(t, target, func(o *Options, _ *Pair) { o.Patience = 200 * time.Millisecond })
	conn := r.dial(t)
	conn.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`, "X-Paceline-Speculation: 0")
	until(t, "the proxy to give up", func() bool { return r.Stats().Departed == 1 && r.Stats().InFlight == 0 })
	if !strings.Contains(r.logs.String(), `"status":499`) {
		t.Errorf("log: %s", r.logs)
	}
}

// More requests than slots: they wait, and after a while they are refused.
func TestAdmission(t *testing.T) {
	target := newScript("a")
	release := make(chan struct{})
	target.step = func(ctx context.Context, _ int) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	r := newRig(t, target, func(o *Options, _ *Pair) { o.MaxInFlight, o.QueueWait = 1, 50*time.Millisecond })
	first := r.dial(t)
	first.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`}`)
	until(t, "the first request", func() bool { return len(target.asked()) == 1 })
	for _, path := range []string{"/v1/chat/completions", "/v1/embeddings"} {
		got := r.post(t, path, `{"model":"target",`+hello+`}`)
		if got.status != 429 || got.header.Get("Retry-After") != "1" || !strings.Contains(got.body, `"type":"rate_limit_error","param":null,"code":"too_many_requests"`) {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := r.do(t, "GET", "/v1/models", ""); got.status != 200 {
		t.Errorf("what needs no target does not wait: %+v", got)
	}
	if n := r.Stats().Refused; n != 2 {
		t.Errorf("%d refused", n)
	}
	close(release)
	first.expect(`"finish_reason":"stop"`)
	if got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`}`); got.status != 200 {
		t.Errorf("afterwards: %+v", got)
	}
}

// A stop lets answers end, and ends those that take too long: an error event
// in a stream, a status otherwise.
func TestShutdown(t *testing.T) {
	target := newScript(words...)
	stalled, _ := target.stall(3)
	r := newRig(t, target, func(o *Options, _ *Pair) { o.Grace = 2 * time.Second })
	streamed, whole, passed, quick := r.dial(t), r.dial(t), r.dial(t), r.dial(t)
	r.upstream.handle("/v1/slow", func(c net.Conn, _ []byte) {
		io.WriteString(c, sseHead+chunked("data: 1\n\n"))
		c.Read(make([]byte, 1))
	})
	done := make(chan struct{})
	r.upstream.handle("/v1/quick", func(c net.Conn, _ []byte) {
		<-done
		io.WriteString(c, ok("text/plain", "made it"))
	})
	streamed.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`, "X-Paceline-Speculation: 0")
	whole.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`}`, "X-Paceline-Speculation: 0")
	passed.send("POST", "/v1/slow", `{}`)
	quick.send("POST", "/v1/quick", `{}`)
	streamed.expect(" brown")
	passed.expect("data: 1\n\n")
	<-stalled
	<-stalled
	until(t, "four requests", func() bool { return r.Stats().InFlight == 4 })

	r.stopped = true
	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- r.Shutdown(context.Background()) }()
	until(t, "the listener to close", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, errRefused)
	})
	close(done)
	quick.expect("made it")
	told := `{"error":{"message":"the proxy is shutting down","type":"server_error","param":null,"code":"shutting_down","src":"proxy"}}`
	streamed.expect("data: " + told + "\n\n\r\n0\r\n\r\n")
	passed.expect("data: " + told + "\n\n\r\n0\r\n\r\n")
	whole.expect("HTTP/1.1 503 ")
	whole.expect(told)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("stopped after %v", took)
	}
	if strings.Contains(streamed.got, "[DONE]") {
		t.Error("a cut answer says that it is done")
	}
}

// A panic beside the generation's own goroutine ends the request too.
func TestPanicInACall(t *testing.T) {
	target := newScript(words...)
	target.panicAt = 2
	r := newRig(t, target, func(_ *Options, p *Pair) {
		p.Controller = func() speculate.Controller { return speculate.NewFixed(0, true) }
	})
	got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`)
	if got.status != 200 || !strings.HasSuffix(got.body, `"src":"upstream"}}`+"\n\n") || strings.Contains(got.body, "goroutine") {
		t.Errorf("%d %s", got.status, got.body)
	}
}
