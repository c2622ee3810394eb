package speculate

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// With stop strings a verification waits for the text before it: that time is the round's too.
func TestSlowTextCountsAgainstRounds(t *testing.T) {
	const token = 150 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := letters(2000, token, token)
		good := w.verify
		w.verify = func(ctx context.Context, a, d []vocab.Token) (verify.Pass, error) {
			p, err := good(ctx, a, d)
			for i := range p.Choices {
				p.Choices[i].HasText = false
			}
			return p, err
		}
		w.decode = func(ctx context.Context, ids []vocab.Token) (string, error) {
			sleep(ctx, 500*time.Millisecond)
			return strings.Repeat("x", len(ids)), nil
		}
		began := time.Now()
		res, err := Run(t.Context(), w, Options{Limits: Limits{MaxTokens: 2000, Stop: []string{"never"}}, Controller: NewFixed(4, false),
			Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
				d := ahead(c, k)
				d.Tokens[1] = 1
				return d, nil
			})}, drop)
		if took := time.Since(began); err != nil || took > 2000*token*106/100 {
			t.Errorf("%v: took %v, the target alone takes %v (%d rounds)", err, took, 2000*token, len(res.Trace.Rounds))
		}
	})
}

func TestDecodeThatFails(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			w := &rworld{seed: seed, t: t, decodeFails: 20, lie: 20, merge: seed%2 == 0, mode: verify.Mode(seed / 2 % 2)}
			w.limits = Limits{MaxTokens: 50, Ends: []vocab.Token{0}, Stop: []string{"aba", " 😀"}}
			w.rng = rand.New(rand.NewPCG(seed, 1))
			tokens, text, finish, stop := w.want()
			var got strings.Builder
			res, err := Run(t.Context(), w, Options{Limits: w.limits, Drafter: w, Controller: NewFixed(3, true)}, func(p Piece) error { got.WriteString(p.Text); return nil })
			if err == nil && (got.String() != text || res.Finish != finish || res.Completion != len(tokens) || res.StopString != stop) {
				t.Errorf("seed %d: %q want %q", seed, got.String(), text)
			}
		})
	}
}

// Sampled: the first three tokens have the target's distribution whatever the
// draft and the interleaving.
func TestSampledDistribution(t *testing.T) {
	const n = 4000
	dist := func(c []vocab.Token) float64 { // P(next is 11), else 12
		return []float64{.2, .5, .9}[(int(c[len(c)-1])*7+len(c))%3]
	}
	count := map[[4]vocab.Token]int{}
	rng := rand.New(&locked{src: rand.NewPCG(1, 2)})
	draw := func(c []vocab.Token) vocab.Token {
		if rng.Float64() < dist(c) {
			return 11
		}
		return 12
	}
	for range n {
		synctest.Test(t, func(t *testing.T) {
			p := []vocab.Token{10}
			w := T{
				stream: func(ctx context.Context, after []vocab.Token, limit int) (Stream, error) {
					c := append(append([]vocab.Token(nil), p...), after...)
					first := len(after) == 0
					return newS(ctx, time.Duration(1+rng.IntN(3)), func() (Chunk, error) {
						x := Chunk{Text: "x"}
						if first {
							x.Prompt, first = p, false
						}
						id := draw(c)
						c = append(c, id)
						x.Tokens = []vocab.Token{id}
						return x, nil
					}), nil
				},
				verify: func(ctx context.Context, after, d []vocab.Token) (verify.Pass, error) {
					sleep(ctx, 2)
					c := append(append([]vocab.Token(nil), p...), after...)
					var pass verify.Pass
					for i := range len(d) + 1 {
						pass.Choices = append(pass.Choices, verify.Choice{Token: draw(append(c[:len(c):len(c)], d[:i]...)), Text: "x", HasText: true})
					}
					return pass, nil
				},
				decode: func(ctx context.Context, ids []vocab.Token) (string, error) {
					return strings.Repeat("x", len(ids)), nil
				},
			}
			var got [4]vocab.Token
			i := 0
			Run(t.Context(), w, Options{Limits: Limits{MaxTokens: 4}, Controller: &random{rand.New(rand.NewPCG(rng.Uint64(), 2)), 3},
				Drafter: drafter(func(ctx context.Context, c []vocab.Token, k int) (draft.Draft, error) {
					sleep(ctx, time.Duration(rng.IntN(4)))
					var d draft.Draft
					for range k {
						d.Tokens = append(d.Tokens, vocab.Token(11+rng.IntN(2)))
					}
					return d, nil
				})}, func(p Piece) error {
				for _, id := range p.Tokens {
					got[i] = id
					i++
				}
				return nil
			})
			count[got]++
		})
	}
	var chi float64
	for bits := range 16 {
		c, prob := []vocab.Token{10}, 1.0
		var key [4]vocab.Token
		for i := range 4 {
			id, q := vocab.Token(11), dist(c)
			if bits>>i&1 == 1 {
				id, q = 12, 1-q
			}
			prob *= q
			key[i] = id
			c = append(c, id)
		}
		e := prob * n
		chi += (float64(count[key]) - e) * (float64(count[key]) - e) / e
		delete(count, key)
	}
	if chi > 37.7 || len(count) > 0 { // 15 degrees of freedom, p = .001
		t.Errorf("chi-square %.1f, others %v", chi, count)
	}
}

// locked is a source for several goroutines.
type locked struct {
	mu  sync.Mutex
	src rand.Source
}

func (l *locked) Uint64() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.src.Uint64()
}
