package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"paceline/engine"
	"paceline/proxy/plan"
	"paceline/speculate"
)

// What a request costs that only passes through: a chat completion of about
// 400 bytes each way, over keep-alive connections, straight to an upstream and
// through the proxy, everything in this process.
//
//	go test ./proxy -run xxx -bench PassThrough -benchtime 20000x
//
// Latency is taken at 300 requests a second, throughput with 64 connections.
func BenchmarkPassThrough(b *testing.B) {
	up := fastUpstream(b)
	through := benchServer(b, up, nil)
	request := func(path, body string) []byte {
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	chat := request("/v1/chat/completions", `{"model":"target","messages":[{"role":"system","content":"You are a helpful assistant that answers in short sentences."},{"role":"user","content":"What is the capital of France, and how many people live there?"}],"temperature":0.2,"max_tokens":64,"stream":false,"user":"someone","top_p":0.9}`)
	other := request("/v1/embeddings", `{"model":"target","input":"What is the capital of France, and how many people live there?"}`)
	for _, c := range []struct {
		name    string
		request []byte
	}{{"chat", chat}, {"other", other}} {
		b.Run("latency/"+c.name, func(b *testing.B) {
			var direct, proxied []time.Duration
			for b.Loop() { // in turns, so that both meet the same machine
				direct = append(direct, paced(b, up, c.request, 300, 300)...)
				proxied = append(proxied, paced(b, through, c.request, 300, 300)...)
			}
			slices.Sort(direct)
			slices.Sort(proxied)
			for _, p := range []int{50, 99} {
				d, v := direct[len(direct)*p/100], proxied[len(proxied)*p/100]
				b.ReportMetric(float64(d.Nanoseconds())/1e3, "direct-p"+strconv.Itoa(p)+"-µs")
				b.ReportMetric(float64((v-d).Nanoseconds())/1e3, "added-p"+strconv.Itoa(p)+"-µs")
			}
		})
		for _, to := range []struct{ name, addr string }{{"direct", up}, {"proxied", through}} {
			b.Run("throughput/"+c.name+"/"+to.name, func(b *testing.B) {
				used := cpuTime()
				flood(b, to.addr, c.request, 64, b.N)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
				b.ReportMetric(float64((cpuTime()-used).Microseconds())/float64(b.N), "cpu-µs/req") // client and upstream included
			})
		}
	}
}

// What the proxy itself costs a round: a streamed chat whose target answers at
// once, so that all that is left is the loop, the event and its flush. The
// figure includes the client's reading.
//
//	go test ./proxy -run xxx -bench Rounds
func BenchmarkRounds(b *testing.B) {
	const tokens, k = 400, 4
	long := make([]string, tokens)
	for i := range long {
		long[i] = " word"
	}
	for _, mode := range []struct {
		name string
		k    string
	}{{"rounds", strconv.Itoa(k)}, {"plain", "0"}} {
		b.Run(mode.name, func(b *testing.B) {
			target := newScript(long...)
			target.holdAt, target.hold = 1, time.Second
			if mode.k == "0" {
				target.hold = 0
			}
			addr := benchServer(b, "127.0.0.1:1", target)
			body := `{"model":"target",` + hello + `,"stream":true}`
			request := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Paceline-Speculation: %s\r\nContent-Length: %d\r\n\r\n%s", mode.k, len(body), body)
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 64<<10)
			used, events := cpuTime(), 0
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						b.Fatal(err)
					}
					if bytes.HasPrefix(line, []byte("data: ")) {
						events++
					}
					if string(line) == "0\r\n" {
						break
					}
				}
				r.ReadSlice('\n')
			}
			b.ReportMetric(float64((cpuTime()-used).Nanoseconds())/float64(events)/1e3, "cpu-µs/event")
			b.ReportMetric(float64(events)/float64(b.N), "events/answer")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchServer serves a pair; nil: without a draft.
func benchServer(b *testing.B, upstream string, target *script) string {
	b.Helper()
	client, err := engine.NewClient("http://"+upstream, engine.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	p := Pair{Name: "target", Target: target, Client: client, Policy: plan.Policy{Rounds: true}}
	if target == nil {
		p.Target = newScript("a")
	} else {
		p.Drafts = []Draft{{Name: "d", Drafter: target}}
		p.Controller = func() speculate.Controller { return speculate.NewFixed(4, true) }
	}
	s, err := New(Options{}, []Pair{p}, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(ln)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			b.Error(err)
		}
		client.Close()
	})
	return ln.Addr().String()
}

// fastUpstream answers everything at once.
func fastUpstream(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"` +
		"The capital of France is Paris, and about two million people live there." + `"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":36,"completion_tokens":18,"total_tokens":54}}`)
	s := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(fc *fasthttp.RequestCtx) {
		fc.SetContentType("application/json")
		fc.Response.SetBodyRaw(body)
	}}
	go s.Serve(ln)
	b.Cleanup(func() { s.Shutdown() })
	return ln.Addr().String()
}

// benchConn is a keep-alive connection of a client.
type benchConn struct {
	net.Conn
	r *bufio.Reader
}

func dialBench(b *testing.B, addr string) *benchConn {
	b.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	return &benchConn{c, bufio.NewReader(c)}
}

var contentLength = []byte("Content-Length: ")

func (c *benchConn) roundTrip(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length := -1
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, contentLength) {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):])))
		}
		if len(line) == 2 {
			break
		}
	}
	if length <= 0 {
		return fmt.Errorf("no length")
	}
	_, err := c.r.Discard(length)
	return err
}

// paced sends n requests at a rate and returns how long each took.
func paced(b *testing.B, addr string, request []byte, rate, n int) []time.Duration {
	c := dialBench(b, addr)
	defer c.Close()
	took := make([]time.Duration, 0, n)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for range n {
		<-tick.C
		began := time.Now()
		if err := c.roundTrip(request); err != nil {
			b.Error(err)
			return took
		}
		took = append(took, time.Since(began))
	}
	return took
}

// flood sends n requests as fast as the connections take them.
func flood(b *testing.B, addr string, request []byte, conns, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var wait sync.WaitGroup
	for range conns {
		c := dialBench(b, addr)
		wait.Go(func() {
			defer c.Close()
			for left.Add(-1) >= 0 {
				if err := c.roundTrip(request); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}
