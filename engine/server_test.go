package engine

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a server on a raw listener: it does on the socket whatever a test
// says, so it can fail as real servers do.
type peer struct {
	t      *testing.T
	ln     net.Listener
	handle func(p *peerConn)

	mu    sync.Mutex
	conns int
	wg    sync.WaitGroup
}

// peerConn is one accepted connection.
type peerConn struct {
	*net.TCPConn
	br *bufio.Reader
	n  int // 1 for the first connection of the peer
}

// newPeer serves every connection with handle, which owns it; the connection
// is closed when handle returns.
func newPeer(t *testing.T, handle func(p *peerConn)) *peer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, ln: ln, handle: handle}
	p.wg.Add(1)
	go p.serve()
	t.Cleanup(func() {
		ln.Close()
		p.wg.Wait()
	})
	return p
}

func (p *peer) serve() {
	defer p.wg.Done()
	for {
		nc, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns++
		n := p.conns
		p.mu.Unlock()
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(20 * time.Second))
			p.handle(&peerConn{TCPConn: nc.(*net.TCPConn), br: bufio.NewReader(nc), n: n})
		}()
	}
}

func (p *peer) url() string { return "http://" + p.ln.Addr().String() }

func (p *peer) accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

func (p *peer) client(o ClientOptions) *Client {
	p.t.Helper()
	c, err := NewClient(p.url(), o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// request reads one request whole; nil at the connection's end.
func (c *peerConn) request() (*http.Request, string) {
	r, err := http.ReadRequest(c.br)
	if err != nil {
		return nil, ""
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, ""
	}
	return r, string(b)
}

func (c *peerConn) write(s ...string) {
	io.WriteString(c.TCPConn, strings.Join(s, ""))
}

// reset closes the connection with RST, as a crashed process's host does.
func (c *peerConn) reset() {
	c.SetLinger(0)
	c.Close()
}

// gone waits until the other side has closed and returns how long that took.
func (c *peerConn) gone() time.Duration {
	begin := time.Now()
	var b [1]byte
	c.br.Read(b[:])
	return time.Since(begin)
}

const okJSON = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

// answer serves requests with one text until the connection ends.
func answer(text string) func(*peerConn) {
	return func(c *peerConn) {
		for {
			if r, _ := c.request(); r == nil {
				return
			}
			c.write(text)
		}
	}
}
