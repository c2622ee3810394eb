package vllm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/speculate"
	"paceline/vocab"
)

// told writes a stream's chunks as one line each.
func told(t *testing.T, s speculate.Stream) (lines []string, err error) {
	t.Helper()
	for {
		c, err := s.Next()
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		line := fmt.Sprintf("%v %q", c.Tokens, c.Text)
		if c.Prompt != nil {
			line = fmt.Sprintf("prompt %v ", c.Prompt) + line
		}
		if c.Finish != "" {
			line += " " + c.Finish
		}
		if c.HasReason {
			line += fmt.Sprintf(" reason %d", c.StopReason)
		}
		if c.Opaque {
			line += " opaque"
		}
		if c.CachedTokens >= 0 {
			line += fmt.Sprintf(" cached %d", c.CachedTokens)
		}
		lines = append(lines, line)
	}
}

// Recorded streams, read as round 0.
func TestRealStreams(t *testing.T) {
	f := func(name string, chat bool, want ...string) {
		t.Helper()
		fk := newFake(t)
		path, body := pathCompletions, `{"prompt":"x"}`
		if chat {
			path, body = pathChat, `{"messages":[]}`
		}
		fk.on(path, says(200, real(t, name)))
		s, err := fk.endpoint(recorded()).Generate(Request{Chat: chat, Body: []byte(body)}).Stream(t.Context(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := told(t, s)
		if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		s.Close()
		if st := fk.client.Stats(); st.Open != 1 {
			t.Errorf("%s: the connection was not kept: %+v", name, st)
		}
	}
	f("chat_stream", true,
		`prompt [1 203 1151 1467 315 2017 18 203 2 203] [] ""`,
		`[2022] "こんにちは"`, `[5] "!"`, `[1463] ""`, `[244] ""`, `[238] " 👋"`, `[0] "" stop cached 0`)
	f("chat_stream_length", true, `prompt [1 203 1501 203 2 203] [] ""`, `[1501] "Hello"`, `[5] "!"`, `[382] " I" length`)
	f("chat_stream_continuous_usage", true, `prompt [1 203 1501 203 2 203] [] ""`, `[1501] "Hello"`, `[5] "!" length cached 0`)
	// Without ids nothing can be taken over.
	f("chat_stream_plain", true, `[] "12" opaque`, `[] " plus" opaque`, `[] " 7" length opaque`)
	f("completions_stream", false,
		`prompt [1 203 1151 1467 315 2017 18 203 2 203] [2022] "こんにちは"`, `[5] "!"`, `[1463] ""`, `[244] ""`, `[238] " 👋"`, `[0] "" stop cached 0`)
	f("completions_stream_interval", false,
		`prompt [1 203 1501 203 2 203] [1501] "Hello"`, `[5 382 973 262] "! I am a"`, `[999 417 1391 517] " very small language model" length`)
}

func TestStreamErrors(t *testing.T) {
	f := func(name, stream string, wantErr error, wantText string, want ...string) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathChat, says(200, stream))
		s, err := fk.endpoint(recorded()).Generate(Request{Chat: true, Body: []byte(`{}`)}).Stream(t.Context(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := told(t, s)
		if err == nil || wantErr != nil && !errors.Is(err, wantErr) || !strings.Contains(err.Error(), wantText) || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %q, %v; want %q, %v %s", name, got, err, want, wantErr, wantText)
		}
		s.Close()
	}
	const one = `data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null,"token_ids":[5]}]}` + "\n\n"
	f("no finish", one+"data: [DONE]\n\n", io.ErrUnexpectedEOF, "without a finish", `[5] "a"`)
	f("no end", one, io.ErrUnexpectedEOF, "", `[5] "a"`)
	f("not JSON", one+"data: {\"choices\"\n\n", nil, "cannot read an event", `[5] "a"`)
	f("abort", one+strings.Replace(one, "null", `"abort"`, 1), errAnswer, "abort", `[5] "a"`)
	f("unknown id", strings.Replace(one, "[5]", "[2048]", 1), errAnswer, "2048")
	f("negative id", strings.Replace(one, "[5]", "[-1]", 1), errAnswer, "-1")
	f("second choice", one+strings.Replace(one, `"index":0`, `"index":1`, 1), errAnswer, "", `[5] "a"`)
	f("error event", one+`data: {"error":{"message":"engine died","type":"InternalServerError","code":500}}`+"\n\ndata: [DONE]\n\n", nil, "engine died", `[5] "a"`)
	f("long event", "data: "+strings.Repeat("x", maxEvent+10)+"\n\n", engine.ErrEventTooLong, "")
}

// What the server makes of tokens beyond content is not to be taken over.
func TestOpaque(t *testing.T) {
	f := func(delta string, want bool) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathChat, says(200, `data: {"choices":[{"index":0,"delta":`+delta+`,"finish_reason":"stop","token_ids":[5]}]}`+"\n\ndata: [DONE]\n\n"))
		s, err := fk.endpoint(recorded()).Generate(Request{Chat: true, Body: []byte(`{}`)}).Stream(t.Context(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Next()
		if err != nil || c.Opaque != want {
			t.Errorf("%s: opaque %v, %v", delta, c.Opaque, err)
		}
		s.Close()
	}
	f(`{"content":"a"}`, false)
	f(`{"role":"assistant","content":"a","reasoning":null,"tool_calls":[]}`, false)
	f(`{"reasoning":"hm"}`, true)
	f(`{"content":null,"tool_calls":[{"index":0}]}`, true)
	f(`{"reasoning_content":""}`, true)
}

// Round 0 is the client's request byte for byte, but for what the proxy does
// itself.
func TestRoundZeroBody(t *testing.T) {
	f := func(chat bool, s engine.Settings, limit int, body, want string) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathChat, says(200, real(t, "chat_stream")))
		fk.on(pathCompletions, says(200, real(t, "completions_stream")))
		g := fk.endpoint(recorded()).Generate(Request{Chat: chat, Body: []byte(body), Settings: s, Header: [][2]string{{"X-Request-Id", "r-1"}}})
		st, err := g.Stream(t.Context(), nil, limit)
		if err != nil {
			t.Fatal(err)
		}
		told(t, st)
		st.Close()
		if got := fk.calls[0]; got.body.Raw != want || got.id != "r-1" {
			t.Errorf("%s\nwas sent as %s\nwant        %s (%s)", body, got.body.Raw, want, got.id)
		}
	}
	const tail = `"stream":true,"stream_options":{"include_usage":true},"return_token_ids":true`
	f(true, engine.Settings{}, 0, `{"model":"fast","messages":[{"role":"user","content":"\u00e9 é"}]}`,
		`{"model":"target","messages":[{"role":"user","content":"\u00e9 é"}],`+tail+`}`)
	f(true, engine.Settings{MaxTokens: 100, MinTokens: 5}, 0,
		`{"stream":false,"stop":["a"],"temperature":0.70,"max_tokens":7,"max_completion_tokens":100,"min_tokens":5,"user":"u","prediction":{"type":"content","content":"x"},"messages":[ ],"stream_interval":9,"seed":1,"return_token_ids":false}`,
		`{"model":"target","temperature":0.70,"user":"u","messages":[ ],`+tail+`,"min_tokens":5,"max_tokens":100}`)
	f(true, engine.Settings{MaxTokens: 100, MinTokens: 50}, 20, `{"messages":[]}`, `{"model":"target","messages":[],`+tail+`,"min_tokens":20,"max_tokens":20}`)
	f(true, engine.Settings{MaxTokens: 10}, 20, `{"messages":[]}`, `{"model":"target","messages":[],`+tail+`,"max_tokens":10}`)
	f(true, engine.Settings{}, 20, `{"messages":[]}`, `{"model":"target","messages":[],`+tail+`,"max_tokens":20}`)
	f(false, engine.Settings{MaxTokens: 16}, 0, `{"model":"m","prompt":"Once","best_of":1}`, `{"model":"target","prompt":"Once","best_of":1,`+tail+`,"max_tokens":16}`)
}

