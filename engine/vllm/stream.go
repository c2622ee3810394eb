package vllm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"github.com/valyala/fastjson"

	"paceline/engine"
	"paceline/speculate"
	"paceline/vocab"
)

const pathChat = "/v1/chat/completions"

// maxEvent bounds one event of a stream: the first one holds the whole prompt.
const maxEvent = 16 << 20

// goodbye is how long the end of a finished stream may take to arrive, so that
// its connection can be used again.
const goodbye = 2 * time.Millisecond

// Stream implements speculate.Target. Round 0 is the client's own request,
// without stop strings (the proxy looks for them in the whole text) and with
// token ids; later streams continue the ids on /v1/completions.
func (g *Generation) Stream(ctx context.Context, after []vocab.Token, limit int) (speculate.Stream, error) {
	if g.prompt == nil && len(after) == 0 {
		return g.roundZero(ctx, limit)
	}
	return g.plain(ctx, after, limit, false)
}

// roundZero sends the client's request. On a server whose chat does not return
// token ids the prompt is rendered first, if that gives the same ids.
func (g *Generation) roundZero(ctx context.Context, limit int) (speculate.Stream, error) {
	s := &stream{g: g, chat: g.r.Chat, first: true, opaque: g.r.Chat && g.caps.Reasoning}
	if g.r.Chat && !g.caps.ChatTokens {
		if body, ok := renderBody(g.r.Body, g.caps.Model); ok && g.caps.RenderChat && g.caps.TokenPrompts {
			prompt, err := g.e.tokenize(ctx, body, g.r.Header)
			if err != nil {
				return nil, err
			}
			g.learn(prompt)
			return g.plain(ctx, nil, limit, true)
		}
		s.opaque = true
	}
	path := pathCompletions
	if g.r.Chat {
		path = pathChat
	}
	n, err := g.room(0)
	if err != nil {
		return nil, err
	}
	b := append(g.begin(nil), g.first...)
	return s, s.open(ctx, path, g.finishBody(b, 0, shorter(n, limit)))
}

// plain continues after the answer so far; first says that it stands in for
// round 0.
func (g *Generation) plain(ctx context.Context, after []vocab.Token, limit int, first bool) (speculate.Stream, error) {
	if err := g.follow(after); err != nil {
		return nil, err
	}
	n, err := g.room(len(after))
	if err != nil {
		return nil, err
	}
	b := append(g.begin(nil), g.later...)
	b = append(append(append(b, `"prompt":[`...), g.ids...), `],`...)
	s := &stream{g: g, first: first}
	if first {
		s.prompt = g.prompt
	}
	return s, s.open(ctx, pathCompletions, g.finishBody(b, len(after), shorter(n, limit)))
}

// shorter is the smaller of two limits of which 0 is none.
func shorter(a, b int) int {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// finishBody appends what every stream is asked for.
func (g *Generation) finishBody(b []byte, after, limit int) []byte {
	b = append(b, `"stream":true,"stream_options":{"include_usage":true},"return_token_ids":true`...)
	if n := g.minTokens(after, limit); n > 0 {
		b = appendInt(b, "min_tokens", n)
	}
	if limit > 0 {
		b = appendInt(b, "max_tokens", limit)
	}
	return append(b, '}')
}

// stream is a running plain decoding.
type stream struct {
	g      *Generation
	chat   bool
	resp   *engine.Response
	events *engine.Events
	parser fastjson.Parser

	first  bool          // the first chunk is still to come, and is round 0's
	prompt []vocab.Token // to be returned with it, where the server does not say it
	opaque bool
	finish *speculate.Chunk // the finish chunk, while the usage behind it is awaited
	done   bool             // it was returned

	mu     sync.Mutex
	closed bool
	ended  bool // what the server still sends is not needed
}

func (s *stream) open(ctx context.Context, path string, body []byte) error {
	r := &engine.Request{Path: path, Header: s.g.r.Header, Body: body}
	resp, err := s.g.e.c.Do(ctx, r)
	if err != nil {
		return err
	}
	if resp.Status/100 != 2 {
		defer resp.Body.Close()
		return engine.NewStatusError(s.g.e.c.URL(), path, resp)
	}
	s.resp, s.events = resp, engine.NewEvents(resp.Body, maxEvent)
	return nil
}

// Close implements speculate.Stream.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.ended {
		s.resp.Discard(goodbye)
	} else {
		s.resp.Cut()
	}
	return nil
}

// Next implements speculate.Stream. The finish chunk is held until the usage
// that follows it at once has come; if that does not, it is returned without.
func (s *stream) Next() (speculate.Chunk, error) {
	for !s.done {
		data, err := s.events.Next()
		if err != nil || string(data) == "[DONE]" {
			s.end(err)
			if s.finish == nil {
				return speculate.Chunk{}, unfinished(err)
			}
			s.done = true
			return *s.finish, nil
		}
		c, ok, err := s.chunk(data)
		if err != nil {
			s.end(err)
			return speculate.Chunk{}, err
		}
		if ok {
			return c, nil
		}
	}
	return speculate.Chunk{}, io.EOF
}

func (s *stream) end(err error) {
	s.mu.Lock()
	s.ended = err == nil || err == io.EOF
	s.mu.Unlock()
}

