package speculate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a target and a drafter over a small vocabulary: the next token is a
// function of the context, so the whole answer is known beforehand. Token 0
// ends; the others are pieces of text, some of them halves of characters.
type world struct {
	seed   uint64
	limits Limits

	// What goes wrong, each a probability in percent, drawn from rng (guarded
	// by mu: calls come from several goroutines).
	lie, draftFails, verifyFails, streamBreaks, ownText, decodeFails int
	mode                                                             verify.Mode
	delay                                                            func(what string) time.Duration
	mu                                                               sync.Mutex
	rng                                                              *rand.Rand

	streams, verifies, open atomic.Int64
	inStream, inVerify      atomic.Bool
	t                       interface{ Errorf(string, ...any) }
}

var pieces = []string{"", "a", "b", " the", "\xe3", "\x81\x93", "ab", "\xf0\x9f", "\x98\x80", "c ", "\n"}

func (w *world) percent(p int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(100) < p
}

func (w *world) wait(ctx context.Context, what string) error {
	if w.delay == nil {
		return ctx.Err()
	}
	if !sleep(ctx, w.delay(what)) {
		return context.Cause(ctx)
	}
	return nil
}

// next is the target's function of the context.
func (w *world) next(ctx []vocab.Token) vocab.Token {
	h := w.seed
	for _, t := range ctx[max(0, len(ctx)-6):] {
		h = (h ^ uint64(t)) * 0x9E3779B97F4A7C15
		h ^= h >> 29
	}
	v := h % 64
	if len(ctx)-len(prompt) < w.limits.MinTokens && v%11 == 0 {
		return 1
	}
	return vocab.Token(v % 11)
}

var prompt = []vocab.Token{1, 2, 3}

// want is the oracle: one token at a time.
func (w *world) want() (tokens []vocab.Token, text, finish string) {
	st := stops{list: w.limits.Stop, include: w.limits.IncludeStop}
	vt := vocab.NewText(prompt)
	for {
		id := w.next(append(slices.Clone(prompt), tokens...))
		tokens = append(tokens, id)
		if id == 0 {
			return tokens, text + st.flush(), "stop"
		}
		vt.Add([]vocab.Token{id}, "", 0, false)
		base, window, _ := vt.Ask()
		fresh := vt.Answer(decode(base), decode(window))
		if len(tokens) <= w.limits.MinTokens {
			text += st.skip(fresh)
		} else {
			show, found := st.feed(fresh)
			text += show
			if found != "" {
				return tokens, text, "stop"
			}
		}
		if len(tokens) == w.limits.MaxTokens {
			return tokens, text + st.flush(), "length"
		}
	}
}

func decode(ids []vocab.Token) string {
	var b []byte
	for _, id := range ids {
		b = append(b, pieces[id]...)
	}
	return strings.ToValidUTF8(fix(b), "\uFFFD")
}

// fix makes each invalid byte its own replacement, so that runs do not merge.
func fix(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			s.WriteString("\uFFFD")
		} else {
			s.Write(b[:n])
		}
		b = b[n:]
	}
	return s.String()
}

var errFault = errors.New("fault")

func (w *world) Decode(ctx context.Context, ids []vocab.Token) (string, error) {
	if w.percent(w.decodeFails) {
		return "", errFault
	}
	return decode(ids), w.wait(ctx, "decode")
}

func (w *world) Verify(ctx context.Context, after, d []vocab.Token) (verify.Pass, error) {
	if w.inVerify.Swap(true) || w.inStream.Load() {
		w.t.Errorf("a verification was sent while a stream was open or another was out")
	}
	defer w.inVerify.Store(false)
	w.verifies.Add(1)
	if err := w.wait(ctx, "verify"); err != nil {
		return verify.Pass{}, err
	}
	if w.percent(w.verifyFails) {
		if len(d) > 0 && w.percent(50) {
			return verify.Pass{Mode: w.mode}, nil // evidence that does not fit
		}
		return verify.Pass{}, errFault
	}
	p := verify.Pass{Mode: w.mode, Cached: -1, Computed: -1, Calls: 1}
	c := slices.Concat(prompt, after)
	for i := range len(d) + 1 {
		id := w.next(append(slices.Clone(c), d[:i]...))
		if i < len(d) {
			p.Rows = append(p.Rows, verify.Row{{Token: id + 1, Logprob: -1}, {Token: id, Logprob: -.5}})
		}
		x := verify.Choice{Token: id, Stop: id == 0}
		if w.percent(w.ownText) {
			x.Text, x.HasText = pieces[id], utf8.ValidString(pieces[id])
		}
		p.Choices = append(p.Choices, x)
	}
	p.Bonus = p.Choices[len(d)]
	if w.mode == verify.Score {
		p.Choices = nil
	}
	return p, nil
}