// Later streams continue the ids with what the client asked for.
func TestLaterStream(t *testing.T) {
	fk := newFake(t)
	fk.on(pathChat, says(200, real(t, "chat_stream_length")))
	fk.on(pathCompletions, says(200, real(t, "completions_stream")))
	g := fk.endpoint(recorded()).Generate(Request{Chat: true, Settings: engine.Settings{MaxTokens: 10, MinTokens: 4}, Body: []byte(
		`{"messages":[{"role":"user","content":"Hello"}],"temperature":0.5,"top_p":null,"logit_bias":{"5":-1},"cache_salt":"s","chat_template_kwargs":{"a":1},"user":"u","stop":"x","response_format":{"type":"text"}}`)})
	open := func(after []vocab.Token, limit int) string {
		t.Helper()
		s, err := g.Stream(t.Context(), after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := told(t, s); err != nil {
			t.Fatal(err)
		}
		s.Close()
		all := fk.asked(pathCompletions)
		if len(all) == 0 {
			return ""
		}
		return all[len(all)-1].Raw
	}
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("sent %s\nwant %s", got, want)
		}
	}
	open(nil, 0)
	const mine = `{"model":"target","temperature":0.5,"logit_bias":{"5":-1},"cache_salt":"s","prompt":[1,203,1501,203,2,203`
	const tail = `],"stream":true,"stream_options":{"include_usage":true},"return_token_ids":true`
	f(open(ids(1501, 5, 382), 0), mine+`,1501,5,382`+tail+`,"min_tokens":1,"max_tokens":7}`)
	f(open(ids(1501, 5, 382, 9, 9, 9), 2), mine+`,1501,5,382,9,9,9`+tail+`,"max_tokens":2}`)
	f(open(ids(1501), 0), mine+`,1501`+tail+`,"min_tokens":3,"max_tokens":9}`)
	if _, err := g.Stream(t.Context(), ids(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 0); err == nil {
		t.Error("a stream beyond max_tokens was opened")
	}
	if _, err := g.Stream(t.Context(), ids(2048), 0); err == nil {
		t.Error("an id beyond the vocabulary was sent")
	}
}

