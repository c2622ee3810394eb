package engine

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// canned is a connection that reads fixed bytes.
type canned struct {
	net.Conn
	r io.Reader
}

func (c canned) Read(p []byte) (int, error)      { return c.r.Read(p) }
func (c canned) Close() error                    { return nil }
func (c canned) SetReadDeadline(time.Time) error { return nil }

// parse reads an answer as a client does that has just sent a request.
func parse(r io.Reader) (*Response, []byte, error) {
	cn := &conn{nc: canned{r: r}, sock: canned{r: r}}
	cn.br = bufio.NewReaderSize(cn, readSize)
	resp := &Response{}
	if err := resp.read(cn, false); err != nil {
		return nil, nil, err
	}
	resp.Body, resp.body.conn = &resp.body, cn
	b, err := readAll(resp, nil, 1<<20)
	return resp, b, err
}

// FuzzAnswer compares with net/http wherever both take the answer.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		okJSON,
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10;ext=1\r\n0123456789abcdef\r\n0\r\na: b\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
	} {
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		if step <= 0 || step > 5000 {
			step = 1
		}
		resp, body, err := parse(&steps{data, step})
		again, whole, err2 := parse(bytes.NewReader(data))
		if (err == nil) != (err2 == nil) || !bytes.Equal(body, whole) {
			t.Fatalf("split reads change the answer: %q, %v; %q, %v", body, err, whole, err2)
		}
		if err != nil || again.Status == 304 {
			return
		}
		br := bufio.NewReader(bytes.NewReader(data))
		for range maxInterim {
			theirs, err := http.ReadResponse(br, nil)
			if err != nil {
				return
			}
			if theirs.StatusCode/100 == 1 {
				continue
			}
			want, err := io.ReadAll(theirs.Body)
			if err == nil && (theirs.StatusCode != resp.Status || !bytes.Equal(want, body)) {
				t.Fatalf("status %d, body %q; net/http: %d, %q", resp.Status, body, theirs.StatusCode, want)
			}
			return
		}
	})
}

// canServer answers every request on a connection with the same bytes and reads
// no more of a request than its length; it costs as little as a server can.
func canServer(b testing.TB, answer string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				br := bufio.NewReaderSize(nc, 64<<10)
				for {
					n := 0
					for {
						line, err := br.ReadSlice('\n')
						if err != nil {
							return
						}
						if len(line) <= 2 {
							break
						}
						if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
							for _, c := range bytes.TrimSpace(v) {
								n = n*10 + int(c-'0')
							}
						}
					}
					if _, err := br.Discard(n); err != nil {
						return
					}
					nc.Write([]byte(answer))
				}
			}()
		}
	}()
	return "http://" + ln.Addr().String()
}

func BenchmarkRoundTrip(b *testing.B) {
	c, _ := NewClient(canServer(b, okJSON), ClientOptions{})
	defer c.Close()
	body := bytes.Repeat([]byte("12345,"), 1000)
	r := &Request{Path: "/v1/completions", Body: body, Header: [][2]string{{"x-request-id", "0123456789"}}}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		a, err := c.Fetch(b.Context(), r, dst[:0])
		if err != nil {
			b.Fatal(err)
		}
		dst = a.Body
	}
}

// BenchmarkNetHTTP is what the same round trip costs with the standard client.
func BenchmarkNetHTTP(b *testing.B) {
	url := canServer(b, okJSON)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	body := bytes.Repeat([]byte("12345,"), 1000)
	b.ReportAllocs()
	for b.Loop() {
		req, _ := http.NewRequestWithContext(b.Context(), "POST", url+"/v1/completions", bytes.NewReader(body))
		resp, err := tr.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		io.ReadAll(resp.Body)
		resp.Body.Close()
	}
}

func TestRoundTripAllocates(t *testing.T) {
	c, _ := NewClient(canServer(t, okJSON), ClientOptions{})
	defer c.Close()
	r := &Request{Path: "/v1/completions", Body: []byte("{}")}
	var dst []byte
	n := testing.AllocsPerRun(200, func() {
		a, err := c.Fetch(t.Context(), r, dst[:0])
		if err != nil {
			t.Fatal(err)
		}
		dst = a.Body
	})
	// The Response, and what context.AfterFunc makes; one or two more with -race.
	if n > 9 {
		t.Errorf("%v allocations a round trip", n)
	}
}
