//go:build linux

package depart

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is short enough to test and long enough to pass by.
const patience = 300 * time.Millisecond

// limit is how late a departure may be noticed.
const limit = 50 * time.Millisecond

// pair returns both ends of a watched connection; everything is closed when
// the test ends.
func pair(t testing.TB) (client *net.TCPConn, server *Conn) {
	t.Helper()
	ln := listen(t)
	t.Cleanup(func() { ln.Close() })
	return connect(t, ln)
}

func listen(t testing.TB) *Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := Listen(inner, patience)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func connect(t testing.TB, ln *Listener) (client *net.TCPConn, server *Conn) {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*Conn)
}

func TestDeparture(t *testing.T) {
	f := func(name string, leave func(c *net.TCPConn)) {
		t.Helper()
		client, server := pair(t)
		ctx, stop := Context(t.Context(), server)
		defer stop()
		if ctx.Err() != nil || server.Gone() {
			t.Fatalf("%s: gone before it left", name)
		}
		left := time.Now()
		leave(client)
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: not noticed", name)
		}
		if took := time.Since(left); took > limit {
			t.Errorf("%s: noticed after %v", name, took)
		}
		if !errors.Is(context.Cause(ctx), ErrGone) || !server.Gone() {
			t.Errorf("%s: cause %v, gone %v", name, context.Cause(ctx), server.Gone())
		}
	}
	f("close", func(c *net.TCPConn) { c.Close() })
	f("reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() })
	f("half close", func(c *net.TCPConn) { c.CloseWrite() })
	f("close with unread data", func(c *net.TCPConn) { io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); c.Close() })
}

func TestGoneBeforeContext(t *testing.T) {
	client, server := pair(t)
	client.Close()
	for deadline := time.Now().Add(5 * time.Second); !server.Gone(); {
		if time.Now().After(deadline) {
			t.Fatal("not noticed")
		}
	}
	ctx, stop := Context(t.Context(), server)
	defer stop()
	if !errors.Is(context.Cause(ctx), ErrGone) {
		t.Fatalf("cause %v", context.Cause(ctx))
	}
}

func TestDataIsNoDeparture(t *testing.T) {
	client, server := pair(t)
	ctx, stop := Context(t.Context(), server)
	defer stop()
	io.WriteString(client, "hello\n")
	line, err := bufio.NewReader(server).ReadString('\n')
	if err != nil || line != "hello\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("cancelled: %v", context.Cause(ctx))
	}
}

// One request after another on a connection: what was stopped is not
// cancelled with ErrGone, what comes next is watched.
func TestKeepAlive(t *testing.T) {
	client, server := pair(t)
	for range 3 {
		ctx, stop := Context(t.Context(), server)
		stop()
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			t.Fatalf("cause %v", cause)
		}
	}
	ctx, stop := Context(t.Context(), server)
	defer stop()
	client.Close()
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), ErrGone) {
		t.Fatalf("cause %v", context.Cause(ctx))
	}
}

// Connections stay watched after the listener was closed, as a graceful stop
// closes it first.
func TestListenerClosedFirst(t *testing.T) {
	ln := listen(t)
	client, server := connect(t, ln)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := Context(t.Context(), server)
	defer stop()
	client.Close()
	<-ctx.Done()
	server.Close()
	select {
	case <-ln.watch.done:
	case <-time.After(5 * time.Second):
		t.Fatal("the watch goes on without anybody to watch")
	}
}

func TestOwnCloseCancels(t *testing.T) {
	_, server := pair(t)
	ctx, stop := Context(t.Context(), server)
	defer stop()
	server.Close()
	server.Close()
	if !errors.Is(context.Cause(ctx), ErrGone) {
		t.Fatalf("cause %v", context.Cause(ctx))
	}
}

func TestManyConnections(t *testing.T) {
	ln := listen(t)
	defer ln.Close()
	var stay, leave []context.Context
	for i := range 400 {
		client, server := connect(t, ln)
		ctx, stop := Context(t.Context(), server)
		defer stop()
		if i%2 == 0 {
			stay = append(stay, ctx)
			continue
		}
		leave = append(leave, ctx)
		go client.Close()
	}
	for _, ctx := range leave {
		<-ctx.Done()
	}
	for _, ctx := range stay {
		if ctx.Err() != nil {
			t.Fatalf("cancelled: %v", context.Cause(ctx))
		}
	}
}

// A client that is still sending its body reads the answer all the same.
func TestLinger(t *testing.T) {
	client, server := pair(t)
	go func() {
		server.Linger(5 * time.Second)
		io.WriteString(server, "413\n")
		server.Close()
	}()
	if _, err := io.Copy(client, io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<23)), 1<<23)); err != nil {
		t.Fatalf("cannot send to the end: %v", err)
	}
	client.CloseWrite()
	got, err := io.ReadAll(client)
	if err != nil || string(got) != "413\n" {
		t.Fatalf("read %q, %v", got, err)
	}
}

// A client that does not read is given up; one that reads slowly is not.
func TestPatience(t *testing.T) {
	big := make([]byte, 16<<20)
	_, server := pair(t)
	began := time.Now()
	if _, err := server.Write(big); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote to a client that does not read: %v", err)
	}
	if took := time.Since(began); took < patience || took > 20*patience {
		t.Errorf("given up after %v", took)
	}

	client, server := pair(t)
	go func() {
		buf := make([]byte, 1<<20)
		for {
			if _, err := io.ReadFull(client, buf); err != nil {
				return
			}
			<-time.After(patience / 8)
		}
	}()
	if n, err := server.Write(big); err != nil || n != len(big) {
		t.Fatalf("wrote %d to a slow client: %v", n, err)
	}
}

func TestFrom(t *testing.T) {
	_, server := pair(t)
	if From(server) != server || From(wrapped{server}) != server {
		t.Error("not found")
	}
	if From(nil) != nil || From(server.Conn) != nil {
		t.Error("found where there is none")
	}
}

type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// A connection that is no socket is served unwatched.
func TestPipe(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	c := &Conn{Conn: a}
	w, err := newWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.release(listenerID)
	if err := w.add(c); err != nil {
		t.Fatal(err)
	}
	ctx, stop := Context(t.Context(), c)
	defer stop()
	if err := c.Close(); err != nil || ctx.Err() == nil {
		t.Fatalf("close: %v, context: %v", err, ctx.Err())
	}
}

func BenchmarkContext(b *testing.B) {
	_, server := pair(b)
	b.ReportAllocs()
	for b.Loop() {
		_, stop := Context(b.Context(), server)
		stop()
	}
}

// BenchmarkDeparture prints how late a departure is noticed.
func BenchmarkDeparture(b *testing.B) {
	ln := listen(b)
	defer ln.Close()
	var total time.Duration
	for b.Loop() {
		client, server := connect(b, ln)
		ctx, stop := Context(b.Context(), server)
		left := time.Now()
		client.Close()
		<-ctx.Done()
		total += time.Since(left)
		stop()
		server.Close()
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/departure")
}
