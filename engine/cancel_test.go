package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// soon is how fast the server has to see that a request was cancelled: at once,
// but tests share their machine.
const soon = 250 * time.Millisecond

// Cancelling closes the server's socket at once, whatever the request waits for.
func TestCancel(t *testing.T) {
	f := func(name string, begin string, readSome bool) {
		t.Run(name, func(t *testing.T) {
			got := make(chan time.Duration, 1)
			ready := make(chan struct{})
			p := newPeer(t, func(c *peerConn) {
				c.request()
				c.write(begin)
				close(ready)
				got <- c.gone()
			})
			c := p.client(ClientOptions{})
			why := errors.New("the client left")
			ctx, cancel := context.WithCancelCause(t.Context())
			cancelled := make(chan time.Time, 1)
			go func() {
				<-ready
				time.AfterFunc(5*time.Millisecond, func() {
					cancelled <- time.Now()
					cancel(why)
				})
			}()
			resp, err := c.Do(ctx, &Request{Path: "/", Body: []byte("{}")})
			if readSome {
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if !errors.Is(err, why) {
				t.Errorf("error %v", err)
			}
			if d := time.Since(<-cancelled); d > soon {
				t.Errorf("the caller was told after %s", d)
			}
			if d := <-got; d > soon {
				t.Errorf("the server was told after %s", d)
			}
			if s := c.Stats(); s.Open != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	f("before the header", "", false)
	f("inside the header", "HTTP/1.1 200 OK\r\nconte", false)
	f("before the body", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true)
	f("inside the body", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", true)
	f("inside a chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n30\r\nabc\r\n", true)
}

func TestCancelWhileWriting(t *testing.T) {
	p := newPeer(t, func(c *peerConn) { c.br.Peek(1); time.Sleep(time.Second) }) // reads nothing: the socket fills
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := p.client(ClientOptions{}).JSON(ctx, "POST", "/", make([]byte, 32<<20))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 50*time.Millisecond+soon {
		t.Errorf("error %v after %s", err, time.Since(begin))
	}
}

func TestCancelWhileDialing(t *testing.T) {
	c, _ := NewClient("http://192.0.2.1:9", ClientOptions{DialTimeout: 10 * time.Second}) // TEST-NET-1 goes nowhere
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := c.JSON(ctx, "GET", "/", nil)
	if err == nil || time.Since(begin) > 30*time.Millisecond+soon {
		t.Errorf("error %v after %s", err, time.Since(begin))
	}
}

func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := newPeer(t, answer(okJSON))
	if _, err := p.client(ClientOptions{}).JSON(ctx, "GET", "/", nil); !errors.Is(err, context.Canceled) || p.accepted() != 0 {
		t.Errorf("error %v, %d connections", err, p.accepted())
	}
}

// A context that ends after the answer was read must not touch the connection.
func TestCancelAfterwards(t *testing.T) {
	p := newPeer(t, answer(okJSON))
	c := p.client(ClientOptions{})
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.JSON(ctx, "GET", "/", nil); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if p.accepted() != 1 {
		t.Errorf("%d connections", p.accepted())
	}
}

// Closing a body that was not read to its end closes the connection, also
// while another goroutine reads.
func TestCloseBeforeEnd(t *testing.T) {
	got := make(chan time.Duration, 1)
	p := newPeer(t, func(c *peerConn) {
		c.request()
		c.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
		got <- c.gone()
	})
	c := p.client(ClientOptions{})
	resp, err := c.Do(t.Context(), &Request{Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := io.ReadAll(resp.Body)
		done <- err
	}()
	time.Sleep(5 * time.Millisecond)
	resp.Body.Close()
	resp.Body.Close()
	if err := <-done; err == nil {
		t.Error("the reader was told nothing")
	}
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v", err)
	}
	if <-got; c.Stats().Open != 0 {
		t.Errorf("%+v", c.Stats())
	}
}

// Cut keeps what had arrived, tells the server at once and waits for nothing.
func TestCut(t *testing.T) {
	f := func(name string, more, want string, wantErr error, blocked bool) {
		t.Run(name, func(t *testing.T) {
			got := make(chan time.Duration, 1)
			sent := make(chan struct{})
			p := newPeer(t, func(c *peerConn) {
				c.request()
				c.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
				<-sent
				c.write(more)
				sent <- struct{}{}
				got <- c.gone()
			})
			c := p.client(ClientOptions{})
			resp, err := c.Do(t.Context(), &Request{Path: "/"})
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 100)
			n, _ := resp.Body.Read(first)
			if string(first[:n]) != "abc" {
				t.Fatalf("read %q", first[:n])
			}
			type result struct {
				text string
				err  error
			}
			read := make(chan result, 1)
			rest := func() { b, err := io.ReadAll(resp.Body); read <- result{string(b), err} }
			if blocked {
				go rest()
				time.Sleep(5 * time.Millisecond)
			}
			sent <- struct{}{}
			<-sent
			time.Sleep(5 * time.Millisecond) // loopback
			resp.Cut()
			resp.Cut()
			if d := <-got; d > soon {
				t.Errorf("the server was told after %s", d)
			}
			if !blocked {
				go rest()
			}
			if r := <-read; r.text != want || !errors.Is(r.err, wantErr) {
				t.Errorf("read %q, %v; want %q, %v", r.text, r.err, want, wantErr)
			}
			resp.Body.Close()
			resp.Cut()
			if s := c.Stats(); s.Open != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	for _, blocked := range []bool{false, true} {
		f("nothing more", "", "", ErrCut, blocked)
		f("whole chunks", "3\r\ndef\r\n2\r\ngh\r\n", "defgh", ErrCut, blocked)
		f("half a chunk", "9\r\ndef", "def", ErrCut, blocked)
		f("the end", "3\r\ndef\r\n0\r\n\r\n", "def", nil, blocked)
	}
}

func TestCutAndCloseRace(t *testing.T) {
	p := newPeer(t, answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde"))
	c := p.client(ClientOptions{})
	for range 200 {
		resp, err := c.Do(t.Context(), &Request{Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { resp.Cut(); close(done) }()
		io.ReadAll(resp.Body)
		resp.Body.Close()
		<-done
	}
	if s := c.Stats(); s.Open > 1 {
		t.Errorf("%+v", s)
	}
}

// Discard waits for an end that is on its way, and not for one that is not.
func TestDiscard(t *testing.T) {
	f := func(delay time.Duration, end string, wantOpen int64) {
		t.Helper()
		p := newPeer(t, func(c *peerConn) {
			c.request()
			c.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
			time.Sleep(delay)
			c.write(end)
			c.request()
		})
		c := p.client(ClientOptions{})
		resp, err := c.Do(t.Context(), &Request{Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Read(make([]byte, 100))
		begin := time.Now()
		resp.Discard(20 * time.Millisecond)
		if d := time.Since(begin); d > 20*time.Millisecond+soon {
			t.Errorf("took %s", d)
		}
		if s := c.Stats(); s.Open != wantOpen {
			t.Errorf("after %s: %+v", delay, s)
		}
	}
	f(0, "0\r\n\r\n", 1)
	f(5*time.Millisecond, "2\r\nde\r\n0\r\n\r\n", 1)
	f(300*time.Millisecond, "0\r\n\r\n", 0)
}
