package speculate

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// T is a scripted target: each part may be replaced.
type T struct {
	stream func(ctx context.Context, after []vocab.Token, limit int) (Stream, error)
	verify func(ctx context.Context, after, d []vocab.Token) (verify.Pass, error)
	decode func(ctx context.Context, ids []vocab.Token) (string, error)
}

func (t T) Stream(ctx context.Context, a []vocab.Token, l int) (Stream, error) {
	return t.stream(ctx, a, l)
}
func (t T) Verify(ctx context.Context, a, d []vocab.Token) (verify.Pass, error) {
	return t.verify(ctx, a, d)
}
func (t T) Decode(ctx context.Context, ids []vocab.Token) (string, error) { return t.decode(ctx, ids) }

// S is a stream of chunks, a fixed time apart.
type S struct {
	ctx     context.Context
	every   time.Duration
	next    func() (Chunk, error)
	closed  atomic.Bool
	onClose func()
	done    chan struct{}
}

func newS(ctx context.Context, every time.Duration, next func() (Chunk, error)) *S {
	return &S{ctx: ctx, every: every, next: next, done: make(chan struct{})}
}
func (s *S) Close() error {
	if !s.closed.Swap(true) {
		close(s.done)
		if s.onClose != nil {
			s.onClose()
		}
	}
	return nil
}
func (s *S) Next() (Chunk, error) {
	select {
	case <-time.After(s.every):
	case <-s.done:
		return Chunk{}, errors.New("closed")
	case <-s.ctx.Done():
		return Chunk{}, s.ctx.Err()
	}
	return s.next()
}

type drafter func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error)

func (f drafter) Draft(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
	return f(ctx, c, k)
}

// letters is a target whose answer is a, b, c, … with ids 10, 11, 12, …
func letters(n int, token, pass time.Duration) T {
	id := func(i int) vocab.Token { return vocab.Token(10 + i) }
	return T{
		stream: func(ctx context.Context, after []vocab.Token, limit int) (Stream, error) {
			i, first := len(after), len(after) == 0
			end := n
			if limit > 0 {
				end = min(n, i+limit)
			}
			over := false
			return newS(ctx, token, func() (Chunk, error) {
				if over {
					return Chunk{}, io.EOF
				}
				c := Chunk{Tokens: []vocab.Token{id(i)}, Text: "x", CachedTokens: -1}
				if first {
					c.Prompt, first = []vocab.Token{1}, false
				}
				if i++; i >= end {
					c.Finish, over = "length", true
				}
				return c, nil
			}), nil
		},
		verify: func(ctx context.Context, after, d []vocab.Token) (verify.Pass, error) {
			if !sleep(ctx, pass) {
				return verify.Pass{}, ctx.Err()
			}
			var p verify.Pass
			for i := range len(d) + 1 {
				p.Choices = append(p.Choices, verify.Choice{Token: id(len(after) + i), Text: "x", HasText: true})
			}
			return p, nil
		},
		decode: func(ctx context.Context, ids []vocab.Token) (string, error) {
			return strings.Repeat("x", len(ids)), nil
		},
	}
}

func ahead(c []vocab.Token, k int) (d draft.Draft) {
	for i := range k {
		d.Tokens = append(d.Tokens, vocab.Token(10+len(c)-1+i))
	}
	return d
}

func drop(Piece) error { return nil }

// A drafter that has little to say is asked over and over at one position.
func TestShortDraftsDoNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		_, err := Run(t.Context(), letters(40, 150*time.Millisecond, 150*time.Millisecond), Options{
			Limits: Limits{MaxTokens: 40}, Controller: NewFixed(8, true),
			Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
				asked++
				sleep(ctx, time.Millisecond)
				return ahead(c, 2), nil // as a draft model that sees the answer's end, or its context's
			}),
		}, drop)
		if err != nil || asked > 45 {
			t.Errorf("%v: asked %d times for an answer of 40 tokens", err, asked)
		}
	})
}

