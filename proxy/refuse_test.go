package proxy

import (
	"io"
	"strings"
	"testing"
	"time"

	"paceline/engine"
	"paceline/proxy/plan"
)

// Every bad request is refused with a message that names what is wrong, and
// nothing of it reaches the target.
func TestBadRequests(t *testing.T) {
	target := newScript("a")
	r := newRig(t, target)
	f := func(path, body string, status int, param, code, message string, header ...string) {
		t.Helper()
		got := r.post(t, path, body, header...)
		if got.status != status || got.header.Get("Content-Type") != "application/json" || got.header.Get("X-Request-Id") == "" {
			t.Errorf("%.60s: %d %s", body, got.status, got.body)
			return
		}
		quoted := func(s string) string {
			if s == "" {
				return "null"
			}
			return `"` + s + `"`
		}
		if want := `"type":"invalid_request_error","param":` + quoted(param) + `,"code":` + quoted(code) + `,"src":"proxy"}}`; !strings.HasSuffix(got.body, want) || !strings.Contains(got.body, message) {
			t.Errorf("%.60s: %s, want %q and %s", body, got.body, message, want)
		}
	}
	chat, text := "/v1/chat/completions", "/v1/completions"
	f(chat, ``, 400, "", "", "empty")
	f(chat, `{"model":`, 400, "", "", "not valid JSON")
	f(chat, `{"model":"target","messages":[`+strings.Repeat("[", 100_000), 400, "", "", "nested")
	f(chat, `{"model":"target","messages":[{"role":"user","content":"`+"\xc3\x28"+`"}]}`, 400, "", "", "UTF-8")
	f(chat, `{"model":"nobody",`+hello+`}`, 404, "model", "model_not_found", "does not exist")
	f(text, `{"model":"nobody","prompt":"a"}`, 404, "model", "model_not_found", "does not exist")
	f(chat, `{"model":"target","model":"target",`+hello+`}`, 400, "model", "", "twice")
	f(chat, `{"model":"target","stream":true,"stream":false,`+hello+`}`, 400, "stream", "", "twice")
	f(chat, `{"model":"target","messages":[]}`, 400, "messages", "", "empty")
	f(chat, `{"model":"target"}`, 400, "messages", "", "missing")
	f(chat, `{"model":1,`+hello+`}`, 400, "model", "", "string")
	f(chat, `{"model":"target","stream":"yes",`+hello+`}`, 400, "stream", "", "true or false")
	f(chat, `{"model":"target","max_tokens":-1,`+hello+`}`, 400, "max_tokens", "", "at least 1")
	f(chat, `{"model":"target","max_tokens":0,`+hello+`}`, 400, "max_tokens", "", "at least 1")
	f(chat, `{"model":"target","max_tokens":2049,`+hello+`}`, 400, "max_tokens", "", "context has 2048")
	f(chat, `{"model":"target","max_completion_tokens":3000,`+hello+`}`, 400, "max_completion_tokens", "", "context has 2048")
	f(chat, `{"model":"target","max_tokens":1e99,`+hello+`}`, 400, "max_tokens", "", "whole number")
	f(chat, `{"model":"target","temperature":"hot",`+hello+`}`, 400, "temperature", "", "number")
	f(text, `{"model":"target","prompt":[`+strings.Repeat("1,", 2047)+`1]}`, 400, "prompt", "context_length_exceeded", "2048 tokens")
	f(text, `{"model":"target","prompt":[1,5000]}`, 400, "prompt", "", "the vocabulary has 5000")
	f(text, `{"model":"target","prompt":[]}`, 400, "prompt", "", "empty")
	f(chat, `{"model":"target",`+hello+`}`, 400, "X-Paceline-Speculation", "", "auto, off", "X-Paceline-Speculation: fast")
	f(chat, `{"model":"target",`+hello+`}`, 400, "X-Paceline-Speculation", "", "0 to 16", "X-Paceline-Speculation: 17")
	f(chat, `{"model":"target",`+hello+`}`, 400, "X-Paceline-Speculation", "", "0 to 16", "X-Paceline-Speculation: -1")
	f(chat, `{"model":"target",`+hello+`}`, 400, "X-Paceline-Speculation", "", "0 to 16", "X-Paceline-Speculation: 03")
	f(chat, `{"model":"target",`+hello+`}`, 400, "X-Paceline-Draft", "draft_not_found", "does not exist", "X-Paceline-Draft: nobody")
	f(chat, "\x1f\x8b", 415, "Content-Encoding", "", "compressed", "Content-Encoding: gzip")
	f("/", ``, 404, "", "not_found", "nothing at this path")
	f("/v2/chat/completions", `{}`, 404, "", "not_found", "nothing at this path")
	f("/v1/../metrics", `{}`, 404, "", "not_found", "nothing at this path")
	f("/v1/%2e%2e/metrics", `{}`, 404, "", "not_found", "nothing at this path")

	if len(target.asked()) != 0 || len(r.upstream.requests()) != 0 {
		t.Errorf("%d generations, %d requests reached the target", len(target.asked()), len(r.upstream.requests()))
	}
	if strings.Contains(r.logs.String(), `"level":"ERROR"`) {
		t.Errorf("a client's error is logged as one of ours: %s", r.logs)
	}
}