func (w *world) Stream(ctx context.Context, after []vocab.Token, limit int) (Stream, error) {
	if w.inStream.Swap(true) || w.inVerify.Load() {
		w.t.Errorf("a stream was opened while another or a verification was out")
	}
	w.streams.Add(1)
	w.open.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	if limit == 0 || limit > w.limits.MaxTokens-len(after) {
		limit = w.limits.MaxTokens - len(after)
	}
	return &fakeStream{w: w, limit: len(prompt) + len(after) + limit, ctx: ctx, cancel: cancel, at: slices.Concat(prompt, after), first: len(after) == 0, text: vocab.NewText(prompt)}, nil
}

type fakeStream struct {
	w      *world
	ctx    context.Context // of the wait for the next token
	cancel func()
	at     []vocab.Token
	limit  int // prompt and answer
	first  bool
	over   bool
	closed atomic.Bool
	once   sync.Once
	extra  int // chunks that are still delivered after Close
	text   *vocab.Text
}

func (s *fakeStream) Close() error {
	if !s.closed.Swap(true) {
		s.w.open.Add(-1)
	}
	s.cancel()
	return nil
}

func (s *fakeStream) end() { s.once.Do(func() { s.w.inStream.Store(false) }) }

func (s *fakeStream) Next() (Chunk, error) {
	if s.over {
		s.end()
		return Chunk{}, io.EOF
	}
	if s.closed.Load() {
		s.extra++
		if s.extra > 2 || s.w.percent(50) {
			s.end()
			return Chunk{}, errors.New("closed")
		}
	}
	if err := s.w.wait(s.ctx, "token"); err != nil && !s.closed.Load() {
		s.end()
		return Chunk{}, err
	}
	if !s.first && s.w.percent(s.w.streamBreaks) {
		s.end()
		return Chunk{}, errFault
	}
	var c Chunk
	if s.first {
		c.Prompt, s.first = prompt, false
	}
	id := s.w.next(s.at)
	s.at = append(s.at, id)
	c.Tokens = []vocab.Token{id}
	if id != 0 {
		s.text.Add(c.Tokens, "", 0, false)
		base, window, _ := s.text.Ask()
		c.Text = s.text.Answer(decode(base), decode(window))
	}
	switch {
	case id == 0:
		c.Finish, s.over = "stop", true
	case len(s.at) == s.limit:
		c.Finish, s.over = "length", true
	}
	return c, nil
}

// Draft lies now and then.
func (w *world) Draft(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
	if err := w.wait(ctx, "draft"); err != nil {
		return draft.Draft{}, err
	}
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
	}
	return d, nil
}

// random chooses lengths 0..12 at random: forced switches in both directions.
type random struct {
	rng *rand.Rand
	max int
}

func (r *random) Length(View) int { return r.rng.IntN(r.max+1) * r.rng.IntN(2) }
func (r *random) Observe(Round)   {}

