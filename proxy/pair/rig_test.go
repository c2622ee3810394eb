package pair_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"paceline/proxy"
	"paceline/proxy/pair"
	"paceline/proxy/plan"
	"paceline/simulate"
	"paceline/simulate/lm"
	"paceline/speculate"
)

// engines are a target and a draft on loopback.
type engines struct{ target, draft *simulate.Server }

func startEngine(t testing.TB, o simulate.Options) *simulate.Server {
	t.Helper()
	s, err := simulate.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("closing an engine: %v", err)
		}
	})
	return s
}

func startEngines(t testing.TB, target simulate.Options) engines {
	t.Helper()
	m, err := lm.Draft()
	if err != nil {
		t.Fatal(err)
	}
	target.Seed, target.Memo = 1, 1<<15
	return engines{
		target: startEngine(t, target),
		draft:  startEngine(t, simulate.Options{Name: "draft", Model: m, Seed: 2, Memo: 1 << 15}),
	}
}

// startProxy serves a pair on loopback and returns its URL.
func startProxy(t testing.TB, e engines, verify plan.Wish, eager bool, controller func() speculate.Controller) string {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	p, err := pair.Open(pair.Options{
		Name: "target", Target: pair.Endpoint{URL: e.target.URL()}, Drafts: []pair.Endpoint{{URL: e.draft.URL()}},
		Policy: plan.Policy{Rounds: true, Verify: verify}, Eager: eager, Controller: controller, Patience: 5 * time.Second, // the machine may be busy
	}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := proxy.New(proxy.Options{}, []proxy.Pair{p.Proxy()}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutting the proxy down: %v", err)
		}
		<-served
	})
	return "http://" + ln.Addr().String()
}

// answer is what a client makes of a reply, streamed or not.
type answer struct {
	Text, Finish, StopReason string
	Prompt, Completion       int

	mode             string
	steps, drafted   int
	accepted, chunks int
}

type reply struct {
	Choices []struct {
		Text    string
		Message struct{ Content string }
		Delta   struct{ Content string }
		Finish  *string         `json:"finish_reason"`
		Stop    json.RawMessage `json:"stop_reason"`
	}
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	}
	Metrics *struct {
		Speculative struct {
			Steps    int `json:"num_spec_steps"`
			Drafted  int `json:"num_draft_tokens"`
			Accepted int `json:"num_accepted_draft_tokens"`
		} `json:"speculative_decoding"`
	}
	Error json.RawMessage
}

func (a *answer) take(data []byte) error {
	var r reply
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("cannot read %q: %w", data, err)
	}
	if r.Error != nil {
		return fmt.Errorf("error: %s", r.Error)
	}
	for _, c := range r.Choices {
		a.Text += c.Text + c.Message.Content + c.Delta.Content
		if c.Finish != nil {
			a.Finish = *c.Finish
			if string(c.Stop) != "null" {
				a.StopReason = string(c.Stop)
			}
		}
	}
	if r.Usage != nil {
		a.Prompt, a.Completion = r.Usage.Prompt, r.Usage.Completion
	}
	if r.Metrics != nil {
		s := r.Metrics.Speculative
		a.steps, a.drafted, a.accepted = s.Steps, s.Drafted, s.Accepted
	}
	return nil
}

// ask sends a request as a client would.
func ask(ctx context.Context, url string, q query, stream bool) (answer, error) {
	return askBy(ctx, http.DefaultClient, url, q, stream)
}

func newRequest(ctx context.Context, url string, q query, stream bool) (*http.Request, error) {
	body := map[string]any{"model": "target", "stream": stream}
	for k, v := range q.fields {
		body[k] = v
	}
	if stream {
		body["stream_options"] = map[string]any{"include_usage": true}
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", url+q.path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

func askBy(ctx context.Context, client *http.Client, url string, q query, stream bool) (answer, error) {
	req, err := newRequest(ctx, url, q, stream)
	if err != nil {
		return answer{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{mode: resp.Header.Get("X-Paceline-Mode")}
	if r := resp.Header.Get("X-Paceline-Reason"); r != "" {
		a.mode += " " + r
	}
	if resp.StatusCode != 200 {
		return a, fmt.Errorf("status %d: %s", resp.StatusCode, data)
	}
	if !stream {
		return a, a.take(data)
	}
	done := false
	for event := range strings.SplitSeq(string(data), "\n\n") {
		event = strings.TrimPrefix(event, "data: ")
		if event == "" || done {
			continue
		}
		if event == "[DONE]" {
			done = true
			continue
		}
		a.chunks++
		if err := a.take([]byte(event)); err != nil {
			return a, err
		}
	}
	if !done {
		return a, fmt.Errorf("no [DONE] in %q", data)
	}
	return a, nil
}

// query is a request without what says where it goes and how it comes.
type query struct {
	path   string
	fields map[string]any
}

func chat(text string, fields map[string]any) query {
	f := map[string]any{"messages": []any{map[string]any{"role": "user", "content": text}}}
	for k, v := range fields {
		f[k] = v
	}
	return query{"/v1/chat/completions", f}
}

func completion(prompt any, fields map[string]any) query {
	f := map[string]any{"prompt": prompt}
	for k, v := range fields {
		f[k] = v
	}
	return query{"/v1/completions", f}
}