// Without ids in chat streams the prompt is rendered first, unless a field
// shapes it that /tokenize does not know: then the chat is streamed as it is.
func TestRenderedRoundZero(t *testing.T) {
	caps := recorded()
	caps.ChatTokens = false
	f := func(body, wantRendered string, want ...string) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathTokenize, says(200, real(t, "tokenize_messages")))
		fk.on(pathChat, says(200, real(t, "chat_stream_plain")))
		fk.on(pathCompletions, says(200, real(t, "completions_stream_length")))
		s, err := fk.endpoint(caps).Generate(Request{Chat: true, Body: []byte(body)}).Stream(t.Context(), nil, 3)
		if err != nil {
			t.Fatal(err)
		}
		got, err := told(t, s)
		if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %v\n%s", body, err, strings.Join(got, "\n"))
		}
		if wantRendered != "" && fk.asked(pathTokenize)[0].Raw != wantRendered {
			t.Errorf("%s was rendered as %s", body, fk.asked(pathTokenize)[0].Raw)
		}
		s.Close()
	}
	f(`{"messages":[{"role":"user","content":"Hello"}],"temperature":0,"chat_template_kwargs":{"a":1}}`,
		`{"model":"target","messages":[{"role":"user","content":"Hello"}],"chat_template_kwargs":{"a":1}}`,
		strings.Split(lengthStream(t), "\n")...)
	f(`{"messages":[{"role":"user","content":"Hello"}],"documents":[]}`, "", `[] "" opaque`, `[] "12" opaque`, `[] " plus" opaque`, `[] " 7" length opaque`)
}

// lengthStream is completions_stream_length as told writes it, after a prompt
// that the proxy rendered.
func lengthStream(t *testing.T) string {
	var lines []string
	for event := range strings.SplitSeq(real(t, "completions_stream_length"), "\n\n") {
		v := gjson.Parse(strings.TrimPrefix(event, "data: "))
		c := v.Get("choices.0")
		if !c.Exists() {
			continue
		}
		line := fmt.Sprintf("%s %q", strings.ReplaceAll(c.Get("token_ids").Raw, ",", " "), c.Get("text").Str)
		if fr := c.Get("finish_reason").Str; fr != "" {
			line += " " + fr
		}
		lines = append(lines, line)
	}
	lines[0] = "prompt [1 203 1501 203 2 203] " + lines[0]
	return strings.Join(lines, "\n")
}

func TestStreamStatus(t *testing.T) {
	fk := newFake(t)
	fk.on(pathChat, says(400, real(t, "error_empty_messages")))
	_, err := fk.endpoint(recorded()).Generate(Request{Chat: true, Body: []byte(`{"messages":[]}`)}).Stream(t.Context(), nil, 0)
	var se *engine.StatusError
	if !errors.As(err, &se) || se.Status != 400 || string(se.Body) != real(t, "error_empty_messages") {
		t.Errorf("error %v", err)
	}
}

// A cut ends the engine's work at once; what had arrived is still delivered.
func TestStreamCut(t *testing.T) {
	left := make(chan struct{})
	ready := make(chan struct{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		br := bufio.NewReader(nc)
		r, _ := http.ReadRequest(br)
		io.Copy(io.Discard, r.Body)
		io.WriteString(nc, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
		for i, event := range strings.SplitAfter(real(t, "completions_stream"), "\n\n")[:4] {
			if i == 3 {
				event = event[:len(event)/2]
			}
			fmt.Fprintf(nc, "%x\r\n%s\r\n", len(event), event)
		}
		close(ready)
		br.ReadByte()
		close(left)
	}()
	c, _ := engine.NewClient("http://"+ln.Addr().String(), engine.ClientOptions{})
	defer c.Close()
	e := New(c, "target", Options{})
	caps := recorded()
	e.caps.Store(&caps)
	s, err := e.Generate(Request{Body: []byte(`{"prompt":"x"}`)}).Stream(t.Context(), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	<-ready
	time.Sleep(5 * time.Millisecond) // loopback
	s.Close()
	s.Close()
	select {
	case <-left:
	case <-time.After(time.Second):
		t.Error("the server was not told")
	}
	got, err := told(t, s)
	want := []string{`prompt [1 203 1151 1467 315 2017 18 203 2 203] [2022] "こんにちは"`, `[5] "!"`, `[1463] ""`}
	if !errors.Is(err, engine.ErrCut) || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, %v", got, err)
	}
	if st := c.Stats(); st.Open != 0 {
		t.Errorf("%+v", st)
	}
}