// A draft endpoint that answers beside the stream and hangs in rounds.
func TestFlappingDraftIsGivenUp(t *testing.T) {
	const token = 150 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		n := 0
		began := time.Now()
		res, err := Run(t.Context(), letters(2000, token, token), Options{
			Limits: Limits{MaxTokens: 2000}, Controller: NewFixed(8, false),
			Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
				if n++; n%2 == 1 {
					d := ahead(c, k)
					d.Tokens[3] = 1 // accepted up to here
					return d, nil
				}
				<-ctx.Done()
				return draft.Draft{}, ctx.Err()
			}),
		}, drop)
		if took := time.Since(began); err != nil || took > 2000*token*106/100 {
			t.Errorf("%v: took %v, the target alone takes %v (%d rounds, %d drafts failed)", err, took, 2000*token, len(res.Trace.Rounds), res.Trace.DraftFailures)
		}
	})
}

// Every second verification fails.
func TestFlappingVerifyIsGivenUp(t *testing.T) {
	const token = 150 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := letters(2000, token, token)
		good, n := w.verify, 0
		w.verify = func(ctx context.Context, a, d []vocab.Token) (verify.Pass, error) {
			if n++; n%2 == 0 {
				sleep(ctx, 10*token)
				return verify.Pass{}, errFault
			}
			return good(ctx, a, d)
		}
		began := time.Now()
		res, err := Run(t.Context(), w, Options{
			Limits: Limits{MaxTokens: 2000}, Controller: NewFixed(4, false),
			Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
				return ahead(c, k), nil
			}),
		}, drop)
		if took := time.Since(began); err != nil || took > 2000*token*106/100 {
			t.Errorf("%v: took %v, the target alone takes %v (%d rounds, %d failed)", err, took, 2000*token, len(res.Trace.Rounds), res.Trace.VerifyFailures)
		}
	})
}

// After a cut the target waits for a draft that was asked without a bound.
func TestACutDoesNotWaitForAnUnboundedDraft(t *testing.T) {
	s := NewSession(Limits{MaxTokens: 50}, &seq{8, 8, 8, 2, 4}, true, false)
	s.Next()
	step := func(e Event) Ready { s.Step(e); return s.Next() }
	step(Delivered{Chunk{Prompt: []vocab.Token{1}, Tokens: []vocab.Token{10}}})        // asks for 8
	step(Drafted{Draft: draft.Draft{Tokens: []vocab.Token{11, 12, 13}}})               // too few to cut
	step(Delivered{Chunk{Tokens: []vocab.Token{11}}})                                  // asks again
	if r := step(Delivered{Chunk{Tokens: []vocab.Token{12}}}); !r.Cut || !s.drafting { // 1 of 2 is enough
		t.Fatalf("%+v", r)
	}
	step(Delivered{Chunk{Tokens: []vocab.Token{99}}}) // not what was drafted
	if r := step(Ended{}); !r.Stream && !r.Verify && r.Draft == 0 {
		t.Errorf("nothing is started: the target waits for a draft that has %v", maxPatience)
	}
}

type seq []int

func (q *seq) Length(View) int {
	n := (*q)[0]
	if len(*q) > 1 {
		*q = (*q)[1:]
	}
	return n
}
func (q *seq) Observe(Round) {}

// A draft model whose prefill takes longer than k tokens of the target.
func TestASlowFirstDraftIsNotDroppedForEver(t *testing.T) {
	const token = 50 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		warm := false
		asked := 0
		res, err := Run(t.Context(), letters(400, token, token), Options{
			Limits: Limits{MaxTokens: 400}, Controller: NewFixed(4, true),
			Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
				asked++
				if !warm && !sleep(ctx, 2*time.Second) { // its prompt; begun anew when cancelled
					return draft.Draft{}, ctx.Err()
				}
				warm = true
				sleep(ctx, 10*time.Millisecond)
				return ahead(c, k), nil
			}),
		}, drop)
		if err != nil || len(res.Trace.Rounds) == 0 {
			t.Errorf("%v: no round in 400 tokens (20 s); the drafter was asked and cancelled %d times, failures %d, stale %d", err, asked, res.Trace.DraftFailures, res.Trace.StaleDrafts)
		}
	})
}

