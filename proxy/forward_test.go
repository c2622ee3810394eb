package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"paceline/proxy/plan"
)

// What passes through is byte for byte the same, apart from the headers named
// here: request bodies and paths towards the target, status, header and body
// towards the client.
func TestByteIdentity(t *testing.T) {
	r := newRig(t, newScript("a"), func(_ *Options, p *Pair) { p.Drafts = nil })
	f := func(method, path, body, answer string, reason plan.Reason) {
		t.Helper()
		r.upstream.handle(path, func(c net.Conn, _ []byte) {
			io.WriteString(c, answer)
			if strings.HasPrefix(answer, "HTTP/1.0") {
				c.Close()
			}
		})
		header := []string{"Content-Type: application/json", "X-Any: thing", "Cookie: a=b; c=d", "X-Request-Id: req-1", "Keep-Alive: 5", "Te: trailers", "Authorization: Bearer k", "User-Agent: test"}
		if reason == plan.Endpoint { // calls that generate refuse an unknown draft
			header = append(header, "X-Paceline-Draft: any")
		}
		got := r.do(t, method, path, body, header...)
		head, sent := r.upstream.last(t)
		if head[0] != method+" "+path+" HTTP/1.1" || sent != body {
			t.Errorf("%s %s: the target was sent %q with %q", method, path, head[0], sent)
		}
		want := map[string]string{"Content-Type": "application/json", "X-Any": "thing", "Cookie": "a=b; c=d", "X-Request-Id": "req-1", "Authorization": "Bearer k", "User-Agent": "test"}
		for _, line := range head[1:] {
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "Host", "Content-Length", "Connection": // the client's own to write
			default:
				if want[name] != value {
					t.Errorf("%s %s: the target was sent %q", method, path, line)
				}
				delete(want, name)
			}
		}
		if len(want) > 0 {
			t.Errorf("%s %s: the target was not sent %v", method, path, want)
		}

		// The same from the target itself.
		conn, err := net.Dial("tcp", r.upstream.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
		direct := readReply(t, conn, method)
		for _, name := range []string{"X-Request-Id", "X-Paceline-Mode", "X-Paceline-Reason", "Date", "Connection", "Keep-Alive", "X-Hop", "Transfer-Encoding"} {
			if name == "X-Paceline-Mode" && got.header.Get(name) != "pass-through" || name == "X-Paceline-Reason" && got.header.Get(name) != string(reason) {
				t.Errorf("%s %s: %s is %q", method, path, name, got.header.Get(name))
			}
			got.header.Del(name)
			direct.header.Del(name)
		}
		if diff := cmp.Diff(direct, got, cmp.AllowUnexported(reply{})); diff != "" {
			t.Errorf("%s %s: %s", method, path, diff)
		}
	}
	jsonBody := `{"model":"target",` + hello + `,  "temperature":0.10, "x":"é\u00e9" }`
	f("POST", "/v1/chat/completions", jsonBody, ok("application/json", `{"id": 1,  "x":"é\u00e9"}`), plan.NoDraft)
	f("POST", "/v1/completions", `{"model":"target","prompt":"a"}`, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-Theirs: a\r\nX-Theirs: b\r\nx-request-id: theirs\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n"+
		chunked("data: {\"a\":1}\n\n")+chunked("data: [DO")+chunked("NE]\n\n")+"0\r\n\r\n", plan.NoDraft)
	f("POST", "/v1/embeddings", `{"input":"a"`+"\xff\x00", "HTTP/1.1 422 Unprocessable Entity\r\nServer: uvicorn\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00\xff", plan.Endpoint)
	f("POST", "/v1/audio/transcriptions?a=b%20c&d", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--\r\n", ok("text/plain", "hello"), plan.Endpoint)
	f("POST", "/v1/empty", ``, "HTTP/1.1 204 No Content\r\nX-Theirs: 1\r\n\r\n", plan.Endpoint)
	f("GET", "/v1/files/%41%2F..", ``, ok("application/octet-stream", strings.Repeat("x", 100_000)), plan.Endpoint)
	f("DELETE", "/v1/files/1", ``, "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n\r\n{}", plan.Endpoint)
	f("GET", "/v1/chat/completions", ``, "HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n", plan.Endpoint)
	f("HEAD", "/v1/files/1", ``, "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n", plan.Endpoint)
	f("POST", "/v1/until/close", `{}`, "HTTP/1.0 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\noops", plan.Endpoint)
}

func readReply(t *testing.T, conn net.Conn, method string) reply {
	t.Helper()
	defer conn.Close()
	resp, err := http.ReadResponse(newBufReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), err}
}

