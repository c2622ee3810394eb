package proxy

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"paceline/engine"
	"paceline/speculate"
	"paceline/vocab"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

var created = regexp.MustCompile(`"created":\d+`)

func golden(t *testing.T, name, got string) {
	t.Helper()
	got = created.ReplaceAllString(got, `"created":0`)
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

var words = []string{"The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ",", " こん", "にちは", " 👋", "."}

const hello = `"messages":[{"role":"user","content":"hi"}]`

// Whole replies, as raw text. Plain streaming gives one token, then there are
// rounds of three; with a fixed length of 0 it gives all of them.
func TestReplies(t *testing.T) {
	rounds, plain := newScript(words...), newScript(words...)
	rounds.holdAt, rounds.hold = 1, time.Second
	f := func(target *script, name, path, body string, header ...string) {
		t.Helper()
		r := newRig(t, target)
		got := r.post(t, path, body, append(header, "X-Request-Id: req-1")...)
		if got.status != 200 || got.err != nil {
			t.Errorf("%s: %d %v %s", name, got.status, got.err, got.body)
			return
		}
		want := "application/json"
		if strings.HasSuffix(name, ".sse") {
			want = "text/event-stream; charset=utf-8"
		}
		if got.header.Get("Content-Type") != want || got.header.Get("X-Request-Id") != "req-1" || got.header.Get("X-Paceline-Mode") != "score" || got.header.Get("X-Paceline-Reason") != "" {
			t.Errorf("%s: header %v", name, got.header)
		}
		golden(t, name, got.body)
	}
	three, zero := "X-Paceline-Speculation: 3", "X-Paceline-Speculation: 0"
	usage := `,"stream":true,"stream_options":{"include_usage":true}}`
	f(rounds, "chat.json", "/v1/chat/completions", `{"model":"target",`+hello+`}`, three)
	f(rounds, "chat_length.json", "/v1/chat/completions", `{"model":"target",`+hello+`,"max_tokens":7}`, three)
	f(rounds, "chat_stop.json", "/v1/chat/completions", `{"model":"target",`+hello+`,"stop":"y d"}`, three)
	f(rounds, "completion.json", "/v1/completions", `{"model":"target","prompt":"hi"}`, three)
	f(rounds, "chat.sse", "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`, three)
	f(rounds, "chat_usage.sse", "/v1/chat/completions", `{"model":"target",`+hello+usage, three)
	f(rounds, "completion_usage.sse", "/v1/completions", `{"model":"target","prompt":[5,6]`+usage, three)
	f(plain, "chat_plain.json", "/v1/chat/completions", `{"model":"target",`+hello+`}`, zero)
	f(plain, "chat_plain.sse", "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`, zero)
	f(plain, "completion_plain_stop.sse", "/v1/completions", `{"model":"target","prompt":[5,6],"stream":true,"stop":"y d"}`, zero)
	f(newScript(), "chat_empty.sse", "/v1/chat/completions", `{"model":"target",`+hello+usage, three)
	f(newScript(), "chat_empty.json", "/v1/chat/completions", `{"model":"target",`+hello+`}`, three)
}

// However rounds fall, the text and the figures are right.
func TestStreamedRounds(t *testing.T) {
	target := newScript(words...)
	target.holdAt, target.hold = 4, 5*time.Millisecond
	r := newRig(t, target)
	f := func(path, body, k string) {
		t.Helper()
		got := r.post(t, path, body, "X-Paceline-Speculation: "+k)
		events := strings.Split(got.body, "\n\n")
		if got.status != 200 || got.err != nil || len(events) < 5 || events[len(events)-1] != "" || events[len(events)-2] != "data: [DONE]" {
			t.Fatalf("%d %v %s", got.status, got.err, got.body)
		}
		var text strings.Builder
		var last chunk
		for _, e := range events[:len(events)-2] {
			var c chunk
			if err := json.Unmarshal([]byte(strings.TrimPrefix(e, "data: ")), &c); err != nil {
				t.Fatalf("%v: %s", err, e)
			}
			for _, choice := range c.Choices {
				text.WriteString(choice.Text + choice.Delta.Content)
			}
			last = c
		}
		if text.String() != strings.Join(words, "") {
			t.Errorf("text %q", text.String())
		}
		if last.Usage.CompletionTokens != len(words)+1 || last.Usage.PromptTokens != 3 || last.Usage.TotalTokens != len(words)+4 {
			t.Errorf("usage %+v", last.Usage)
		}
		a, spec := last.Usage.Details, last.Metrics.SpeculativeDecoding
		if a.Accepted+a.Rejected != last.Timings.N || a.Accepted != last.Timings.Accepted || spec.Drafted != last.Timings.N || spec.Accepted != a.Accepted {
			t.Errorf("acceptance %+v", last)
		}
		if spec.Steps > 0 && spec.Length != 1+float64(a.Accepted)/float64(spec.Steps) {
			t.Errorf("mean length %v of %d in %d", spec.Length, a.Accepted, spec.Steps)
		}
	}
	usage := `,"stream":true,"stream_options":{"include_usage":true}}`
	for k := 1; k <= 16; k++ {
		f("/v1/chat/completions", `{"model":"target",`+hello+usage, strconv.Itoa(k))
		f("/v1/completions", `{"model":"target","prompt":"hi"`+usage, strconv.Itoa(k))
	}
	if target.verifies.Load() == 0 {
		t.Error("nothing was verified")
	}
}

type chunk struct {
	Choices []struct {
		Text  string
		Delta struct{ Content string }
	}
	Usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
		Details          struct {
			Accepted int `json:"accepted_prediction_tokens"`
			Rejected int `json:"rejected_prediction_tokens"`
		} `json:"completion_tokens_details"`
	}
	Timings struct {
		N        int `json:"draft_n"`
		Accepted int `json:"draft_n_accepted"`
	}
	Metrics struct {
		SpeculativeDecoding struct {
			Steps    int     `json:"num_spec_steps"`
			Drafted  int     `json:"num_draft_tokens"`
			Accepted int     `json:"num_accepted_draft_tokens"`
			Length   float64 `json:"mean_acceptance_length"`
		} `json:"speculative_decoding"`
	}
}

// Every event reaches the client before the target goes on: one event, one
// flush.
func TestEventByEvent(t *testing.T) {
	target := newScript("a", "b", "c")
	proceed := make(chan bool)
	target.step = func(ctx context.Context, _ int) error {
		select {
		case <-proceed:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	r := newRig(t, target)
	conn := r.dial(t)
	conn.send("POST", "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`, "X-Paceline-Speculation: 0")
	for _, want := range []string{"a", "b", "c"} {
		proceed <- true
		conn.expect(`"delta":{"content":"` + want + `"}`)
	}
	proceed <- true
	conn.expect("data: [DONE]\n\n\r\n0\r\n\r\n")
	if n := strings.Count(conn.got, "\r\ndata: "); n != 6 {
		t.Errorf("%d chunks, want one an event: %s", n, conn.got)
	}
}

func TestLimits(t *testing.T) {
	target := &engine.Capabilities{MaxModelLen: 99, EOS: []vocab.Token{0, 1}, NamedEOS: []vocab.Token{1}}
	f := func(s engine.Settings, ends, named []vocab.Token) {
		t.Helper()
		s.EOS, s.MaxTokens = target.EOS, 7
		l := limits(&s, target)
		if diff := cmp.Diff([][]vocab.Token{ends, named}, [][]vocab.Token{l.Ends, l.Named}, cmpopts.EquateEmpty()); diff != "" || l.MaxTokens != 7 || l.Context != 99 {
			t.Errorf("%+v: %s", s, diff)
		}
	}
	f(engine.Settings{}, []vocab.Token{0, 1}, []vocab.Token{1})
	f(engine.Settings{StopTokenIDs: []vocab.Token{5, 0}}, []vocab.Token{5, 0, 0, 1}, []vocab.Token{5, 1})
	f(engine.Settings{StopTokenIDs: []vocab.Token{5, 0}, IgnoreEOS: true}, []vocab.Token{5, 0}, []vocab.Token{5, 0})
	f(engine.Settings{IgnoreEOS: true}, nil, nil)
}

// What the target is given, and what the log says.
func TestGenerationAndLog(t *testing.T) {
	r := newRig(t, newScript("a", "b"), func(_ *Options, p *Pair) {
		p.Name, p.Aliases = "public", []string{"other"}
	})
	got := r.post(t, "/v1/chat/completions", `{"model":"other",`+hello+`, "user":"secret-user"}`,
		"X-Request-Id: abc", "Traceparent: 00-1-2-01", "Authorization: Bearer secret-key", "Cookie: no")
	if got.status != 200 || !strings.Contains(got.body, `"model":"public"`) || !strings.Contains(got.body, `"id":"chatcmpl-abc"`) {
		t.Fatalf("%d %s", got.status, got.body)
	}
	asked := r.target.asked()[0]
	if want := `{"model":"target",` + hello + `, "user":"secret-user"}`; string(asked.Body) != want || !asked.Chat {
		t.Errorf("body %s, want %s", asked.Body, want)
	}
	want := [][2]string{{"X-Request-Id", "abc"}, {"Authorization", "Bearer secret-key"}, {"Traceparent", "00-1-2-01"}}
	if diff := cmp.Diff(want, asked.Header); diff != "" {
		t.Error(diff)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(r.logs.String()), &line); err != nil {
		t.Fatalf("%v: %s", err, r.logs)
	}
	for k, v := range map[string]any{
		"msg": "request", "level": "INFO", "id": "abc", "path": "/v1/chat/completions", "model": "other", "mode": "score", "reason": "",
		"status": 200.0, "prompt_tokens": 3.0, "completion_tokens": 3.0, "finish": "stop",
	} {
		if line[k] != v {
			t.Errorf("log: %s is %v, want %v", k, line[k], v)
		}
	}
	for _, k := range []string{"ttft", "duration", "rounds", "accepted", "drafted"} {
		if _, ok := line[k]; !ok {
			t.Errorf("log: %s is missing", k)
		}
	}
	if strings.Contains(r.logs.String(), "secret") || strings.Contains(r.logs.String(), `hi`) {
		t.Errorf("log tells too much: %s", r.logs)
	}
}

// An error of the target's before the first byte is relayed as it is, with its
// status, streamed or not.
func TestTargetRefuses(t *testing.T) {
	target := newScript("a")
	body := `{"error":{"message":"This model's maximum context length is 2048 tokens","type":"BadRequestError","param":null,"code":400}}`
	target.refuse = &engine.StatusError{URL: "http://t", Path: "/x", Status: 400, Body: []byte(body), Header: [][2]string{
		{"Content-Type", "application/json"}, {"Content-Length", "5"}, {"X-Request-Id", "theirs"}, {"Connection", "close"}, {"X-Theirs", "1"},
	}}
	r := newRig(t, target)
	for _, stream := range []string{"true", "false"} {
		got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":`+stream+`}`, "X-Request-Id: mine")
		if got.status != 400 || got.body != body || got.header.Get("X-Request-Id") != "mine" || got.header.Get("X-Theirs") != "1" ||
			got.header.Get("X-Paceline-Mode") != "score" || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%+v", got)
		}
	}
	if strings.Contains(r.logs.String(), "maximum context") {
		t.Errorf("the target's words are in the log: %s", r.logs)
	}
}

// A target that breaks off after the first byte: an error event, no [DONE];
// before it, or unstreamed: an error with a status.
func TestTargetBreaks(t *testing.T) {
	f := func(breakAt int, stream bool, status int, want string) {
		t.Helper()
		target := newScript(words...)
		target.breakAt = breakAt
		r := newRig(t, target)
		body := `{"model":"target",` + hello + `}`
		if stream {
			body = `{"model":"target",` + hello + `,"stream":true}`
		}
		got := r.post(t, "/v1/chat/completions", body, "X-Paceline-Speculation: 0")
		if got.status != status || got.err != nil || !strings.HasSuffix(got.body, want) || strings.Contains(got.body, "[DONE]") {
			t.Errorf("break at %d, stream %v: %d %v %s", breakAt, stream, got.status, got.err, got.body)
		}
		if !strings.Contains(r.logs.String(), `"status":502`) || strings.Count(r.logs.String(), "\n") != 1 {
			t.Errorf("log: %s", r.logs)
		}
	}
	told := `{"error":{"message":"the target could not be reached or broke off its answer","type":"upstream_error","param":null,"code":"target_failed","src":"upstream"}}`
	f(3, true, 200, "\n\ndata: "+told+"\n\n")
	f(3, false, 502, told)
}

// Panics end one request, never the server, wherever they happen.
func TestPanics(t *testing.T) {
	target := newScript(words...)
	r := newRig(t, target, func(_ *Options, p *Pair) {
		p.Controller = func() speculate.Controller { return panicController{} }
	})
	told := `"type":"server_error","param":null,"code":"internal_error","src":"proxy"}}`
	got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`}`)
	if got.status != 500 || !strings.HasSuffix(got.body, told) {
		t.Errorf("%d %s", got.status, got.body)
	}
	got = r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`,"stream":true}`)
	if got.status != 200 || got.err != nil || !strings.HasSuffix(got.body, told+"\n\n") || strings.Contains(got.body, "[DONE]") {
		t.Errorf("%d %v %s", got.status, got.err, got.body)
	}
	if n := strings.Count(r.logs.String(), `"stack":"goroutine`); n != 2 {
		t.Errorf("%d stacks in the log: %s", n, r.logs)
	}
	if got := r.post(t, "/v1/chat/completions", `{"model":"target",`+hello+`}`, "X-Paceline-Speculation: 2"); got.status != 200 {
		t.Errorf("afterwards: %d %s", got.status, got.body)
	}
}

// panicController panics when some of the answer is out.
type panicController struct{}

func (panicController) Length(v speculate.View) int {
	if v.Answer > 3 {
		panic("scripted")
	}
	return 0
}

func (panicController) Observe(speculate.Round) {}
