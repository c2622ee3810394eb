package speculate

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// A world that behaves like vLLM 0.32: text by DecodeStream (a token whose
// window ends in U+FFFD shows nothing, *all* of it is held), merged chunks,
// whole-prompt text where a prompt ends inside a character, EOS hidden,
// special tokens without text, tokens that mix a whole and half a character.
var rpieces = []string{"", "a", "b", " the", "\xe3", "\x81\x93", "ab", " \xf0\x9f", "\x98\x80", "a\xe3", "\n", "\uFFFD", "" /* special, skipped */, "\x93b"}

func rbytes(ids []vocab.Token) (b []byte) {
	for _, id := range ids {
		b = append(b, rpieces[id]...)
	}
	return b
}

// lossy is Rust's/Python's replacement: one U+FFFD for a maximal partial sequence.
func lossy(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			s.WriteString("\uFFFD")
			for n < len(b) && n < 4 && !utf8.RuneStart(b[n]) && !utf8.FullRune(b[:n]) {
				n++
			}
		} else {
			s.Write(b[:n])
		}
		b = b[n:]
	}
	return s.String()
}

func rdecode(ids []vocab.Token) string { return lossy(rbytes(ids)) }

// vstream is tokenizers' DecodeStream as vLLM uses it (the simple form: whole context).
type vstream struct {
	ids   []vocab.Token
	shown string
}

func newVstream(context []vocab.Token) *vstream {
	v := &vstream{ids: slices.Clone(context)}
	if t := rdecode(context); !strings.HasSuffix(t, "\uFFFD") {
		v.shown = t
	}
	return v
}

func (v *vstream) step(id vocab.Token) string {
	v.ids = append(v.ids, id)
	t := rdecode(v.ids)
	if len(t) <= len(v.shown) || strings.HasSuffix(t, "\uFFFD") {
		return ""
	}
	fresh := t[len(v.shown):]
	v.shown = t
	return fresh
}

type rworld struct {
	seed                                              uint64
	limits                                            Limits
	mode                                              verify.Mode
	merge, finishApart, role                          bool
	lie, draftFails, verifyFails, breaks, decodeFails int
	shortDraft                                        bool
	jitter                                            bool
	mu                                                sync.Mutex
	rng                                               *rand.Rand
	inStream, inVerify                                atomic.Bool
	open                                              atomic.Int64
	drafts                                            atomic.Int64
	t                                                 interface{ Errorf(string, ...any) }
}

var rprompt = []vocab.Token{1, 2, 3}

func (w *rworld) percent(p int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(100) < p
}

func (w *rworld) pause() {
	if w.jitter && w.percent(30) {
		time.Sleep(time.Duration(w.seed%5) * 10 * time.Microsecond)
	}
}

func (w *rworld) next(ctx []vocab.Token) vocab.Token {
	h := w.seed
	for _, t := range ctx[max(0, len(ctx)-6):] {
		h = (h ^ uint64(t)) * 0x9E3779B97F4A7C15
		h ^= h >> 29
	}
	n := uint64(len(rpieces))
	v := h % (n * 3)
	if v == 0 && len(ctx)-len(rprompt) >= w.limits.MinTokens {
		return 0
	}
	if v%n == 0 {
		return 1
	}
	return vocab.Token(v % n)
}

// want: vLLM's own, one token at a time.
func (w *rworld) want() (tokens []vocab.Token, text, finish, stop string) {
	v := newVstream(rprompt)
	for {
		id := w.next(append(slices.Clone(rprompt), tokens...))
		tokens = append(tokens, id)
		if id == 0 {
			return tokens, text, "stop", ""
		}
		fresh := v.step(id)
		text += fresh
		if len(tokens) > w.limits.MinTokens && fresh != "" {
			end := -1
			for _, s := range w.limits.Stop {
				from := max(0, len(text)-len(fresh)-len(s)+1)
				if i := strings.Index(text[from:], s); i >= 0 && (end < 0 || from+i+len(s) < end) {
					end, stop = from+i+len(s), s
				}
			}
			if end >= 0 {
				if !w.limits.IncludeStop {
					end -= len(stop)
				}
				return tokens, text[:end], "stop", stop
			}
		}
		if len(tokens) == w.limits.MaxTokens {
			return tokens, text, "length", ""
		}
	}
}

