package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"paceline/engine"
	"paceline/proxy/plan"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Two sleepers of fasthttp's that nothing ends.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// rig is a proxy with a scripted target, and an upstream that answers what
// passes through.
type rig struct {
	*Server
	target   *script
	upstream *upstream
	addr     string
	logs     *lines
	stopped  bool
}

// lines collects the log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newRig(t testing.TB, target *script, change ...func(o *Options, p *Pair)) *rig {
	t.Helper()
	up := newUpstream(t)
	client, err := engine.NewClient("http://"+up.addr, engine.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	o := Options{Grace: time.Second}
	p := Pair{
		Name: "target", Target: target, Client: client,
		Drafts: []Draft{{Name: "draft", Drafter: target}}, Policy: plan.Policy{Rounds: true},
	}
	for _, c := range change {
		c(&o, &p)
	}
	logs := &lines{}
	s, err := New(o, []Pair{p}, slog.New(slog.NewJSONHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	r := &rig{Server: s, target: target, upstream: up, addr: ln.Addr().String(), logs: logs}
	t.Cleanup(func() {
		if !r.stopped {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := s.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if n := s.Stats().InFlight; n != 0 {
			t.Errorf("%d requests in flight at the end", n)
		}
		if n := target.open.Load(); n != 0 {
			t.Errorf("%d streams open at the end", n)
		}
	})
	return r
}

// reply is an answer as it came.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // reading the body
}

// do sends a request on a connection of its own; status 0: no answer came. header lines are "Name: value".
func (r *rig) do(t testing.TB, method, path, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+r.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), err}
}

func (r *rig) post(t testing.TB, path, body string, header ...string) reply {
	t.Helper()
	return r.do(t, "POST", path, body, header...)
}

// until waits for a condition that other goroutines bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// upstream is the target's HTTP side. It answers with the function set for a
// path and keeps every request as it came.
type upstream struct {
	addr string

	mu      sync.Mutex
	answers map[string]func(conn net.Conn, request []byte)
	got     [][]byte
	gone    chan struct{} // one for each connection that ended while it was answered
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: ln.Addr().String(), answers: map[string]func(net.Conn, []byte){}, gone: make(chan struct{}, 100)}
	var conns sync.WaitGroup
	var open sync.Map
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			open.Store(c, true)
			conns.Go(func() {
				defer c.Close()
				u.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		conns.Wait()
	})
	return u
}

// on sets the answer to a path: raw bytes, written as they are.
func (u *upstream) on(path string, parts ...string) {
	u.handle(path, func(c net.Conn, _ []byte) {
		for _, p := range parts {
			if _, err := io.WriteString(c, p); err != nil {
				return
			}
		}
	})
}

func (u *upstream) handle(path string, f func(c net.Conn, request []byte)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answers[path] = f
}

func (u *upstream) requests() [][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([][]byte(nil), u.got...)
}

// last returns the last request's head, split into lines, and its body.
func (u *upstream) last(t testing.TB) (lines []string, body string) {
	t.Helper()
	all := u.requests()
	if len(all) == 0 {
		t.Fatal("nothing reached the target")
	}
	head, body, _ := strings.Cut(string(all[len(all)-1]), "\r\n\r\n")
	return strings.Split(head, "\r\n"), body
}

func (u *upstream) serve(c net.Conn) {
	var buf []byte
	chunk := make([]byte, 64<<10)
	for {
		end, size := requestEnd(buf)
		if end < 0 || len(buf) < end+size {
			n, err := c.Read(chunk)
			if err != nil {
				return
			}
			buf = append(buf, chunk[:n]...)
			continue
		}
		request := bytes.Clone(buf[:end+size])
		buf = buf[end+size:]
		u.mu.Lock()
		u.got = append(u.got, request)
		_, rest, _ := strings.Cut(string(request), " ")
		path, _, _ := strings.Cut(rest, " ")
		answer := u.answers[path]
		u.mu.Unlock()
		if answer == nil {
			answer = func(c net.Conn, _ []byte) { io.WriteString(c, ok("application/json", "{}")) }
		}
		answer(c, request)
	}
}

// requestEnd returns where the head of the first request ends and how long its
// body is; -1 if the head is not there.
func requestEnd(buf []byte) (end, size int) {
	head, _, found := bytes.Cut(buf, []byte("\r\n\r\n"))
	if !found {
		return -1, 0
	}
	for _, line := range strings.Split(string(head), "\r\n") {
		if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, "Content-Length") {
			fmt.Sscan(value, &size)
		}
	}
	return len(head) + 4, size
}

// ok is a whole answer.
func ok(contentType, body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body)
}

const sseHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunked(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

func newBufReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// rawConn is a client's raw connection.
type rawConn struct {
	net.Conn
	t   testing.TB
	got string // everything that came
}

func (r *rig) dial(t testing.TB) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &rawConn{Conn: c, t: t}
}

func (c *rawConn) send(method, path, body string, header ...string) {
	c.t.Helper()
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", method, path, len(body))
	for _, h := range header {
		head += h + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"+body); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads until what came contains want.
func (c *rawConn) expect(want string) {
	c.t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(c.got, want) {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		c.got += string(buf[:n])
		if err != nil && !strings.Contains(c.got, want) {
			c.t.Fatalf("waited for %q: %v, got %q", want, err, c.got)
		}
	}
}

const errRefused = syscall.ECONNREFUSED
