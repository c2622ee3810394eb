package simulate

import (
	"net"
	"sync"
)

// gate is a listener that can be shut and opened again, as if the server had
// gone and come back, and that knows its open connections.
type gate struct {
	addr net.Addr

	mu     sync.Mutex
	open   *sync.Cond
	inner  net.Listener // nil while shut
	closed bool
	conns  map[*gateConn]struct{}
}

func newGate(addr string) (*gate, error) {
	inner, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	g := &gate{addr: inner.Addr(), inner: inner, conns: map[*gateConn]struct{}{}}
	g.open = sync.NewCond(&g.mu)
	return g, nil
}

// Accept implements net.Listener. While the gate is shut it waits.
func (g *gate) Accept() (net.Conn, error) {
	for {
		g.mu.Lock()
		for g.inner == nil && !g.closed {
			g.open.Wait()
		}
		inner := g.inner
		if g.closed {
			g.mu.Unlock()
			return nil, net.ErrClosed
		}
		g.mu.Unlock()
		conn, err := inner.Accept()
		g.mu.Lock()
		switch {
		case err == nil && !g.closed && g.inner == inner:
			c := &gateConn{Conn: conn, g: g}
			g.conns[c] = struct{}{}
			g.mu.Unlock()
			return c, nil
		case err == nil: // shut in the meantime
			_ = conn.Close()
		case !g.closed && g.inner == inner:
			g.mu.Unlock()
			return nil, err
		}
		g.mu.Unlock()
	}
}

// Close implements net.Listener.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open.Broadcast()
	if g.closed || g.inner == nil {
		g.closed = true
		return nil
	}
	g.closed = true
	return g.inner.Close()
}

// Addr implements net.Listener.
func (g *gate) Addr() net.Addr { return g.addr }

// shut refuses connections from now on, or again accepts them at the same
// address.
func (g *gate) shut(refuse bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed || refuse == (g.inner == nil):
		return nil
	case refuse:
		inner := g.inner
		g.inner = nil
		return inner.Close()
	}
	inner, err := net.Listen("tcp", g.addr.String())
	if err != nil {
		return err
	}
	g.inner = inner
	g.open.Broadcast()
	return nil
}

// sever resets all open connections.
func (g *gate) sever() {
	g.mu.Lock()
	conns := make([]*gateConn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
}

// gateConn is an accepted connection.
type gateConn struct {
	net.Conn
	g    *gate
	once sync.Once
}

// Close implements net.Conn.
func (c *gateConn) Close() error {
	c.once.Do(func() {
		c.g.mu.Lock()
		delete(c.g.conns, c)
		c.g.mu.Unlock()
	})
	return c.Conn.Close()
}

// reset closes the connection without a goodbye.
func (c *gateConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// count is the number of open connections.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}