func (w *rworld) Decode(ctx context.Context, ids []vocab.Token) (string, error) {
	w.pause()
	if w.percent(w.decodeFails) {
		return "", errFault
	}
	return rdecode(ids), ctx.Err()
}

func (w *rworld) Verify(ctx context.Context, after, d []vocab.Token) (verify.Pass, error) {
	if w.inVerify.Swap(true) || w.inStream.Load() {
		w.t.Errorf("verify beside a stream or verify")
	}
	defer w.inVerify.Store(false)
	w.pause()
	if len(after) >= w.limits.MaxTokens {
		w.t.Errorf("verify beyond the limit")
	}
	if len(after) > 0 && after[len(after)-1] == 0 {
		w.t.Errorf("verify after the end")
	}
	if w.percent(w.verifyFails) {
		return verify.Pass{}, errFault
	}
	p := verify.Pass{Mode: w.mode, Cached: -1, Computed: -1}
	c := slices.Concat(rprompt, after)
	for i := range len(d) + 1 {
		at := slices.Concat(c, d[:i])
		id := w.next(at)
		x := verify.Choice{Token: id, Stop: id == 0}
		if i < len(d) {
			p.Rows = append(p.Rows, verify.Row{{Token: id + 1, Logprob: -1}, {Token: id, Logprob: -.5}})
		}
		if w.mode == verify.FanOut {
			x.HasText = true
			if id != 0 {
				x.Text = newVstream(at).step(id)
			}
		}
		p.Choices = append(p.Choices, x)
	}
	p.Bonus = p.Choices[len(d)]
	return p, nil
}

func (w *rworld) Stream(ctx context.Context, after []vocab.Token, limit int) (Stream, error) {
	if w.inStream.Swap(true) || w.inVerify.Load() {
		w.t.Errorf("a second source")
	}
	w.open.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	left := w.limits.MaxTokens - len(after)
	if limit > 0 {
		left = min(left, limit)
	}
	at := slices.Concat(rprompt, after)
	return &rstream{w: w, ctx: ctx, cancel: cancel, at: at, left: left, first: len(after) == 0, v: newVstream(at)}, nil
}

type rstream struct {
	w      *rworld
	ctx    context.Context
	cancel func()
	at     []vocab.Token
	left   int
	first  bool
	over   bool
	finish string
	closed atomic.Bool
	once   sync.Once
	extra  int
	v      *vstream
}

func (s *rstream) Close() error {
	if !s.closed.Swap(true) {
		s.w.open.Add(-1)
	}
	s.cancel()
	return nil
}
func (s *rstream) end() { s.once.Do(func() { s.w.inStream.Store(false) }) }

func (s *rstream) Next() (Chunk, error) {
	if s.over {
		s.end()
		return Chunk{}, io.EOF
	}
	s.w.pause()
	if s.closed.Load() {
		s.extra++
		if s.extra > 2 || s.w.percent(50) {
			s.end()
			return Chunk{}, errors.New("closed")
		}
	}
	c := Chunk{CachedTokens: -1}
	if s.first {
		c.Prompt, s.first = rprompt, false
		if s.w.role {
			return c, nil
		}
	} else if s.w.percent(s.w.breaks) {
		s.end()
		return Chunk{}, errFault
	}
	if s.finish != "" {
		s.over = true
		return Chunk{Finish: s.finish}, nil
	}
	n := 1
	if s.w.merge && s.w.percent(40) {
		n = 3
	}
	for ; n > 0 && s.finish == ""; n-- {
		id := s.w.next(s.at)
		s.at = append(s.at, id)
		c.Tokens = append(c.Tokens, id)
		s.left--
		if id != 0 {
			c.Text += s.v.step(id)
		}
		switch {
		case id == 0:
			s.finish = "stop"
		case s.left == 0:
			s.finish = "length"
		}
	}
	if s.finish != "" && !s.w.finishApart {
		c.Finish, s.over = s.finish, true
	}
	return c, nil
}