// Every read of the target's stream reaches the client by itself, at once.
func TestStreamsThrough(t *testing.T) {
	r := newRig(t, newScript("a"))
	proceed := make(chan bool)
	r.upstream.handle("/v1/chat/completions", func(c net.Conn, _ []byte) {
		io.WriteString(c, sseHead)
		for i := range 3 {
			io.WriteString(c, chunked(fmt.Sprintf("data: {\"n\":%d}\n\n", i)))
			<-proceed
		}
		io.WriteString(c, chunked("data: [DONE]\n\n")+"0\r\n\r\n")
	})
	conn := r.dial(t)
	conn.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true,"logprobs":true}`)
	for i := range 3 {
		conn.expect(fmt.Sprintf("data: {\"n\":%d}\n\n", i))
		proceed <- true
	}
	conn.expect("data: [DONE]\n\n\r\n0\r\n\r\n")
	if !strings.Contains(conn.got, "X-Paceline-Reason: logprobs\r\n") || !strings.Contains(conn.got, "text/event-stream; charset=utf-8") {
		t.Errorf("%s", conn.got)
	}
}

// A model under another name: the name is rewritten, and nothing else.
func TestOtherName(t *testing.T) {
	r := newRig(t, newScript("a"), func(_ *Options, p *Pair) { p.Name, p.Drafts = "public", nil })
	got := r.post(t, "/v1/completions", `{ "prompt" : "a" , "model":"public" }`)
	if _, sent := r.upstream.last(t); got.status != 200 || sent != `{ "prompt" : "a" , "model":"target" }` {
		t.Errorf("%d, sent %s", got.status, sent)
	}
}

// A target that breaks off what passes through: an error event where one can
// be read, a broken connection where not.
func TestTargetBreaksThrough(t *testing.T) {
	r := newRig(t, newScript("a"))
	f := func(answer string, status int, want string, whole bool) {
		t.Helper()
		r.upstream.handle("/v1/x", func(c net.Conn, _ []byte) {
			io.WriteString(c, answer)
			c.Close()
		})
		got := r.post(t, "/v1/x", `{}`)
		if got.status != status || got.body != want || (got.err == nil) != whole {
			t.Errorf("%q: %d %v %q", answer, got.status, got.err, got.body)
		}
	}
	told := "data: {\"error\":{\"message\":\"the target could not be reached or broke off its answer\",\"type\":\"upstream_error\",\"param\":null,\"code\":\"target_failed\",\"src\":\"upstream\"}}\n\n"
	f(sseHead+chunked("data: 1\n\n"), 200, "data: 1\n\n"+told, true)
	f(sseHead+chunked("data: 1\n\nda"), 200, "data: 1\n\nda", false)
	f(sseHead, 200, told, true)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked("abc"), 200, "abc", false)
	f("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 0, "", false)
}

// A target that cannot be reached, or answers with anything but HTTP.
func TestTargetUnreachable(t *testing.T) {
	r := newRig(t, newScript("a"))
	f := func(answer string) {
		t.Helper()
		r.upstream.handle("/v1/x", func(c net.Conn, _ []byte) { io.WriteString(c, answer); c.Close() })
		got := r.post(t, "/v1/x", `{}`)
		if got.status != 502 || !strings.Contains(got.body, `"code":"target_failed","src":"upstream"`) || strings.Contains(got.body, r.upstream.addr) {
			t.Errorf("%q: %d %s", answer, got.status, got.body)
		}
	}
	f("")
	f("SSH-2.0\r\n")
	f("HTTP/1.1 200 OK\r\nContent-Le")
}

// The target turns a chat into more than text: it passes through, and so do
// chats for a while; completions do not.
func TestOpaque(t *testing.T) {
	for _, stream := range []string{"true", "false"} {
		target := newScript("a", "b")
		target.opaque = true
		r := newRig(t, target)
		r.upstream.on("/v1/chat/completions", ok("application/json", "theirs"))
		for i := range 3 {
			got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":`+stream+`}`)
			if got.status != 200 || got.body != "theirs" || got.header.Get("X-Paceline-Mode") != "pass-through" || got.header.Get("X-Paceline-Reason") != "tools_unparsed" {
				t.Errorf("%d: %+v", i, got)
			}
		}
		if n := len(target.asked()); n != 1 {
			t.Errorf("tried %d times", n)
		}
		target.opaque = false
		if got := r.post(t, "/v1/completions", `{"model":"target","prompt":"a"}`); got.header.Get("X-Paceline-Mode") != "score" {
			t.Errorf("%+v", got)
		}
	}
}
