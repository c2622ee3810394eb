//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reply is an answer as a client sees it.
type reply struct {
	status int
	header http.Header
	sent   []byte
	raw    []byte

	text       string
	tools      string // the calls' names and arguments in a row
	finish     string
	stopReason string // as JSON; "" where there is none
	usage      usage
	spec       *specMetrics // of the proxy, in vLLM's form
	timings    *timings     // the same in llama.cpp's
	tokens     []int        // where asked for
	ends       []int        // the text's length after each token, in bytes
	gaps       []float64    // top-2 gap at each token, where log-probabilities were asked for

	chunks       int
	first, total time.Duration
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
	Details    *struct {
		Accepted *int `json:"accepted_prediction_tokens"`
		Rejected *int `json:"rejected_prediction_tokens"`
	} `json:"completion_tokens_details"`
}

type specMetrics struct {
	Steps    int     `json:"num_spec_steps"`
	Drafted  int     `json:"num_draft_tokens"`
	Accepted int     `json:"num_accepted_draft_tokens"`
	Mean     float64 `json:"mean_acceptance_length"`
	Rate     float64 `json:"draft_acceptance_rate"`
}

type timings struct {
	Drafted  int `json:"draft_n"`
	Accepted int `json:"draft_n_accepted"`
}

// calls are tool calls, or parts of them.
type calls []struct {
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

func (list calls) String() (s string) {
	for _, c := range list {
		s += c.Function.Name + c.Function.Arguments
	}
	return s
}

// piece is a body or a chunk of either endpoint.
type piece struct {
	Choices []struct {
		Index   int    `json:"index"`
		Text    string `json:"text"`
		Message struct {
			Content string `json:"content"`
			Tools   calls  `json:"tool_calls"`
		} `json:"message"`
		Delta struct {
			Content string `json:"content"`
			Tools   calls  `json:"tool_calls"`
		} `json:"delta"`
		Finish     string          `json:"finish_reason"`
		StopReason json.RawMessage `json:"stop_reason"`
		TokenIDs   []int           `json:"token_ids"`
		Logprobs   *struct {
			Top     []map[string]float64 `json:"top_logprobs"`
			Content []struct {
				Top []struct {
					Logprob float64 `json:"logprob"`
				} `json:"top_logprobs"`
			} `json:"content"`
		} `json:"logprobs"`
	} `json:"choices"`
	Usage   *usage `json:"usage"`
	Metrics *struct {
		Speculative *specMetrics `json:"speculative_decoding"`
	} `json:"metrics"`
	Timings *timings        `json:"timings"`
	Error   json.RawMessage `json:"error"`
}

func (r *reply) add(data []byte) error {
	var p piece
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("cannot read %s: %w", data, err)
	}
	if p.Error != nil {
		return fmt.Errorf("an error in the answer: %s", data)
	}
	if p.Usage != nil {
		r.usage = *p.Usage
	}
	if p.Metrics != nil && p.Metrics.Speculative != nil {
		r.spec = p.Metrics.Speculative
	}
	if p.Timings != nil {
		r.timings = p.Timings
	}
	for _, c := range p.Choices {
		if r.finish != "" {
			return fmt.Errorf("a choice after the finish: %s", data)
		}
		r.text += c.Text + c.Message.Content + c.Delta.Content
		r.tools += c.Message.Tools.String() + c.Delta.Tools.String()
		r.finish = c.Finish
		if s := string(c.StopReason); s != "null" {
			r.stopReason += s
		}
		r.tokens = append(r.tokens, c.TokenIDs...)
		for range c.TokenIDs {
			r.ends = append(r.ends, len(r.text))
		}
		if c.Logprobs != nil {
			for _, top := range c.Logprobs.Top {
				r.gaps = append(r.gaps, gap(slices.Collect(maps.Values(top))))
			}
			for _, entry := range c.Logprobs.Content {
				var values []float64
				for _, t := range entry.Top {
					values = append(values, t.Logprob)
				}
				r.gaps = append(r.gaps, gap(values))
			}
		}
	}
	return nil
}

// tokenAt is the token that a byte of the text is from, -1 for none.
func (r *reply) tokenAt(offset int) int {
	for i, end := range r.ends {
		if offset >= 0 && end > offset {
			return i
		}
	}
	return -1
}

// gap is the distance of the two largest log-probabilities.
func gap(values []float64) float64 {
	slices.Sort(values)
	if n := len(values); n > 1 {
		return values[n-1] - values[n-2]
	}
	return math.Inf(1)
}

// automatic as a field leaves the draft length to the proxy.
const automatic = "draft length"

// post sends a prompt, with fields added, and reads the answer to its end. It
// asks for rounds of a fixed length, which engines do not care about.
func post(ctx context.Context, base string, p *prompt, fields ...any) (*reply, error) {
	body := with(maps.Clone(p.body), append([]any{"model", "target"}, fields...))
	speculation := strconv.Itoa(length)
	if body[automatic] != nil {
		speculation = "auto"
		delete(body, automatic)
	}
	maps.DeleteFunc(body, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, "POST", base+p.path(), bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("X-Paceline-Speculation", speculation)
	start := time.Now()
	resp, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &reply{status: resp.StatusCode, header: resp.Header, sent: text}
	err = r.read(resp.Body, start)
	r.total = time.Since(start)
	if err != nil {
		return r, err
	}
	if r.status != 200 {
		return r, nil
	}
	return r, r.parse(body["stream"] == true)
}

func (r *reply) read(body io.Reader, start time.Time) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 && r.first == 0 {
			r.first = time.Since(start)
		}
		r.raw = append(r.raw, buf[:n]...)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %q: %w", r.raw[max(0, len(r.raw)-200):], err)
		}
	}
}

func (r *reply) parse(stream bool) error {
	if !stream {
		return r.add(r.raw)
	}
	if t := r.header.Get("Content-Type"); !strings.HasPrefix(t, "text/event-stream") {
		return fmt.Errorf("a stream of type %q: %s", t, r.raw)
	}
	events, done := Events(r.raw)
	for _, data := range events {
		if err := r.add(data); err != nil {
			return err
		}
	}
	r.chunks = len(events)
	if !done || !bytes.HasSuffix(r.raw, []byte("data: [DONE]\n\n")) {
		return fmt.Errorf("the stream does not end with [DONE]: %q", r.raw[max(0, len(r.raw)-200):])
	}
	if r.finish == "" {
		return fmt.Errorf("the stream has no finish_reason")
	}
	return nil
}

// get returns the body of a GET.
func get(ctx context.Context, url string) (string, error) {
	q, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return string(text), err
}
