package simulate

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"paceline/simulate/batch"
)

// slow is a profile whose steps take so long.
func slow(step time.Duration) batch.Profile {
	return batch.Profile{Name: "slow", Token: step, Prefill: 1e6, Flat: 1 << 20, Block: 16}
}

// eventually waits for something to become true.
func eventually(t testing.TB, within time.Duration, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(time.Millisecond)
	}
}

// dial sends a request over a connection of its own.
func dial(t testing.TB, s *Server, path, body string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	return conn
}

// TestDisconnect: a client that leaves ends its sequences, whatever it asked
// for and whether or not anything was written to it.
func TestDisconnect(t *testing.T) {
	s := start(t, Options{Profile: slow(20 * time.Millisecond)})
	long := `"max_tokens":1000,"ignore_eos":true,"temperature":0}`
	f := func(name, path, body string, sequences int64) {
		t.Run(name, func(t *testing.T) {
			before := s.Stats()
			conn := dial(t, s, path, body)
			eventually(t, 5*time.Second, "all run", func() bool { return s.Stats().Running == sequences })
			conn.Close()
			begin := time.Now()
			eventually(t, 5*time.Second, "aborted", func() bool { return s.Stats().Aborted-before.Aborted == sequences })
			took := time.Since(begin)
			eventually(t, 5*time.Second, "gone", func() bool { return s.Stats().Running == 0 })
			if took > 100*time.Millisecond {
				t.Errorf("aborted after %v", took)
			}
			t.Logf("aborted after %v", took)
		})
	}
	f("stream", "/v1/completions", `{"prompt":"Hello","stream":true,`+long, 1)
	f("not streamed", "/v1/completions", `{"prompt":"Hello",`+long, 1)
	f("list", "/v1/completions", `{"prompt":["Hello","You","There"],`+long, 3)
	f("chat", "/v1/chat/completions", `{"messages":[{"role":"user","content":"Hello"}],"stream":true,`+long, 1)
	f("chat not streamed", "/v1/chat/completions", `{"messages":[{"role":"user","content":"Hello"}],`+long, 1)
	f("generate", scorePath, `{"token_ids":[5],"sampling_params":{`+long+`}`, 1)
	f("n", "/v1/completions", `{"prompt":"Hello","n":4,"max_tokens":1000,"ignore_eos":true,"temperature":1}`, 4)
}

// TestKeepAlive: a connection serves one request after the other, watched or
// streamed, and is closed when it was idle for long.
func TestKeepAlive(t *testing.T) {
	s := start(t, Options{KeepAlive: 300 * time.Millisecond})
	body := `{"prompt":"Hello","stream":%v,"max_tokens":3,"temperature":0}`
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for i := range 6 {
		b := fmt.Sprintf(body, i%2 == 0)
		fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		if _, text := readAnswer(t, r); !strings.Contains(text, "cmpl-") {
			t.Fatalf("answer %d: %s", i, text)
		}
	}
	begin := time.Now()
	if _, err := r.ReadByte(); err == nil {
		t.Error("a byte that nobody asked for")
	}
	if idle := time.Since(begin); idle < 200*time.Millisecond || idle > 3*time.Second {
		t.Errorf("closed after %v of idleness, want .3 s", idle)
	}
}

// TestRunAhead: the engine does not wait for its reader, and what it wrote is
// in the prefix cache while it runs and after it was cut: the hit of the next
// call is deeper than what the client has read.
func TestRunAhead(t *testing.T) {
	s := start(t, Options{BlockSize: 16})
	prompt := longPrompt(40)
	conn := dial(t, s, "/v1/completions", `{"prompt":[`+list(prompt)+`],"stream":true,"max_tokens":1500,"ignore_eos":true,"temperature":0,"return_token_ids":true}`)
	r := bufio.NewReader(conn)
	var read []int
	for len(read) < 1 {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "data:") {
			read = append(read, 1)
		}
	}
	eventually(t, 10*time.Second, "200 tokens", func() bool { return s.Stats().GeneratedTokens > 200 })
	conn.Close()
	eventually(t, 5*time.Second, "aborted", func() bool { return s.Stats().Aborted == 1 })
	status, text := post(t, s, "/v1/completions", `{"prompt":[`+list(prompt)+`],"max_tokens":200,"ignore_eos":true,"temperature":0,"return_token_ids":true}`)
	a := decode[answer](t, status, text)
	whole := slices.Concat(prompt, a.Choices[0].TokenIDs)
	status, text = post(t, s, "/v1/completions", `{"prompt":[`+list(whole)+`],"max_tokens":1,"temperature":0}`)
	b := decode[answer](t, status, text)
	if b.cached() < len(whole)-16 {
		t.Errorf("%d of %d tokens are cached", b.cached(), len(whole))
	}
}
