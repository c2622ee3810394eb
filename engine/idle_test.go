package engine

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"
)

func TestStall(t *testing.T) {
	f := func(name, begin string, o ClientOptions) {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, func(c *peerConn) { c.request(); c.write(begin); c.gone() })
			c := p.client(o)
			started := time.Now()
			_, err := c.JSON(t.Context(), "POST", "/", []byte("{}"))
			if d := time.Since(started); !errors.Is(err, ErrStalled) || d > 20*time.Millisecond+soon {
				t.Errorf("error %v after %s", err, d)
			}
			if s := c.Stats(); s.Open != 0 || s.Repeats != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	f("before the first byte", "", ClientOptions{FirstByte: 20 * time.Millisecond})
	f("inside the header", "HTTP/1.1 200", ClientOptions{Idle: 20 * time.Millisecond})
	f("before the body", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", ClientOptions{Idle: 20 * time.Millisecond})
	f("inside the body", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", ClientOptions{Idle: 20 * time.Millisecond})
}

// The limit holds from read to read, not for the whole stream, and not for the
// first byte.
func TestSlowStream(t *testing.T) {
	p := newPeer(t, func(c *peerConn) {
		c.request()
		time.Sleep(60 * time.Millisecond)
		c.write("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
		for range 8 {
			time.Sleep(10 * time.Millisecond)
			c.write("x")
		}
	})
	b, err := p.client(ClientOptions{Idle: 40 * time.Millisecond}).JSON(t.Context(), "GET", "/", nil)
	if err != nil || string(b) != "xxxxxxxx" {
		t.Errorf("%q, %v", b, err)
	}
}

// An idle connection that the server has closed is not used.
func TestClosedIdle(t *testing.T) {
	closed := make(chan struct{})
	p := newPeer(t, func(c *peerConn) {
		c.request()
		c.write(okJSON)
		if c.n == 1 {
			c.Close()
			close(closed)
			return
		}
		c.request()
	})
	c := p.client(ClientOptions{})
	for i := range 2 {
		a, err := c.Fetch(t.Context(), &Request{Path: "/", Body: []byte("{}")}, nil)
		if err != nil || a.Repeated {
			t.Fatalf("request %d: %+v, %v", i, a, err)
		}
		<-closed
		time.Sleep(5 * time.Millisecond) // loopback
	}
	if s := c.Stats(); s.Dials != 2 || s.Repeats != 0 || s.Open != 1 {
		t.Errorf("%+v", s)
	}
}

// A server that closes the idle connection just as the next request goes out:
// it is repeated once, on a fresh connection, and said so.
func TestRepeat(t *testing.T) {
	for name, end := range map[string]func(*peerConn){
		"closed": func(c *peerConn) { c.Close() },
		"reset":  func(c *peerConn) { c.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, func(c *peerConn) {
				for i := 0; ; i++ {
					if r, _ := c.request(); r == nil {
						return
					}
					if c.n == 1 && i == 1 {
						end(c)
						return
					}
					c.write(okJSON)
				}
			})
			c := p.client(ClientOptions{})
			for i, want := range []bool{false, true, false} {
				a, err := c.Fetch(t.Context(), &Request{Path: "/", Body: []byte("{}")}, nil)
				if err != nil || a.Repeated != want {
					t.Fatalf("request %d: %+v, %v", i, a, err)
				}
			}
			if s := c.Stats(); s.Dials != 2 || s.Repeats != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// It is repeated once only, and not when a byte of the answer came.
func TestNoSecondRepeat(t *testing.T) {
	f := func(text string, wantRepeats int64, wantErr error) {
		t.Helper()
		first := true
		p := newPeer(t, func(c *peerConn) {
			c.request()
			if first {
				first = false
				c.write(okJSON)
				c.request()
			}
			c.write(text)
			c.CloseWrite()
		})
		c := p.client(ClientOptions{})
		if _, err := c.JSON(t.Context(), "POST", "/", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		_, err := c.JSON(t.Context(), "POST", "/", []byte("{}"))
		if s := c.Stats(); !errors.Is(err, wantErr) || s.Repeats != wantRepeats {
			t.Errorf("%q: error %v, %+v", text, err, s)
		}
	}
	f("", 1, io.ErrUnexpectedEOF)
	f("HTTP/1.1 2", 0, io.ErrUnexpectedEOF)
}

func TestStrayBytes(t *testing.T) {
	sent := make(chan struct{}, 2)
	p := newPeer(t, func(c *peerConn) {
		c.request()
		c.write(okJSON)
		time.Sleep(2 * time.Millisecond)
		c.write("HTTP/1.1 408 Request Timeout\r\n\r\n")
		sent <- struct{}{}
		c.request()
	})
	c := p.client(ClientOptions{})
	for range 2 {
		if _, err := c.JSON(t.Context(), "GET", "/", nil); err != nil {
			t.Fatal(err)
		}
		<-sent
		time.Sleep(5 * time.Millisecond)
	}
	if s := c.Stats(); s.Dials != 2 {
		t.Errorf("%+v", s)
	}
}

func TestMaxIdleConn(t *testing.T) {
	gone := make(chan time.Duration, 2)
	p := newPeer(t, func(c *peerConn) { c.request(); c.write(okJSON); gone <- c.gone() })
	c := p.client(ClientOptions{MaxIdleConn: 30 * time.Millisecond})
	if _, err := c.JSON(t.Context(), "GET", "/", nil); err != nil {
		t.Fatal(err)
	}
	if d := <-gone; d < 25*time.Millisecond || d > 30*time.Millisecond+soon {
		t.Errorf("closed after %s", d)
	}
	if s := c.Stats(); s.Open != 0 {
		t.Errorf("%+v", s)
	}
}

func TestUnreachable(t *testing.T) {
	c, _ := NewClient("http://127.0.0.1:1", ClientOptions{})
	if _, err := c.JSON(t.Context(), "GET", "/", nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
}
