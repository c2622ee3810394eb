// Package depart notices that a client has gone while its request is being
// worked on. A server that only writes learns of it at the second or third
// write, which for a language model is seconds of an engine's time; here the
// kernel says so in well under a millisecond.
//
// Listen wraps a listener. Every connection that it accepts is registered once
// in one epoll set (Linux); no byte is consumed, nothing is started per
// request, and one goroutine, parked in Go's own poller, serves all
// connections. On other systems connections are not watched: a departure is
// noticed when a write fails, as everywhere else.
//
// Duties of a caller, in order: serve on the wrapped listener, with no other
// wrapper between it and the server that hides *Conn (fasthttp's MaxConnsPerIP
// is one); call Context for a request and its stop function when the response
// is written; close every connection. The watch ends by itself with the
// listener and its last connection.
//
// A client that closes only its sending side counts as gone, as it does for
// net/http.
package depart

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrGone is the cause of a context that a departing client cancelled.
var ErrGone = errors.New("the client has gone")

// Half-open peers (a pulled cable, a sleeping laptop) say nothing: keep-alive
// probes turn them into an error after idle + count × interval, 30 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Listener accepts watched connections.
type Listener struct {
	net.Listener
	patience time.Duration
	watch    *watch // nil where there is none
}

// Listen wraps ln, which it owns from now on. A client that takes nothing for
// patience while it is written to counts as gone: the write fails. 0: no limit.
// The limit is on each write, never on an answer.
func Listen(ln net.Listener, patience time.Duration) (*Listener, error) {
	w, err := newWatch()
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: ln, patience: patience, watch: w}, nil
}

// Accept returns the next connection, a *Conn. When the process has run out of
// descriptors it waits for some to be closed: an error would end the server.
func (l *Listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	for wait := 5 * time.Millisecond; outOfDescriptors(err); wait = min(2*wait, time.Second) {
		time.Sleep(wait)
		nc, err = l.Listener.Accept()
	}
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: nc, patience: l.patience}
	// Both are best effort: without them a departure is noticed later.
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetKeepAliveConfig(keepAlive)
	}
	_ = l.watch.add(c)
	return c, nil
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// Close stops accepting. Connections stay watched until they are closed.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.watch.release(listenerID)
	return err
}

// Conn is a connection from a client. Its methods may be called from any
// goroutine.
type Conn struct {
	net.Conn
	patience time.Duration
	watch    *watch
	id       uint64 // key in watch, never reused

	mu     sync.Mutex
	gone   bool
	cancel context.CancelCauseFunc // of the request in progress, nil between requests
	linger time.Duration
	closed bool
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Write writes all of p or fails when the client takes nothing for too long.
func (c *Conn) Write(p []byte) (int, error) {
	if c.patience == 0 {
		return c.Conn.Write(p)
	}
	written := 0
	for {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
	}
}

// Gone tells whether the client has closed its end.
func (c *Conn) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// Linger makes Close let the client finish sending for at most d, so that it
// reads the answer already written instead of a reset. It is for answers to a
// request whose body was not read to its end.
func (c *Conn) Linger(d time.Duration) {
	c.mu.Lock()
	c.linger = d
	c.mu.Unlock()
}

// Close closes the connection and cancels the request in progress.
func (c *Conn) Close() error {
	c.mu.Lock()
	first, linger := !c.closed, c.linger
	c.closed = true
	c.mu.Unlock()
	if first && linger > 0 {
		c.drain(linger)
	}
	err := c.Conn.Close()
	if first {
		c.watch.release(c.id) // the kernel drops a closed descriptor from the set
		c.depart()
	}
	return err
}

func (c *Conn) drain(d time.Duration) {
	tc, ok := c.Conn.(*net.TCPConn)
	if !ok || tc.CloseWrite() != nil || tc.SetReadDeadline(time.Now().Add(d)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, tc) // ends with the client or the deadline
}

// depart marks the client as gone and cancels the request in progress.
func (c *Conn) depart() {
	c.mu.Lock()
	c.gone = true
	cancel := c.cancel
	c.cancel = nil
	c.mu.Unlock()
	if cancel != nil {
		cancel(ErrGone)
	}
}

func (c *Conn) begin(cancel context.CancelCauseFunc) {
	c.mu.Lock()
	gone := c.gone
	if !gone {
		c.cancel = cancel
	}
	c.mu.Unlock()
	if gone {
		cancel(ErrGone)
	}
}

func (c *Conn) end() {
	c.mu.Lock()
	c.cancel = nil
	c.mu.Unlock()
}

// From returns the watched connection at or below c, nil if there is none.
func From(c net.Conn) *Conn {
	for c != nil {
		switch t := c.(type) {
		case *Conn:
			return t
		case *tls.Conn:
			c = t.NetConn()
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// Context returns a context that is cancelled with cause ErrGone when the
// client of c goes, at once if it already has. One request at a time may be
// watched on a connection. The caller calls stop when the response is done.
func Context(parent context.Context, c net.Conn) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	w := From(c)
	if w == nil {
		return ctx, func() { cancel(nil) }
	}
	w.begin(cancel)
	return ctx, func() {
		w.end()
		cancel(nil)
	}
}
