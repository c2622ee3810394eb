package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// readSize is the size of a connection's read buffer, and so the longest line
// of an answer's header.
const readSize = 16 << 10

// maxCut bounds what is kept of a stream that was cut.
const maxCut = 4 << 20

// conn is one connection with the buffers that live as long as it does. One
// goroutine at a time uses it, but for abort and cut.
type conn struct {
	nc   net.Conn
	sock net.Conn        // nc, or the TCP connection under TLS: closing it waits for nothing
	raw  syscall.RawConn // nil where the socket cannot be asked directly (TLS)
	br   *bufio.Reader   // reads through conn.Read
	out  []byte          // request head

	reused   bool // has served a request before this one
	answered bool // a byte of the current answer came
	since    time.Time
	wait     time.Duration // longest wait of one network read; 0 none
	idle     time.Duration // wait once the answer has begun
	until    time.Time     // if set, no read waits beyond it
	broken   bool          // the request could not be written to its end
	armed    bool          // a read deadline is set

	cause atomic.Pointer[error] // why abort closed the socket

	mu      sync.Mutex  // held by a network read and by cut
	isCut   atomic.Bool // no more waiting: only what the kernel holds is read
	drained bool        // rest was taken from the kernel and the socket closed
	rest    []byte
	restErr error
}

// acquire takes the connection that was used last, or dials.
func (c *Client) acquire(ctx context.Context, fresh bool) (*conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for !fresh {
		cn, err := c.pop()
		if err != nil {
			return nil, err
		}
		if cn == nil {
			break
		}
		if time.Since(cn.since) < c.o.MaxIdleConn && cn.alive() {
			cn.reused, cn.answered = true, false
			c.reused.Add(1)
			return cn, nil
		}
		c.drop(cn)
	}
	return c.dial(ctx)
}

func (c *Client) pop() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClientClosed
	}
	n := len(c.idle)
	if n == 0 {
		return nil, nil
	}
	cn := c.idle[n-1]
	c.idle[n-1] = nil
	c.idle = c.idle[:n-1]
	return cn, nil
}

func (c *Client) dial(ctx context.Context) (*conn, error) {
	if c.open.Add(1) > int64(c.o.MaxConns) {
		c.open.Add(-1)
		return nil, ErrTooManyConns
	}
	nc, err := c.dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		c.open.Add(-1)
		return nil, err
	}
	c.dials.Add(1)
	cn := &conn{nc: nc, sock: nc}
	if c.tls != nil {
		tc := tls.Client(nc, c.tls)
		if err := tc.HandshakeContext(ctx); err != nil {
			nc.Close()
			c.open.Add(-1)
			return nil, err
		}
		cn.nc = tc
	} else if sc, ok := nc.(syscall.Conn); ok {
		cn.raw, _ = sc.SyscallConn()
	}
	cn.br = bufio.NewReaderSize(cn, readSize)
	return cn, nil
}

// drop closes a connection for good.
func (c *Client) drop(cn *conn) {
	c.open.Add(-1)
	cn.sock.Close()
}

// release puts a connection back whose answer was read to its end.
func (c *Client) release(cn *conn) {
	cn.since = time.Now()
	if cn.armed {
		cn.nc.SetReadDeadline(time.Time{})
		cn.armed = false
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		c.drop(cn)
		return
	}
	c.idle = append(c.idle, cn)
	if len(c.idle) == 1 {
		if c.sweep == nil {
			c.sweep = time.AfterFunc(c.o.MaxIdleConn, c.closeExpired)
		} else {
			c.sweep.Reset(c.o.MaxIdleConn)
		}
	}
	c.mu.Unlock()
}

// closeExpired is what the sweep timer runs: no socket outlives MaxIdleConn by
// more than that, and no goroutine waits for it.
func (c *Client) closeExpired() {
	c.mu.Lock()
	n := 0
	for n < len(c.idle) && time.Since(c.idle[n].since) >= c.o.MaxIdleConn {
		n++
	}
	old := append([]*conn(nil), c.idle[:n]...)
	c.idle = append(c.idle[:0], c.idle[n:]...)
	clear(c.idle[len(c.idle) : len(c.idle)+n])
	if len(c.idle) > 0 && !c.closed {
		c.sweep.Reset(c.o.MaxIdleConn - time.Since(c.idle[0].since))
	}
	c.mu.Unlock()
	for _, cn := range old {
		c.drop(cn)
	}
}

// alive tells whether an idle connection is still open with nothing in it: a
// byte that nobody asked for makes it as useless as an end.
func (cn *conn) alive() bool {
	return cn.br.Buffered() == 0 && (cn.raw == nil || quiet(cn.raw))
}

// abort closes the socket because a context ended.
func (cn *conn) abort(cause error) {
	cn.cause.Store(&cause)
	cn.sock.Close()
}

// why replaces an error by the cause of the abort that led to it.
func (cn *conn) why(err error) error {
	if p := cn.cause.Load(); p != nil && err != io.EOF {
		return *p
	}
	return err
}

// Read reads from the network for the connection's buffer, waiting at most
// cn.wait; after a cut it waits no more.
func (cn *conn) Read(p []byte) (int, error) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	for !cn.isCut.Load() {
		if !cn.until.IsZero() {
			cn.nc.SetReadDeadline(cn.until)
			cn.armed = true
		} else if cn.wait > 0 {
			cn.nc.SetReadDeadline(time.Now().Add(cn.wait))
			cn.armed = true
		} else if cn.armed {
			cn.nc.SetReadDeadline(time.Time{})
			cn.armed = false
		}
		if cn.isCut.Load() { // came in between: its own deadline may have been overwritten
			break
		}
		n, err := cn.nc.Read(p)
		if n > 0 || err == nil {
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, cn.why(err)
		}
		if !cn.isCut.Load() {
			return 0, fmt.Errorf("%w (%s)", ErrStalled, cn.wait)
		}
	}
	cn.drain()
	if len(cn.rest) == 0 {
		return 0, cn.restErr
	}
	n := copy(p, cn.rest)
	cn.rest = cn.rest[n:]
	return n, nil
}

// longAgo is a deadline that ends a waiting read.
var longAgo = time.Unix(1, 0)

// cut closes the socket at once but keeps what the kernel had received.
func (cn *conn) cut() {
	if !cn.isCut.CompareAndSwap(false, true) {
		return
	}
	cn.nc.SetReadDeadline(longAgo)
	cn.mu.Lock()
	cn.drain()
	cn.mu.Unlock()
}

// drain is called with mu held.
func (cn *conn) drain() {
	if cn.drained {
		return
	}
	cn.drained = true
	cn.restErr = ErrCut
	if cn.raw != nil {
		cn.nc.SetReadDeadline(time.Time{})
		var eof bool
		if cn.rest, eof = received(cn.raw, maxCut); eof {
			cn.restErr = io.EOF
		}
	} else {
		cn.nc.SetReadDeadline(time.Now().Add(time.Millisecond))
		cn.rest, _ = io.ReadAll(io.LimitReader(cn.nc, maxCut))
	}
	cn.sock.Close()
}