// Whatever is drafted, cut, broken or late: the answer is the oracle's.
func TestTheAnswerIsTheTargetsOwn(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		pct := func(name string) int { return rapid.SampledFrom([]int{0, 0, 5, 30}).Draw(r, name) }
		w := &world{
			seed: rapid.Uint64().Draw(r, "seed"), t: r,
			lie: rapid.SampledFrom([]int{0, 10, 50, 100}).Draw(r, "lie"), draftFails: pct("draftFails"),
			streamBreaks: pct("streamBreaks") / 3, ownText: rapid.SampledFrom([]int{0, 90, 100}).Draw(r, "ownText"),
			verifyFails: pct("verifyFails"),
			limits: Limits{
				MaxTokens: rapid.IntRange(1, 90).Draw(r, "max"), Context: 1000, Ends: []vocab.Token{0},
				MinTokens: rapid.SampledFrom([]int{0, 0, 3, 20}).Draw(r, "min"),
				Stop:      rapid.SliceOfN(rapid.SampledFrom([]string{"ab", "the a", "こ", "c \n", "\n\n", "b", "aba"}), 0, 2).Draw(r, "stop"), IncludeStop: rapid.Bool().Draw(r, "include"),
			},
		}
		if rapid.Bool().Draw(r, "score") {
			w.mode = verify.Score
		}
		w.limits.MinTokens = min(w.limits.MinTokens, w.limits.MaxTokens)
		w.rng = rand.New(rand.NewPCG(w.seed, 1))
		tokens, text, finish := w.want()
		var got strings.Builder
		res, err := Run(context.Background(), w, Options{
			Limits: w.limits, Drafter: w, Eager: rapid.Bool().Draw(r, "eager"),
			Costs:      Costs{Token: 2, FirstDraft: time.Duration(rapid.IntRange(0, 8).Draw(r, "entry"))},
			Controller: &random{rand.New(rand.NewPCG(w.seed, 2)), rapid.SampledFrom([]int{1, 4, 12}).Draw(r, "k")},
		}, func(p Piece) error { got.WriteString(p.Text); return nil })
		if err != nil {
			if w.streamBreaks > 0 && errors.Is(err, errFault) {
				return // broke twice in a row without a token
			}
			r.Fatal(err)
		}
		if got.String() != text || res.Finish != finish || res.Completion != len(tokens) {
			r.Fatalf("answer %q, %s, %d tokens; want %q, %s, %d tokens (stop %q)", got.String(), res.Finish, res.Completion, text, finish, len(tokens), res.StopString)
		}
		if w.open.Load() != 0 {
			r.Fatal("a stream was left open")
		}
	})
}

func newWorld(t *testing.T, seed uint64, max int) *world {
	return &world{seed: seed, t: t, rng: rand.New(rand.NewPCG(seed, 1)), limits: Limits{MaxTokens: max, Context: 1000, Ends: []vocab.Token{0}, MinTokens: max}}
}

// times gives each call a fixed duration, for synctest.
func times(m map[string]time.Duration) func(string) time.Duration {
	return func(what string) time.Duration { return m[what] }
}

func TestTheCourseInTime(t *testing.T) {
	run := func(t *testing.T, w *world, o Options) (Result, time.Duration) {
		t.Helper()
		began := time.Now()
		res, err := Run(t.Context(), w, o, func(Piece) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return res, time.Since(began)
	}
	const token = 150 * time.Millisecond
	clock := map[string]time.Duration{"token": token, "verify": token, "draft": 40 * time.Millisecond, "decode": 2 * time.Millisecond}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, 64)
		w.delay = times(clock)
		res, took := run(t, w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(7, true)})
		// One plain token, the draft beside it; then rounds of 8 tokens each.
		want := token + 8*(token+40*time.Millisecond)
		if took > want+10*time.Millisecond || res.Trace.Plain > 3 || len(res.Trace.Rounds) > 8 {
			t.Errorf("took %v for %d rounds and %d plain tokens, want about %v", took, len(res.Trace.Rounds), res.Trace.Plain, want)
		}
		if res.Trace.FirstToken != token {
			t.Errorf("first token after %v, the target alone takes %v", res.Trace.FirstToken, token)
		}
	})
	synctest.Test(t, func(t *testing.T) { // with the costs known round 0 ends by itself when the draft is ready
		w := newWorld(t, 7, 64)
		w.delay = times(clock)
		res, took := run(t, w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(7, true), Costs: Costs{Token: token, FirstDraft: 60 * time.Millisecond}})
		w.limits.MinTokens = 0
		if w.streams.Load() != 1 || took > 2*token+8*(token+40*time.Millisecond) {
			t.Errorf("took %v, %d streams, %d plain tokens", took, w.streams.Load(), res.Trace.Plain)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a draft that hangs costs nothing but its patience, once in a while
		w := newWorld(t, 7, 100)
		hung := times(map[string]time.Duration{"token": token, "verify": token, "draft": time.Hour, "decode": 0})
		w.delay = hung
		res, took := run(t, w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(7, true)})
		if took > 100*token || res.Trace.Plain != 100 {
			t.Errorf("took %v, the target alone takes %v", took, 100*token)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a drafter slower than the target is given up
		w := newWorld(t, 7, 400)
		w.lie = 100
		w.delay = times(map[string]time.Duration{"token": token, "verify": token, "draft": 140 * time.Millisecond})
		res, took := run(t, w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(4, false)})
		if limit := 400 * token * 106 / 100; took > limit {
			t.Errorf("took %v with %d rounds, the target alone takes %v", took, len(res.Trace.Rounds), 400*token)
		}
	})
}