// unfinished is the error of a stream that ended before the answer did.
func unfinished(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return fmt.Errorf("stream ended without a finish reason: %w", io.ErrUnexpectedEOF)
	case errors.Is(err, engine.ErrCut):
		return err
	}
	return fmt.Errorf("stream broke: %w", err)
}

// chunk reads one event; ok is false for those that carry nothing for the
// caller.
func (s *stream) chunk(data []byte) (c speculate.Chunk, ok bool, err error) {
	v, err := s.parser.ParseBytes(data)
	if err != nil {
		return c, false, fmt.Errorf("cannot read an event of the stream: %w", err)
	}
	if e := v.Get("error"); e != nil && e.Type() == fastjson.TypeObject {
		return c, false, &engine.StatusError{URL: s.g.e.c.URL(), Path: "", Status: statusOf(e), Body: append([]byte(nil), data...)}
	}
	list := v.GetArray("choices")
	if len(list) == 0 {
		if s.finish != nil && v.Exists("usage") {
			s.finish.CachedTokens = cachedTokens(v)
			s.done = true
			s.end(nil)
			return *s.finish, true, nil
		}
		return c, false, nil
	}
	if len(list) > 1 || list[0].GetInt("index") != 0 {
		return c, false, fmt.Errorf("cannot read an event of the stream: %w: %d choices", errAnswer, len(list))
	}
	c = speculate.Chunk{CachedTokens: -1, Opaque: s.opaque}
	if err := s.fill(&c, v, list[0]); err != nil {
		return c, false, fmt.Errorf("cannot read an event of the stream: %w", err)
	}
	if c.Finish != "" {
		held := c
		s.finish = &held
		return c, false, nil
	}
	return c, c.Prompt != nil || len(c.Tokens) > 0 || c.Text != "" || c.Opaque, nil
}

// fill sets what a choice says.
func (s *stream) fill(c *speculate.Chunk, v, choice *fastjson.Value) (err error) {
	size := s.g.caps.VocabSize
	if s.first {
		s.first = false
		c.Prompt = s.prompt
		ids := v.Get("prompt_token_ids") // chat: at the top, completions: in the choice
		if !s.chat {
			ids = choice.Get("prompt_token_ids")
		}
		if c.Prompt == nil && ids != nil && ids.Type() == fastjson.TypeArray {
			if c.Prompt, err = tokenIDs(nil, ids, size); err != nil {
				return err
			}
			s.g.learn(c.Prompt)
		}
	}
	if ids := choice.Get("token_ids"); ids != nil && ids.Type() == fastjson.TypeArray {
		if c.Tokens, err = tokenIDs(nil, ids, size); err != nil {
			return err
		}
	}
	if s.chat {
		s.delta(c, choice.GetObject("delta"))
	} else {
		c.Text = string(choice.GetStringBytes("text"))
	}
	switch c.Finish = string(choice.GetStringBytes("finish_reason")); c.Finish {
	case "":
		c.Opaque = c.Opaque || c.Text != "" && len(c.Tokens) == 0 // text without its tokens
	case "stop", "length":
	case "abort", "error":
		return fmt.Errorf("%w: the engine ended the answer with %q", errAnswer, c.Finish)
	default:
		c.Opaque = true
	}
	c.StopReason, c.HasReason = stopReason(choice)
	s.opaque = s.opaque || c.Opaque
	if c.Opaque = s.opaque; !c.Opaque && s.g.r.Settings.SkipSpecial {
		s.g.e.specials.Load().note(c.Tokens, c.Text)
	}
	return nil
}

// delta reads a chat chunk's delta. Anything but role and content means that
// the server made something of the tokens that it alone can go on with.
func (s *stream) delta(c *speculate.Chunk, delta *fastjson.Object) {
	if delta == nil {
		return
	}
	delta.Visit(func(key []byte, v *fastjson.Value) {
		switch string(key) {
		case "role":
		case "content":
			c.Text = string(v.GetStringBytes())
		default:
			empty := v.Type() == fastjson.TypeNull || v.Type() == fastjson.TypeArray && len(v.GetArray()) == 0
			c.Opaque = c.Opaque || !empty
		}
	})
}

// statusOf reads the status that vLLM writes into an error event.
func statusOf(e *fastjson.Value) int {
	if code := e.GetInt("code"); code >= 400 && code < 600 {
		return code
	}
	return 502
}

// renderBody makes the request that renders a chat, for servers whose chat
// does not return ids. ok is false where a field shapes the prompt that
// /tokenize does not take: its ids might be others.
func renderBody(body []byte, model string) (_ []byte, ok bool) {
	b := append(append([]byte(`{"model":`), quoted(model)...), ',')
	ok = true
	gjson.ParseBytes(body).ForEach(func(key, value gjson.Result) bool {
		switch key.String() {
		case "messages", "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template", "chat_template_kwargs":
			b = appendField(b, key.Raw, value.Raw)
		case "documents", "reasoning_effort", "truncate_prompt_tokens", "truncation_side":
			ok = ok && value.Type == gjson.Null
		}
		return ok
	})
	b[len(b)-1] = '}'
	return b, ok
}
