package benchmark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"paceline/engine"
)

// maxEvent bounds one server-sent event of an answer.
const maxEvent = 1 << 20

// question is one chat request as the benchmark sends it, to the target and to
// the proxy alike.
type question struct {
	Model         string         `json:"model"`
	Messages      []message      `json:"messages"`
	MaxTokens     int            `json:"max_tokens"`
	Temperature   float64        `json:"temperature"` // always sent: a server's default is not 0
	Stream        bool           `json:"stream"`
	StreamOptions map[string]any `json:"stream_options"`
	// CacheSalt keeps an answer from finding its twin's tokens in the engine's
	// prefix cache: what is compared are two answers that are both new.
	CacheSalt string `json:"cache_salt,omitempty"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func (q *question) body() []byte {
	body, err := json.Marshal(q)
	if err != nil {
		panic("BUG: a question does not encode: " + err.Error())
	}
	return body
}

// event is what the benchmark reads of a chunk.
type event struct {
	Choices []struct {
		Delta struct {
			Content          string          `json:"content"`
			Reasoning        string          `json:"reasoning"`
			ReasoningContent string          `json:"reasoning_content"`
			ToolCalls        json.RawMessage `json:"tool_calls"`
		} `json:"delta"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
	Metrics *struct {
		Speculative *Rounds `json:"speculative_decoding"`
	} `json:"metrics"`
	Error json.RawMessage `json:"error"`
}

// ask sends one question and measures the stream that answers it.
func ask(ctx context.Context, c *engine.Client, q *question) (Sample, error) {
	began := time.Now()
	response, err := c.Do(ctx, &engine.Request{
		Method: "POST", Path: "/v1/chat/completions",
		Header: [][2]string{{"Content-Type", "application/json"}},
		Body:   q.body(),
	})
	if err != nil {
		return Sample{}, fmt.Errorf("cannot ask %s: %w", c.URL(), err)
	}
	defer response.Body.Close()
	if response.Status != 200 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return Sample{}, fmt.Errorf("cannot ask %s: status %d: %s", c.URL(), response.Status, text)
	}
	w := watch{began: began}
	w.sample.Mode, w.sample.Reason = response.Header.Get("X-Paceline-Mode"), response.Header.Get("X-Paceline-Reason")
	if err := w.read(engine.NewEvents(response.Body, maxEvent)); err != nil {
		return Sample{}, fmt.Errorf("cannot read the answer of %s: %w", c.URL(), err)
	}
	return w.sample, nil
}

// watch turns a stream of events into a sample.
type watch struct {
	began       time.Time
	first, last time.Time // of chunks that show text
	text        strings.Builder
	sample      Sample
}

func (w *watch) read(events *engine.Events) error {
	for {
		data, err := events.Next()
		if errors.Is(err, io.EOF) || string(data) == "[DONE]" {
			break
		}
		if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("cannot parse %.200q: %w", data, err)
		}
		if e.Error != nil {
			return fmt.Errorf("the stream says: %s", e.Error)
		}
		w.take(&e, time.Now())
	}
	w.sample.Text = w.text.String()
	switch {
	case w.sample.Finish == "":
		return errors.New("the stream ended without a finish reason")
	case w.sample.Tokens == 0:
		return errors.New("the stream ended without a usage")
	}
	return nil
}

// take reads one chunk that arrived at now.
func (w *watch) take(e *event, now time.Time) {
	if len(e.Choices) > 0 {
		choice := &e.Choices[0]
		shown := choice.Delta.Reasoning + choice.Delta.ReasoningContent + choice.Delta.Content + string(choice.Delta.ToolCalls)
		if shown != "" {
			w.text.WriteString(shown)
			w.show(now)
		}
		if choice.FinishReason != "" {
			w.sample.Finish = choice.FinishReason
			if w.first.IsZero() {
				w.show(now)
			}
			w.sample.Decode = now.Sub(w.first)
		}
	}
	if e.Usage != nil {
		w.sample.Tokens = e.Usage.CompletionTokens
	}
	if e.Metrics != nil && e.Metrics.Speculative != nil {
		w.sample.Rounds = e.Metrics.Speculative
	}
}

func (w *watch) show(now time.Time) {
	if w.first.IsZero() {
		w.first = now
		w.sample.First = now.Sub(w.began)
	} else {
		w.sample.Gaps = append(w.sample.Gaps, now.Sub(w.last))
	}
	w.last = now
}
