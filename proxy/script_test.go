package proxy

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"paceline/draft"
	"paceline/engine"
	"paceline/proxy/wire"
	"paceline/speculate"
	"paceline/verify"
	"paceline/vocab"
)

// script is a target whose answer is written down: its words, one token each,
// then the token 0, which ends it. Its drafter knows the answer too, but for
// every fifth word.
type script struct {
	words  []string
	prompt []vocab.Token
	caps   engine.Capabilities

	refuse  error // of round 0
	breakAt int   // the plain stream breaks before this word (> 0), and verifications fail
	panicAt int   // the same with a panic
	opaque  bool  // the first chunk is more than text
	// From word holdAt on (> 0) a token of a plain stream without a limit takes
	// hold: rounds are faster.
	holdAt int
	hold   time.Duration
	// step is asked before every token and verification; nil: no waiting.
	step func(ctx context.Context, at int) error

	open     atomic.Int64 // streams that are open
	verifies atomic.Int64
	mu       sync.Mutex
	seen     []Generation // what was asked for
}

func newScript(words ...string) *script {
	return &script{
		words: words, prompt: []vocab.Token{1, 2, 3},
		caps: engine.Capabilities{
			URL: "http://127.0.0.1:1", Dialect: "vllm", Model: "target", MaxModelLen: 2048, VocabSize: 5000,
			TokenPrompts: true, ChatTokens: true, Detokenize: true, EOS: []vocab.Token{0},
			Modes: []engine.ModeStatus{{Mode: "score", OK: true}, {Mode: "fan-out", OK: true}},
		},
	}
}

const firstWord = 10 // its token

func (s *script) Capabilities() engine.Capabilities { return s.caps }

func (s *script) Dialect(chat bool) Dialect {
	return Dialect{Effective: scriptSettings, Fields: engine.Fields{
		"model": {Rule: engine.Handled}, "messages": {Rule: engine.Handled}, "prompt": {Rule: engine.Handled},
		"stream": {Rule: engine.Handled}, "stream_options": {Rule: engine.Handled}, "max_tokens": {Rule: engine.Handled},
		"stop": {Rule: engine.Handled}, "temperature": {Rule: engine.Carried}, "user": {Rule: engine.Harmless},
		"logprobs": {Rule: engine.Unsupported, Reason: "logprobs"},
	}}
}

func scriptSettings(_ *engine.Capabilities, _ bool, body gjson.Result) (engine.Settings, error) {
	t := body.Get("temperature")
	if t.Exists() && t.Type != gjson.Number {
		return engine.Settings{}, wire.Invalid("temperature", "temperature must be a number")
	}
	s := engine.Settings{Temperature: t.Num, Known: true, MaxTokens: int(body.Get("max_tokens").Int())}
	if stop := body.Get("stop"); stop.Exists() {
		s.Stop = []string{stop.String()}
	}
	return s, nil
}

func (s *script) Generate(g Generation) speculate.Target {
	s.mu.Lock()
	s.seen = append(s.seen, g)
	s.mu.Unlock()
	return &scriptRun{script: s, limit: g.Settings.MaxTokens}
}

func (s *script) asked() []Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func (s *script) token(at int) vocab.Token {
	if at >= len(s.words) {
		return 0
	}
	return vocab.Token(firstWord + at)
}

func (s *script) wait(ctx context.Context, at int) error {
	switch {
	case s.panicAt > 0 && at >= s.panicAt:
		panic("scripted")
	case s.breakAt > 0 && at >= s.breakAt:
		return io.ErrUnexpectedEOF
	case s.step != nil:
		return s.step(ctx, at)
	}
	return ctx.Err()
}

// scriptRun is one generation.
type scriptRun struct {
	*script
	limit int
}

func (r *scriptRun) Stream(ctx context.Context, after []vocab.Token, limit int) (speculate.Stream, error) {
	if r.refuse != nil {
		return nil, r.refuse
	}
	hold := r.hold
	if limit > 0 {
		hold = 0
	}
	if limit == 0 || r.limit > 0 && limit > r.limit-len(after) {
		limit = r.limit - len(after)
	}
	r.open.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	return &scriptStream{script: r.script, ctx: ctx, cancel: cancel, at: len(after), left: limit, hold: hold}, nil
}

func (r *scriptRun) Verify(ctx context.Context, after, d []vocab.Token) (verify.Pass, error) {
	r.verifies.Add(1)
	if err := r.wait(ctx, len(after)); err != nil {
		return verify.Pass{}, err
	}
	p := verify.Pass{Mode: verify.FanOut, Cached: -1, Computed: -1, Calls: 1}
	for i := range len(d) + 1 {
		id := r.token(len(after) + i)
		c := verify.Choice{Token: id, Stop: id == 0, HasText: true}
		if at := len(after) + i; at < len(r.words) {
			c.Text = r.words[at]
		}
		p.Choices = append(p.Choices, c)
	}
	return p, nil
}

func (r *scriptRun) Decode(ctx context.Context, tokens []vocab.Token) (string, error) {
	var text strings.Builder
	for _, id := range tokens {
		if at := int(id) - firstWord; at >= 0 {
			text.WriteString(r.words[at])
		}
	}
	return text.String(), ctx.Err()
}

// Draft implements draft.Drafter.
func (s *script) Draft(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
	d := draft.Draft{Source: "script"}
	for at := len(c) - len(s.prompt); len(d.Tokens) < k; at++ {
		id := s.token(at)
		if at%5 == 4 {
			id = firstWord
		}
		d.Tokens = append(d.Tokens, id)
	}
	return d, ctx.Err()
}

type scriptStream struct {
	*script
	ctx    context.Context // of the wait for the next token
	cancel func()
	at     int
	left   int // tokens that it may still deliver; negative or 0 at the start: no limit
	sent   int
	hold   time.Duration
	over   bool
	closed sync.Once
}

func (s *scriptStream) Next() (speculate.Chunk, error) {
	if s.over {
		return speculate.Chunk{}, io.EOF
	}
	if s.hold > 0 && s.at >= s.holdAt {
		select {
		case <-time.After(s.hold):
		case <-s.ctx.Done():
		}
	}
	if err := s.wait(s.ctx, s.at); err != nil {
		return speculate.Chunk{}, err
	}
	c := speculate.Chunk{Tokens: []vocab.Token{s.token(s.at)}, CachedTokens: -1}
	if s.at == 0 && s.sent == 0 {
		c.Prompt, c.CachedTokens, c.Opaque = s.prompt, 2, s.opaque
	}
	if s.at < len(s.words) {
		c.Text = s.words[s.at]
	} else {
		c.Finish = "stop"
	}
	s.at++
	s.sent++
	if c.Finish == "" && s.sent == s.left {
		c.Finish = "length"
	}
	s.over = c.Finish != ""
	return c, nil
}

func (s *scriptStream) Close() error {
	s.closed.Do(func() { s.open.Add(-1) })
	s.cancel()
	return nil
}