// Speculation can be asked for and switched off.
func TestWishes(t *testing.T) {
	r := newRig(t, newScript("a"))
	f := func(mode, reason string, header ...string) {
		t.Helper()
		got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`}`, header...)
		if got.status != 200 || got.header.Get("X-Paceline-Mode") != mode || got.header.Get("X-Paceline-Reason") != reason {
			t.Errorf("%v: %+v", header, got)
		}
	}
	f("score", "")
	f("score", "", "X-Paceline-Speculation: auto", "X-Paceline-Draft: draft")
	f("score", "", "X-Paceline-Speculation: 16")
	f("pass-through", "client_off", "X-Paceline-Speculation: off")
}

// A body over the limit is answered 413 although the client is still sending.
func TestLargeBodies(t *testing.T) {
	r := newRig(t, newScript("a"), func(o *Options, _ *Pair) { o.MaxBody = 1 << 20 })
	ten := strings.Repeat(" ", 10<<20)
	got := r.post(t, "/v1/chat/completions", ten)
	if got.status != 413 || got.err != nil || !strings.Contains(got.body, "limit of 1048576 bytes") || !strings.Contains(got.body, `"request_too_large"`) {
		t.Errorf("%+v", got)
	}
	conn := r.dial(t)
	io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	go io.WriteString(conn, strings.Repeat("10000\r\n"+ten[:65536]+"\r\n", 40))
	conn.expect("HTTP/1.1 413 ")
	conn.expect("request_too_large")
	if got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`}`+ten[:1<<19]); got.status != 200 {
		t.Errorf("a body under the limit: %+v", got)
	}
	if len(r.upstream.requests()) != 0 {
		t.Error("something reached the target")
	}
}

