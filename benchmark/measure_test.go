package benchmark

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"paceline/engine"
)

const answer = `data: {"choices":[{"delta":{"role":"assistant","content":""}}]}

data: {"choices":[{"delta":{"content":"Hel"}}]}

data: {"choices":[{"delta":{"content":"lo"}}]}

data: {"choices":[{"delta":{},"finish_reason":"stop"}]}

data: {"choices":[],"usage":{"completion_tokens":3},"metrics":{"speculative_decoding":{"num_spec_steps":1,"num_draft_tokens":4,"num_accepted_draft_tokens":1}}}

data: [DONE]

`

// serve answers every request with one text, and returns a client of it.
func serve(t *testing.T, status int, text string, see func(*http.Request)) *engine.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if see != nil {
			see(r)
		}
		w.Header().Set("X-Paceline-Mode", "speculate")
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	c, err := engine.NewClient(s.URL, engine.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAsk(t *testing.T) {
	var got map[string]any
	c := serve(t, 200, answer, func(r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
	})
	p := Plan{}
	s, err := ask(context.Background(), c, p.question(Lane{Salt: true}, "m", "Hi", "salt", 9))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"model": "m", "messages": []any{map[string]any{"role": "user", "content": "Hi"}},
		"max_tokens": 9., "temperature": 0., "stream": true,
		"stream_options": map[string]any{"include_usage": true}, "cache_salt": "salt",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the question: %s", d)
	}
	if s.Text != "Hello" || s.Finish != "stop" || s.Tokens != 3 || s.Mode != "speculate" || len(s.Gaps) != 1 {
		t.Errorf("the answer: %+v", s)
	}
	if s.Rounds == nil || *s.Rounds != (Rounds{Steps: 1, Drafted: 4, Accepted: 1}) {
		t.Errorf("the rounds: %+v", s.Rounds)
	}
	if s.First <= 0 || s.Decode < s.Gaps[0] {
		t.Errorf("first %v, decode %v, gap %v", s.First, s.Decode, s.Gaps[0])
	}
}

func TestAskRefused(t *testing.T) {
	f := func(status int, text, want string) {
		t.Helper()
		p := Plan{}
		_, err := ask(context.Background(), serve(t, status, text, nil), p.question(Lane{}, "m", "Hi", "", 1))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d %.40q: error %v, want %q", status, text, err, want)
		}
	}
	f(503, `{"error":{"message":"busy"}}`, "status 503")
	f(200, "", "without a finish reason")
	f(200, "data: {\n\n", "cannot parse")
	f(200, "data: {\"error\":{\"message\":\"broke\"}}\n\n", "the stream says")
	f(200, strings.Replace(answer, `"usage"`, `"used"`, 1), "without a usage")
}

func TestMeasureTakesTurns(t *testing.T) {
	var order []string
	lane := Lane{
		Target: Way{Client: serve(t, 200, answer, func(*http.Request) { order = append(order, "plain") })},
		Proxy:  Way{Client: serve(t, 200, answer, func(*http.Request) { order = append(order, "proxied") })},
	}
	steps := 0
	plan := Plan{Lanes: []Lane{lane}, Prompts: []string{"a", "b"}, Repeat: 2, MaxTokens: 3, Step: func() { steps++ }}
	pairs, err := Measure(context.Background(), plan)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"plain", "proxied", "proxied", "plain", "proxied", "plain", "plain", "proxied"}
	if d := cmp.Diff(want, order); d != "" {
		t.Error(d)
	}
	if len(pairs) != 4 || steps != plan.Answers() || pairs[0].Prompt != 0 || pairs[3].Prompt != 1 {
		t.Errorf("%d pairs, %d steps: %+v", len(pairs), steps, pairs)
	}
}

func TestMeasureStopsAtAnError(t *testing.T) {
	asked := 0
	c := serve(t, 500, "no", func(*http.Request) { asked++ })
	_, err := Measure(context.Background(), Plan{Lanes: []Lane{{Target: Way{Client: c}, Proxy: Way{Client: c}}}, Prompts: []string{"a", "b"}, Repeat: 3, MaxTokens: 3})
	if err == nil || !strings.Contains(err.Error(), "prompt 0 on lane 0") || asked != 1 {
		t.Errorf("asked %d times, error %v", asked, err)
	}
}
