package proxy

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	"paceline/engine"
	"paceline/proxy/plan"
)

const postChat = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "

var rawRequests = []string{
	"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /v1/models HTTP/1.0\r\n\r\n",
	"HEAD /v1/models/target HTTP/1.1\r\nHost: x\r\n\r\n",
	postChat + "62\r\n\r\n" + `{"model":"target","messages":[{"role":"user","content":"hi"}]} `,
	postChat + "77\r\nX-Paceline-Speculation: 3\r\n\r\n" + `{"model":"target","messages":[{"role":"user","content":"hi"}],"stream":true  }`,
	postChat + "3\r\nX-Paceline-Speculation: x\r\n\r\n{}}",
	postChat + "-1\r\n\r\n", postChat + "99999999999\r\n\r\n", postChat + "1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"prompt\":[1,2]}\r\n0\r\n\r\n",
	"GET http://other/v1/x?a=b HTTP/1.1\r\nHost: x\r\nConnection: X-Y, close\r\nX-Y: z\r\n\r\n",
	"POST /v1/a b HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/%zz%00 HTTP/1.1\r\nHost: x\r\nX-Request-Id: \x01\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02", "GET / HTTP/1.1\r\n: y\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n", "OPTIONS /v1/x HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
}

// FuzzServer: whatever bytes a client sends, what comes back is HTTP, every
// refusal is the envelope, and nothing panics.
func FuzzServer(f *testing.F) {
	for _, seed := range rawRequests {
		f.Add(seed)
	}
	up := newUpstream(f)
	client, err := engine.NewClient("http://"+up.addr, engine.ClientOptions{})
	if err != nil {
		f.Fatal(err)
	}
	defer client.Close()
	target := newScript("a", "b")
	logs := &lines{}
	s, err := New(Options{MaxBody: 1 << 16, ReadTimeout: time.Second}, []Pair{{
		Name: "target", Target: target, Client: client, Drafts: []Draft{{Name: "d", Drafter: target}}, Policy: plan.Policy{Rounds: true},
	}}, slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		f.Fatal(err)
	}
	ln := fasthttputil.NewInmemoryListener()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	defer func() {
		if err := s.Shutdown(f.Context()); err != nil {
			f.Error(err)
		}
		<-served
	}()
	f.Fuzz(func(t *testing.T, sent string) {
		if len(sent) > 1<<15 {
			return
		}
		conn, err := ln.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		go io.WriteString(conn, sent+"\r\n\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: sent[:max(0, strings.IndexByte(sent, ' '))]})
		if err != nil {
			return // the connection was closed: also an answer to what is no HTTP
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode >= 400 && resp.Header.Get("X-Paceline-Mode") != "pass-through" && err == nil && len(body) > 0 {
			var told struct {
				Error struct{ Message, Src string }
			}
			if json.Unmarshal(body, &told) != nil || told.Error.Message == "" || told.Error.Src == "" {
				t.Errorf("%d %q", resp.StatusCode, body)
			}
		}
		if log := logs.String(); log != "" {
			t.Fatalf("%q: %s", sent, log)
		}
	})
}