// A client that does not read for a while does not make the target look slow.
func TestASlowClientDoesNotSpoilTheCosts(t *testing.T) {
	const token = 50 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		n := 0
		res, err := Run(t.Context(), letters(60, token, token), Options{
			Limits: Limits{MaxTokens: 60}, Controller: NewFixed(0, true), Drafter: drafter(nil),
		}, func(Piece) error {
			if n++; n == 30 {
				time.Sleep(time.Minute)
			}
			return nil
		})
		if err != nil || res.Costs.Token > 2*token {
			t.Errorf("%v: a token is said to take %v, it takes %v", err, res.Costs.Token, token)
		}
	})
}

// An engine that gives no ids (any more) and a round 0 with a limit.
func TestALimitedRoundZeroWithoutIDs(t *testing.T) {
	s := NewSession(Limits{MaxTokens: 50}, NewFixed(4, true), true, true)
	s.Next()
	s.Step(Delivered{Chunk{Text: "a", Finish: "length"}})
	if r := s.Next(); r.Done && s.Err() == nil {
		t.Errorf("an answer of at most 50 tokens is finished as %q by the limit of round 0", s.finish)
	}
}

// The finish chunk comes behind the token that ended the answer.
func TestNoCutBehindAnEnd(t *testing.T) {
	s := NewSession(Limits{MaxTokens: 50, Ends: []vocab.Token{0}}, NewFixed(2, true), true, false)
	s.Next()
	s.Step(Delivered{Chunk{Prompt: []vocab.Token{1}, Tokens: []vocab.Token{10}}})
	s.Next()
	s.Step(Drafted{Draft: draft.Draft{Tokens: []vocab.Token{0, 10}}})
	s.Next() // cut
	s.Step(Delivered{Chunk{Tokens: []vocab.Token{0}}})
	s.Next()
	s.Step(Ended{errors.New("closed")})
	if r := s.Next(); r.Verify || r.Draft > 0 || r.Stream {
		t.Errorf("goes on behind the end: %+v", r)
	}
}

func TestTheLastTokenMayBeAnEnd(t *testing.T) {
	s := NewSession(Limits{MaxTokens: 2, Ends: []vocab.Token{0}}, NewFixed(0, true), true, false)
	s.Next()
	s.Step(Delivered{Chunk{Prompt: []vocab.Token{1}, Tokens: []vocab.Token{10}}})
	s.Step(Delivered{Chunk{Tokens: []vocab.Token{0}}})
	s.Step(Delivered{Chunk{Finish: "stop"}})
	if s.finish != "stop" {
		t.Errorf("finish %q, the engine said stop", s.finish)
	}
}

// Text that comes without tokens is no progress.
func TestAStreamThatBreaksWithoutTokensForEver(t *testing.T) {
	s := NewSession(Limits{MaxTokens: 50}, NewFixed(0, true), true, false)
	s.Next()
	s.Step(Delivered{Chunk{Prompt: []vocab.Token{1}, Tokens: []vocab.Token{10}}})
	s.Step(Ended{errFault})
	for range 20 {
		if r := s.Next(); r.Done {
			return
		}
		s.Step(Delivered{Chunk{Text: "x"}})
		s.Step(Ended{errFault})
	}
	t.Error("opened 20 times, not a token came")
}

// The probed context is older than the prompt: MaxTokens still bounds.
func TestMaxTokensBoundsBesideAWrongContext(t *testing.T) {
	s := NewSession(Limits{MaxTokens: 3, Context: 2}, NewFixed(8, true), true, false)
	s.Next()
	s.Step(Delivered{Chunk{Prompt: []vocab.Token{1, 2, 3}, Tokens: []vocab.Token{10}}})
	if s.limit > 3 {
		t.Errorf("the answer may have %d tokens, max_tokens is 3", s.limit)
	}
}

// The error of a cancelled generation is the cause, whatever the calls say.
func TestCancelledMeansTheCause(t *testing.T) {
	gone := errors.New("client gone")
	other := 0
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
			w := letters(60, time.Millisecond, time.Millisecond)
			w.decode = func(ctx context.Context, ids []vocab.Token) (string, error) {
				sleep(ctx, time.Minute)
				return strings.Repeat("x", len(ids)), ctx.Err()
			}
			_, err := Run(ctx, w, Options{Limits: Limits{MaxTokens: 60, MinTokens: 4, Stop: []string{"xx"}}, Controller: NewFixed(8, true),
				Drafter: drafter(func(_ context.Context, c []vocab.Token, k int) (draft.Draft, error) { return ahead(c, k), nil })}, drop)
			if !errors.Is(err, gone) {
				other++
			}
		})
	}
	if other > 0 {
		t.Errorf("%d of 50 ended with another error than the cause", other)
	}
}