func (w *rworld) Draft(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
	w.drafts.Add(1)
	w.pause()
	if w.percent(w.draftFails) {
		return draft.Draft{}, errFault
	}
	d := draft.Draft{Source: "model"}
	c = slices.Clone(c)
	for range k {
		id := w.next(c)
		if w.percent(w.lie) {
			id = vocab.Token(w.seed % 11)
		}
		d.Tokens = append(d.Tokens, id)
		c = append(c, id)
		if id == 0 || w.shortDraft && w.percent(50) {
			break // as a real engine: the end is included, nothing follows it
		}
	}
	return d, nil
}

func runWorld(r *rapid.T, w *rworld, o Options) {
	w.rng = rand.New(rand.NewPCG(w.seed, 1))
	tokens, text, finish, stop := w.want()
	var got strings.Builder
	o.Limits, o.Drafter = w.limits, w
	res, err := Run(context.Background(), w, o, func(p Piece) error { got.WriteString(p.Text); return nil })
	if err != nil {
		if (w.breaks > 0 || w.decodeFails > 0) && errors.Is(err, errFault) {
			return
		}
		r.Fatal(err)
	}
	if got.String() != text || res.Finish != finish || res.Completion != len(tokens) || res.StopString != stop {
		r.Fatalf("got  %q, %s %q, %d tokens\nwant %q, %s %q, %d tokens %v", got.String(), res.Finish, res.StopString, res.Completion, text, finish, stop, len(tokens), tokens)
	}
	if w.open.Load() != 0 {
		r.Fatal("a stream was left open")
	}
}

func answersAre(setup func(r *rapid.T, w *rworld)) func(t *testing.T) {
	return func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			pct := func(name string) int { return rapid.SampledFrom([]int{0, 0, 5, 30}).Draw(r, name) }
			w := &rworld{seed: rapid.Uint64().Draw(r, "seed"), t: r,
				lie: rapid.SampledFrom([]int{0, 10, 50, 100}).Draw(r, "lie"), draftFails: pct("draftFails"),
				breaks: pct("breaks") / 3, verifyFails: pct("verifyFails"), decodeFails: pct("decodeFails") / 6,
				role: rapid.Bool().Draw(r, "role"),
			}
			w.limits = Limits{MaxTokens: rapid.IntRange(1, 60).Draw(r, "max"), Context: rapid.SampledFrom([]int{0, 1000}).Draw(r, "ctx"), Ends: []vocab.Token{0},
				MinTokens: rapid.SampledFrom([]int{0, 0, 3, 20}).Draw(r, "min")}
			w.limits.MinTokens = min(w.limits.MinTokens, w.limits.MaxTokens)
			if rapid.Bool().Draw(r, "score") {
				w.mode = verify.Score
			}
			w.decodeFails = 0
			setup(r, w)
			runWorld(r, w, Options{Eager: rapid.Bool().Draw(r, "eager"),
				Costs:      Costs{Token: 2, FirstDraft: time.Duration(rapid.IntRange(0, 8).Draw(r, "entry"))},
				Controller: &random{rand.New(rand.NewPCG(w.seed, 2)), rapid.SampledFrom([]int{1, 4, 12}).Draw(r, "k")}})
		})
	}
}

func stopsOf(r *rapid.T, w *rworld) {
	w.limits.Stop = rapid.SliceOfN(rapid.SampledFrom([]string{"ab", " the a", "こ", "a", " ", "\n\n", "b", "aba", "aこ", " 😀"}), 0, 2).Draw(r, "stop")
	w.limits.IncludeStop = rapid.Bool().Draw(r, "include")
}

func TestWorldPlainChunks(t *testing.T) { answersAre(func(r *rapid.T, w *rworld) {})(t) }
func TestWorldStops(t *testing.T)       { answersAre(stopsOf)(t) }
func TestWorldMerged(t *testing.T) {
	answersAre(func(r *rapid.T, w *rworld) { w.merge = true })(t)
}
func TestWorldMergedStops(t *testing.T) {
	answersAre(func(r *rapid.T, w *rworld) { stopsOf(r, w); w.merge = true })(t)
}
func TestWorldFinishApart(t *testing.T) {
	answersAre(func(r *rapid.T, w *rworld) { w.finishApart = true })(t)
}
func TestWorldJitter(t *testing.T) {
	answersAre(func(r *rapid.T, w *rworld) { stopsOf(r, w); w.merge = rapid.Bool().Draw(r, "merge"); w.jitter = true })(t)
}