// What is no HTTP, or too slow, or too large a header.
func TestBadConnections(t *testing.T) {
	r := newRig(t, newScript("a"), func(o *Options, _ *Pair) { o.ReadTimeout = 100 * time.Millisecond })
	f := func(sent, want string) {
		t.Helper()
		conn := r.dial(t)
		io.WriteString(conn, sent)
		conn.expect(want)
		conn.expect(`"src":"proxy"}}`)
	}
	f("hello\r\n\r\n", "HTTP/1.1 400 ")
	f("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "HTTP/1.1 408 ")
	f("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 20<<10)+"\r\n\r\n", "HTTP/1.1 431 ")
}

// A request that was not sent to its end reaches nobody.
func TestHalfRequests(t *testing.T) {
	target := newScript("a")
	r := newRig(t, target)
	conn := r.dial(t)
	io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"+`{"model":"target"`)
	conn.Close()
	until(t, "the departure", func() bool { return r.Stats().Departed == 1 })
	if len(target.asked()) != 0 || len(r.upstream.requests()) != 0 {
		t.Error("something reached the target")
	}
}

// What there is to say without a target.
func TestOwnPaths(t *testing.T) {
	r := newRig(t, newScript("a"), func(_ *Options, p *Pair) { p.Aliases = []string{"alias/with slash"} })
	f := func(method, path string, status int, want string) {
		t.Helper()
		got := r.do(t, method, path, "")
		if body := created.ReplaceAllString(got.body, `"created":0`); got.status != status || body != want || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %s", method, path, got.status, body)
		}
	}
	f("GET", "/health", 200, `{"status":"ok"}`)
	f("GET", "/v1/models", 200, `{"object":"list","data":[{"id":"target","object":"model","created":0,"owned_by":"paceline","max_model_len":2048},`+
		`{"id":"alias/with slash","object":"model","created":0,"owned_by":"paceline","max_model_len":2048}]}`)
	f("GET", "/v1/models/target", 200, `{"id":"target","object":"model","created":0,"owned_by":"paceline","max_model_len":2048}`)
	f("GET", "/v1/models/alias%2Fwith%20slash", 200, `{"id":"alias/with slash","object":"model","created":0,"owned_by":"paceline","max_model_len":2048}`)
	f("GET", "/v1/models/x", 404, `{"error":{"message":"the model \"x\" does not exist","type":"invalid_request_error","param":"model","code":"model_not_found","src":"proxy"}}`)
}

func TestRequestID(t *testing.T) {
	r := newRig(t, newScript("a"))
	f := func(sent string, kept bool) {
		t.Helper()
		got := r.do(t, "GET", "/health", "", "X-Request-Id: "+sent).header.Get("X-Request-Id")
		if kept && got != sent || !kept && (len(got) != 32 || got == sent) {
			t.Errorf("%q became %q", sent, got)
		}
	}
	f("abc-1_2:3/4", true)
	f("", false)
	f("with space", false)
	f(`with"quote`, false)
	f(strings.Repeat("x", 129), false)
	f("ümlaut", false)
}

// Pairs are checked, and replaced as a whole.
func TestSetPairs(t *testing.T) {
	r := newRig(t, newScript("a"))
	old := r.table.Load().pairs[0].Pair
	f := func(want string, change func(p *Pair)) {
		t.Helper()
		p := old
		change(&p)
		if err := r.SetPairs([]Pair{old, p}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f(`the name "target" is taken`, func(p *Pair) {})
	f(`the name "target" is taken`, func(p *Pair) { p.Name, p.Aliases = "b", []string{"target"} })
	f("needs a name", func(p *Pair) { p.Name = "" })
	f("needs a name", func(p *Pair) { p.Name, p.Client = "b", (*engine.Client)(nil) })
	f("has no drafter", func(p *Pair) { p.Name, p.Drafts = "b", []Draft{{Name: "d"}} })
	if _, err := New(Options{MaxInFlight: -1}, []Pair{old}, r.log); err == nil {
		t.Error("a negative option")
	}
	if err := r.SetPairs(nil); err == nil {
		t.Error("no pair at all")
	}
	second := old
	second.Name, second.Policy = "second", plan.Policy{}
	if err := r.SetPairs([]Pair{old, second}); err != nil {
		t.Fatal(err)
	}
	got := r.post(t, "/v1/chat/completions", `{"model":"second",`+hello+`}`)
	if got.status != 200 || got.header.Get("X-Paceline-Reason") != "metered" {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "/v1/chat/completions", `{`+hello+`}`); got.status != 400 || !strings.Contains(got.body, "model is missing") {
		t.Errorf("two pairs and no name: %+v", got)
	}
	r.post(t, "/v1/embeddings", `{"model":"second"}`)
	if !strings.Contains(r.logs.String(), `"path":"/v1/embeddings","model":"second"`) {
		t.Errorf("log: %s", r.logs)
	}
}