// A question for text that is never answered.
func TestAHungDecodeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := letters(40, 100*time.Millisecond, 100*time.Millisecond)
		w.decode = func(ctx context.Context, _ []vocab.Token) (string, error) { <-ctx.Done(); return "", ctx.Err() }
		w.stream = func(inner func(context.Context, []vocab.Token, int) (Stream, error)) func(context.Context, []vocab.Token, int) (Stream, error) {
			return func(ctx context.Context, a []vocab.Token, l int) (Stream, error) {
				s, err := inner(ctx, a, l)
				x := s.(*S)
				next := x.next
				x.next = func() (Chunk, error) { c, err := next(); c.Text = ""; return c, err }
				return s, err
			}
		}(w.stream)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err := Run(ctx, w, Options{Limits: Limits{MaxTokens: 40}, Controller: NewFixed(4, true),
			Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) { return ahead(c, k), nil })}, drop)
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("hung for %v: %v", took, err)
		}
	})
}

// A verification starts only when the stream before it was closed.
func TestClosedBeforeTheNextSource(t *testing.T) {
	for range 20 {
		var open, most atomic.Int64
		w := letters(40, 0, 0)
		inner := w.stream
		w.stream = func(ctx context.Context, a []vocab.Token, l int) (Stream, error) {
			s, err := inner(ctx, a, l)
			if n := open.Add(1); n > most.Load() {
				most.Store(n)
			}
			x := s.(*S)
			next, n := x.next, 0
			x.next = func() (Chunk, error) {
				if n++; n > 1 {
					return Chunk{}, errFault // an event that cannot be read: the engine goes on
				}
				return next()
			}
			x.onClose = func() { time.Sleep(2 * time.Millisecond); open.Add(-1) }
			return s, err
		}
		Run(t.Context(), w, Options{Limits: Limits{MaxTokens: 40}, Controller: NewFixed(0, true)}, drop)
		if most.Load() > 1 {
			t.Fatalf("%d streams were open at once", most.Load())
		}
	}
}

// The engine's usage comes with the end of round 0.
func TestCachedTokensComeLate(t *testing.T) {
	w := letters(4, 0, 0)
	inner := w.stream
	w.stream = func(ctx context.Context, a []vocab.Token, l int) (Stream, error) {
		s, err := inner(ctx, a, l)
		x := s.(*S)
		next := x.next
		x.next = func() (Chunk, error) {
			c, err := next()
			if c.Finish != "" {
				c.CachedTokens = 96
			}
			return c, err
		}
		return s, err
	}
	res, err := Run(t.Context(), w, Options{Limits: Limits{MaxTokens: 4}, Controller: NewFixed(0, true)}, drop)
	if err != nil || res.Cached != 96 {
		t.Errorf("%v: %d cached tokens, the engine said 96", err, res.Cached)
	}
}

// Control tokens without text before the engine's parser shows itself.
func TestOpaqueBehindATokenWithoutText(t *testing.T) {
	w := letters(40, 0, 0)
	w.stream = func(ctx context.Context, a []vocab.Token, l int) (Stream, error) {
		n := 0
		return newS(ctx, 0, func() (Chunk, error) {
			if n++; n == 1 {
				return Chunk{Prompt: []vocab.Token{1}, Tokens: []vocab.Token{10}}, nil
			}
			return Chunk{Tokens: []vocab.Token{11}, Opaque: true}, nil
		}), nil
	}
	pieces := 0
	_, err := Run(t.Context(), w, Options{Limits: Limits{MaxTokens: 40}, Controller: NewFixed(0, true)}, func(Piece) error { pieces++; return nil })
	if err != ErrOpaque || pieces > 0 {
		t.Errorf("%v after %d pieces without text: the request cannot pass through any more", err, pieces)
	}
}