func TestAClientThatLeavesEndsEverything(t *testing.T) {
	gone := errors.New("client gone")
	for _, at := range []int{0, 1, 2, 9} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 7, 64)
			w.delay = times(map[string]time.Duration{"token": time.Second, "verify": time.Second, "draft": time.Second, "decode": time.Second})
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Duration(at)*time.Second+time.Millisecond, func() { cancel(gone) })
			began := time.Now()
			_, err := Run(ctx, w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(4, true)}, func(Piece) error { return nil })
			if !errors.Is(err, gone) || time.Since(began) > time.Duration(at)*time.Second+2*time.Millisecond || w.open.Load() != 0 {
				t.Errorf("ended after %v with %v, %d streams open", time.Since(began), err, w.open.Load())
			}
		})
	}
}

func TestErrorsOfEmitAndPanicsEndTheGeneration(t *testing.T) {
	w := newWorld(t, 7, 64)
	full := errors.New("slow client")
	if _, err := Run(t.Context(), w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(4, true)}, func(Piece) error { return full }); !errors.Is(err, full) {
		t.Errorf("emit's error: %v", err)
	}
	w = newWorld(t, 7, 64)
	res, err := Run(t.Context(), w, Options{Limits: w.limits, Drafter: panicky{}, Controller: NewFixed(4, true), Eager: true}, func(Piece) error { return nil })
	if err != nil || res.Completion != 64 || res.Trace.DraftFailures == 0 {
		t.Errorf("a drafter that panics: %v, %d tokens, %d failures", err, res.Completion, res.Trace.DraftFailures)
	}
}

type panicky struct{}

func (panicky) Draft(context.Context, []vocab.Token, int) (draft.Draft, error) { panic("no draft") }

func TestNoPassBehindAStopString(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 80)
			w.limits.MinTokens, w.limits.Stop = 0, []string{"ab"}
			w.delay = times(map[string]time.Duration{"token": time.Second, "verify": time.Second, "draft": time.Second, "decode": time.Millisecond})
			tokens, text, _ := w.want()
			var got strings.Builder
			res, err := Run(t.Context(), w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(3, true)}, func(p Piece) error { got.WriteString(p.Text); return nil })
			if err != nil || got.String() != text || res.Completion != len(tokens) {
				t.Fatalf("seed %d: %v %q, want %q", seed, err, got.String(), text)
			}
			if n := int(w.verifies.Load()); n != len(res.Trace.Rounds) {
				t.Errorf("seed %d: %d verifications for %d rounds: one was wasted", seed, n, len(res.Trace.Rounds))
			}
		})
	}
}

func ExampleTrace_Survival() {
	t := &Trace{}
	t.add(Round{Drafted: 3, Accepted: 3})
	t.add(Round{Drafted: 3, Accepted: 1})
	t.add(Round{Drafted: 1, Accepted: 0})
	fmt.Printf("%.2f\n", t.Survival())
	// Output: [0.67 0.50 0.50]
}
