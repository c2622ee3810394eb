package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestNewClient(t *testing.T) {
	f := func(base, wantAddr, wantErr string) {
		t.Helper()
		c, err := NewClient(base, ClientOptions{})
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%s: error %v, want %q", base, err, wantErr)
			}
			return
		}
		if err != nil || c.addr != wantAddr {
			t.Errorf("%s: addr %q, error %v, want %q", base, c.addr, err, wantAddr)
		}
	}
	f("http://spark-1:8000", "spark-1:8000", "")
	f("http://spark-1:8000/", "spark-1:8000", "")
	f("http://[fd00::1]:8000/vllm", "[fd00::1]:8000", "")
	f("http://spark-1", "spark-1:80", "")
	f("https://api.example.com/v1", "api.example.com:443", "")
	f("spark-1:8000", "", "scheme")
	f("ftp://spark-1", "", "scheme")
	f("http://", "", "no host")
	f("http://user:secret@host", "", "credentials")
	f("http://host/?a=b", "", "query")
	if _, err := NewClient("http://host", ClientOptions{Header: [][2]string{{"X", "a\r\nEvil: b"}}}); err == nil {
		t.Error("a header value with a line end was accepted")
	}
}

func TestRequestOnTheWire(t *testing.T) {
	var got string
	p := newPeer(t, func(c *peerConn) {
		buf := make([]byte, 4096)
		n, _ := c.br.Read(buf)
		got = string(buf[:n])
		c.write(okJSON)
	})
	c, err := NewClient(p.url()+"/engine", ClientOptions{Header: [][2]string{{"Authorization", "Bearer k"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Fetch(t.Context(), &Request{Path: "/v1/x?a=b", Body: []byte(`{"a":1}`),
		Header: [][2]string{{"x-request-id", "r1"}, {"authorization", "Bearer of the client"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "POST /engine/v1/x?a=b HTTP/1.1\r\nHost: " + strings.TrimPrefix(p.url(), "http://") +
		"\r\nAuthorization: Bearer k\r\nx-request-id: r1\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
	if got != want {
		t.Errorf("request\n%q\nwant\n%q", got, want)
	}
}

func TestRefusedRequests(t *testing.T) {
	c, _ := NewClient("http://127.0.0.1:1", ClientOptions{})
	for _, r := range []Request{
		{Path: "v1"}, {Path: "/a b"}, {Path: "/a\r\nX: y"}, {Path: "/", Method: "GET /"},
		{Path: "/", Header: [][2]string{{"X-Id", "a\nb"}}},
		{Path: "/", Header: [][2]string{{"X Id", "a"}}},
		{Path: "/", Header: [][2]string{{"content-length", "3"}}},
		{Path: "/", Header: [][2]string{{"Transfer-Encoding", "chunked"}}},
	} {
		if _, err := c.Do(t.Context(), &r); err == nil || c.Stats().Dials != 0 {
			t.Errorf("request %+v was accepted", r)
		}
	}
}

func TestAnswers(t *testing.T) {
	f := func(text string, wantStatus int, wantBody string, wantReuse bool) {
		t.Helper()
		p := newPeer(t, func(c *peerConn) {
			for {
				if r, _ := c.request(); r == nil {
					return
				}
				c.write(text)
				if !wantReuse {
					return
				}
			}
		})
		c := p.client(ClientOptions{})
		for range 2 {
			resp, err := c.Do(t.Context(), &Request{Path: "/"})
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.Status != wantStatus || string(b) != wantBody {
				t.Errorf("%q: status %d, body %q, error %v", text, resp.Status, b, err)
			}
			resp.Body.Close()
		}
		if reuse := p.accepted() == 1; reuse != wantReuse {
			t.Errorf("%q: reused %v, want %v", text, reuse, wantReuse)
		}
	}
	f(okJSON, 200, "{}", true)
	f("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true)
	f("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, "", true)
	f("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"+okJSON, 200, "{}", true)
	f("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10;ext=1\r\n0123456789abcdef\r\n0\r\n\r\n", 200, "abc0123456789abcdef", true)
	f("HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n1\na\n0\nTrailer: x\n\n", 200, "a", true)
	f("HTTP/1.1 503 \r\nretry-after: 1\r\ncontent-length: 4\r\n\r\nbusy", 503, "busy", true)
	f("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}", 200, "{}", true)
	f("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n{}", 200, "{}", true)
	f("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", 200, "{}", false)
	f("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", 200, "{}", false)
	f("HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end", false)
	f("HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, "a", false)
}

func TestHeader(t *testing.T) {
	p := newPeer(t, answer("HTTP/1.1 200 OK\r\nB: 1\r\na:2 \r\nB:  3\r\ncontent-length: 0\r\n\r\n"))
	resp, err := p.client(ClientOptions{}).Do(t.Context(), &Request{Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []string
	for n, v := range resp.Header.All() {
		all = append(all, string(n)+"="+string(v))
	}
	if got := strings.Join(all, " "); got != "B=1 a=2 B=3 content-length=0" {
		t.Errorf("header %q", got)
	}
	if resp.Header.Get("A") != "2" || resp.Header.Get("b") != "1" || resp.Header.Get("c") != "" {
		t.Error("Get is wrong")
	}
}

func TestMalformedAnswers(t *testing.T) {
	long := strings.Repeat("x", readSize)
	for _, text := range []string{
		"SSH-2.0-OpenSSH_9.2\r\n",
		"HTTP/2 200 OK\r\n\r\n",
		"HTTP/1.1 20x OK\r\n\r\n",
		"HTTP/1.1 099 OK\r\n\r\n",
		"HTTP/1.1 2000 OK\r\n\r\n",
		"\x00\x01\x02\x03\x04\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
		"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
		"HTTP/1.1 200 OK\r\n: empty\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\na: " + long + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("a: "+long[:8000]+"\r\n", 9) + "\r\n",
		strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9) + okJSON,
	} {
		p := newPeer(t, answer(text))
		c := p.client(ClientOptions{})
		_, err := c.JSON(t.Context(), "POST", "/", []byte("{}"))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%.80q: error %v", text, err)
		}
		if s := c.Stats(); s.Open != 0 || s.Repeats != 0 {
			t.Errorf("%.80q: %+v", text, s)
		}
	}
}

// A body that breaks off is an error, however it breaks off.
func TestTruncated(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
		"HTTP/1.1 200 OK\r\ncontent-le",
		"HTTP/1.1 200 OK\r\n",
		"H",
		"",
	} {
		p := newPeer(t, func(c *peerConn) { c.request(); c.write(text) })
		c := p.client(ClientOptions{})
		_, err := c.JSON(t.Context(), "POST", "/", []byte("{}"))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: error %v", text, err)
		}
		if p.accepted() != 1 || c.Stats().Open != 0 {
			t.Errorf("%q: %d connections, %+v", text, p.accepted(), c.Stats())
		}
	}
}

func TestResetBeforeHeader(t *testing.T) {
	p := newPeer(t, func(c *peerConn) { c.request(); c.reset() })
	_, err := p.client(ClientOptions{}).JSON(t.Context(), "POST", "/", []byte("{}"))
	if !errors.Is(err, syscall.ECONNRESET) || p.accepted() != 1 {
		t.Errorf("error %v after %d connections: a first request must not be repeated", err, p.accepted())
	}
}

func TestResetAfterHeader(t *testing.T) {
	read := make(chan struct{})
	p := newPeer(t, func(c *peerConn) {
		c.request()
		c.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
		<-read
		c.reset()
	})
	resp, err := p.client(ClientOptions{}).Do(t.Context(), &Request{Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b [16]byte
	if n, err := resp.Body.Read(b[:]); string(b[:n]) != "abc" || err != nil {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	close(read)
	if _, err := resp.Body.Read(b[:]); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error %v", err)
	}
}

func TestRefused(t *testing.T) {
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	ln.Close()
	c, _ := NewClient("http://"+ln.Addr().String(), ClientOptions{})
	_, err := c.JSON(t.Context(), "GET", "/", nil)
	if !errors.Is(err, syscall.ECONNREFUSED) || c.Stats().Open != 0 {
		t.Errorf("error %v, %+v", err, c.Stats())
	}
}

func TestTooManyConns(t *testing.T) {
	p := newPeer(t, answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"))
	c := p.client(ClientOptions{MaxConns: 1})
	resp, err := c.Do(t.Context(), &Request{Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), &Request{Path: "/"}); !errors.Is(err, ErrTooManyConns) {
		t.Errorf("error %v", err)
	}
	resp.Body.Close()
	if resp, err = c.Do(t.Context(), &Request{Path: "/"}); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestClosedClient(t *testing.T) {
	p := newPeer(t, answer(okJSON))
	c := p.client(ClientOptions{})
	if _, err := c.JSON(t.Context(), "GET", "/", nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if s := c.Stats(); s.Open != 0 {
		t.Errorf("%+v", s)
	}
	if _, err := c.JSON(t.Context(), "GET", "/", nil); !errors.Is(err, ErrClientClosed) {
		t.Errorf("error %v", err)
	}
}

func TestStatusError(t *testing.T) {
	p := newPeer(t, answer("HTTP/1.1 400 Bad Request\r\nx-a: b\r\ncontent-length: 26\r\n\r\n{\"error\":{\"message\":\"no\"}}"))
	c := p.client(ClientOptions{})
	_, err := c.JSON(t.Context(), "POST", "/v1/x", []byte("{}"))
	var se *StatusError
	if !errors.As(err, &se) || se.Status != 400 || string(se.Body) != `{"error":{"message":"no"}}` || se.Header[0] != [2]string{"x-a", "b"} {
		t.Fatalf("error %#v", err)
	}
	if want := p.url() + "/v1/x answered 400: no"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if s := c.Stats(); s.Open != 1 {
		t.Errorf("the connection of an error answer was not kept: %+v", s)
	}
}

func TestAnswerTooLarge(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n0123456789a",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n",
	} {
		p := newPeer(t, answer(text))
		c := p.client(ClientOptions{MaxAnswer: 10})
		if _, err := c.JSON(t.Context(), "GET", "/", nil); !errors.Is(err, ErrAnswerTooLarge) {
			t.Errorf("error %v", err)
		}
	}
}

func TestFetchAppends(t *testing.T) {
	p := newPeer(t, answer(okJSON))
	c := p.client(ClientOptions{})
	for _, dst := range [][]byte{nil, []byte("ab"), make([]byte, 2, 100)} {
		a, err := c.Fetch(t.Context(), &Request{Path: "/"}, dst)
		if err != nil || string(a.Body) != string(dst)+"{}" {
			t.Errorf("body %q, %v", a.Body, err)
		}
	}
}

// echo answers with the request's body.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Write(b)
})

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(echo)
	defer s.Close()
	c, err := NewClient(s.URL, ClientOptions{TLS: s.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if b, err := c.JSON(t.Context(), "POST", "/", []byte("[1]")); err != nil || string(b) != "[1]" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if st := c.Stats(); st.Dials != 1 || st.Reused != 2 {
		t.Errorf("%+v", st)
	}
}

func TestLargeBodies(t *testing.T) {
	s := httptest.NewServer(echo)
	defer s.Close()
	c, _ := NewClient(s.URL, ClientOptions{})
	defer c.Close()
	for _, n := range []int{0, 1, inlineBody, inlineBody + 1, 3 << 20} {
		want := strings.Repeat("x", n)
		if b, err := c.JSON(t.Context(), "POST", "/", []byte(want)); err != nil || string(b) != want {
			t.Fatalf("%d bytes: %d back, %v", n, len(b), err)
		}
	}
}

// A server that answers and closes before it has read the request is heard.
func TestEarlyAnswer(t *testing.T) {
	p := newPeer(t, func(c *peerConn) {
		c.br.Peek(1)
		c.write("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
		c.CloseWrite()
		io.Copy(io.Discard, io.LimitReader(c.br, 1<<20)) // so that no RST overtakes the answer
	})
	_, err := p.client(ClientOptions{}).JSON(t.Context(), "POST", "/", make([]byte, 8<<20))
	var se *StatusError
	if !errors.As(err, &se) || se.Status != 413 {
		t.Errorf("error %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	s := httptest.NewServer(echo)
	defer s.Close()
	c, _ := NewClient(s.URL, ClientOptions{})
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				want := strings.Repeat("x", i*j)
				if b, err := c.JSON(ctx, "POST", "/", []byte(want)); err != nil || string(b) != want {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if st := c.Stats(); st.Dials > 16 || st.Open != st.Dials {
		t.Errorf("%+v", st)
	}
}
