//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"
)

// The order of the tests matters. Score mode comes first, and each prompt for
// the first time, so that the prefix cache does not hold the answers yet; then
// the same requests again, when it holds them to the end and rows in front of
// the hit were never computed.

func TestScore(t *testing.T) {
	l := laneOf(t, "score")
	fresh := l.lossless(t, "streamed", stream, 0.5)
	again := l.lossless(t, "again, whole", nil, 0.5)
	if fresh.Score < fresh.Rounds/2 {
		t.Errorf("only %d of %d rounds got their verdict from rows", fresh.Score, fresh.Rounds)
	}
	if again.OverDeep+again.Refused < 10 || again.FanOut == 0 {
		t.Errorf("over-deep cache hits were to be provoked: %d, %d refused, %d rounds by fan-out", again.OverDeep, again.Refused, again.FanOut)
	}
}

func TestFanOut(t *testing.T) {
	l := laneOf(t, "fan-out")
	streamed := l.lossless(t, "streamed", stream, 0.5)
	whole := l.lossless(t, "whole", nil, 0.5)
	if n := streamed.Score + whole.Score + streamed.OverDeep + whole.OverDeep; n > 0 {
		t.Errorf("rows were asked for %d times in fan-out mode", n)
	}
}

// TestAutomatic lets the proxy choose between rounds and plain streaming: with
// models as small as these it goes back and forth.
func TestAutomatic(t *testing.T) {
	laneOf(t, "score").lossless(t, "automatic", append(slices.Clone(stream), automatic, true), 0)
}

// lossless sends every prompt and compares. At least the given share of tokens
// has to come from rounds. It returns the sums.
func (l *lane) lossless(t *testing.T, pass string, fields []any, least float64) (sum Tally) {
	prompts, tokens, ties, start := greedy(), 0, counts.ties, time.Now()
	for i := range prompts {
		p := &prompts[i]
		check(t, fmt.Sprintf("%s/%s", pass, p.name), func(t *testing.T) {
			r, tally := l.ask(t, p, fields...)
			sum.add(&tally)
			tokens += r.usage.Completion
			t.Logf("%-20s %3d tokens, %3d plain, %3d rounds, %3d of %3d accepted, over-deep %d, refused %d; %d ms",
				p.name, r.usage.Completion, tally.Plain, tally.Rounds, tally.Accepted, tally.Drafted, tally.OverDeep, tally.Refused, r.total.Milliseconds())
			sameFigures(t, r, &tally)
			sameAnswer(t, p, r, tally.Answer)
		})
	}
	for _, e := range l.failures(t) {
		t.Errorf("an engine failed: %s", describe([]Exchange{e}))
	}
	share := float64(tokens-sum.Plain-sum.Lone) / float64(max(tokens, 1))
	t.Logf("%s, %s: %d prompts, %d tokens, %.0f %% of them from %d rounds (%d by rows, %d by fan-out), %.2f tokens a round; %d of %d drafted accepted (%.0f %%); over-deep %d, refused %d; near ties %d; %.1f s",
		l.mode, pass, len(prompts), tokens, 100*share, sum.Rounds, sum.Score, sum.FanOut, float64(tokens-sum.Plain-sum.Lone)/float64(max(sum.Rounds, 1)),
		sum.Accepted, sum.Drafted, 100*float64(sum.Accepted)/float64(max(sum.Drafted, 1)), sum.OverDeep, sum.Refused, counts.ties-ties, time.Since(start).Seconds())
	if share < least {
		t.Errorf("only %.0f %% of the tokens came from rounds", 100*share)
	}
	return sum
}

func (t *Tally) add(o *Tally) {
	t.Plain += o.Plain
	t.Lone += o.Lone
	t.Rounds += o.Rounds
	t.Drafted += o.Drafted
	t.Accepted += o.Accepted
	t.Agreed += o.Agreed
	t.Score += o.Score
	t.FanOut += o.FanOut
	t.OverDeep += o.OverDeep
	t.Refused += o.Refused
}

// sameFigures compares what the proxy says of its rounds with the recount.
func sameFigures(t *testing.T, r *reply, tally *Tally) {
	t.Helper()
	d := r.usage.Details
	if d == nil || d.Accepted == nil || d.Rejected == nil || r.spec == nil || r.timings == nil {
		t.Errorf("the answer has no acceptance figures: %s", r.raw[max(0, len(r.raw)-600):])
		return
	}
	f := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: the proxy says %d, the recording %d", what, got, want)
		}
	}
	f("accepted_prediction_tokens", *d.Accepted, tally.Accepted)
	f("rejected_prediction_tokens", *d.Rejected, tally.Drafted-tally.Accepted)
	f("num_spec_steps", r.spec.Steps, tally.Rounds)
	f("num_draft_tokens", r.spec.Drafted, tally.Drafted)
	f("num_accepted_draft_tokens", r.spec.Accepted, tally.Accepted)
	f("draft_n", r.timings.Drafted, tally.Drafted)
	f("draft_n_accepted", r.timings.Accepted, tally.Accepted)
	g := func(what string, got, above, below float64) {
		t.Helper()
		if below > 0 && math.Abs(got-above/below) > 0.01 {
			t.Errorf("%s: the proxy says %v, the recording %v", what, got, above/below)
		}
	}
	g("draft_acceptance_rate", r.spec.Rate, float64(tally.Accepted), float64(tally.Drafted))
	g("mean_acceptance_length", r.spec.Mean, float64(tally.Accepted+tally.Rounds), float64(tally.Rounds))
}

// sameAnswer compares with the target's own answer. A difference is a near tie
// if the target itself hardly knew which of two tokens to take at the first
// position that differs, and a violation otherwise. tokens are the answer's,
// nil if they are not known.
func sameAnswer(t *testing.T, p *prompt, r *reply, tokens []int) {
	t.Helper()
	want := direct(t, p)
	at := -1
	if tokens != nil {
		at = firstDifference(tokens, want.tokens)
	}
	difference := differs(r, want)
	if difference == "" && at < 0 {
		return
	}
	if tokens == nil {
		at = want.tokenAt(firstDifference([]byte(r.text), []byte(want.text)))
	}
	if at >= 0 && at < len(want.tokens) {
		gap := gapAt(t, p, at)
		if gap < nearTie {
			counts.add(&counts.ties)
			t.Logf("%s: near tie at token %d, gap %.2g: %s", p.name, at, gap, difference)
			return
		}
		difference += fmt.Sprintf("\nthe target's top-2 gap there is %.4f", gap)
	}
	counts.add(&counts.violations)
	t.Errorf("VIOLATION, %s, first at token %d: %s", p.name, at, difference)
}

func TestSampled(t *testing.T) {
	for _, mode := range []string{"fan-out", "score"} { // which takes fan-out for these
		l := laneOf(t, mode)
		var sum Tally
		tokens := 0
		prompts := sampled()
		for i := range prompts {
			p := &prompts[i]
			check(t, mode+"/"+p.name, func(t *testing.T) {
				var fields []any
				if i%2 == 0 {
					fields = stream
				}
				r, tally := l.ask(t, p, fields...)
				sum.add(&tally)
				tokens += r.usage.Completion
				if r.finish != "stop" && r.finish != "length" || r.usage.Completion == 0 || r.finish == "length" && r.usage.Completion != p.body["max_tokens"] {
					t.Errorf("finish_reason %q after %d tokens", r.finish, r.usage.Completion)
				}
				if tally.Rounds == 0 || tally.Score > 0 {
					t.Errorf("%d rounds, %d of them by rows", tally.Rounds, tally.Score)
				}
				sameFigures(t, r, &tally)
			})
		}
		for _, e := range l.failures(t) {
			t.Errorf("an engine failed: %s", describe([]Exchange{e}))
		}
		t.Logf("%s, sampled: %d tokens, %d plain, %d rounds, %d of %d accepted", mode, tokens, sum.Plain, sum.Rounds, sum.Accepted, sum.Drafted)
	}
}

// TestTogether sends many prompts at once: batches of other shapes, and other
// requests' blocks in the cache.
func TestTogether(t *testing.T) {
	for _, mode := range []string{"score", "fan-out"} {
		l := laneOf(t, mode)
		check(t, mode, func(t *testing.T) {
			prompts := greedy()
			next, workers := make(chan *prompt), sync.WaitGroup{}
			for range 6 {
				workers.Go(func() {
					for p := range next {
						r, err := post(within(t, time.Minute), l.url, p, stream...)
						if err != nil || r.status != 200 {
							t.Errorf("%s: %v %s", p.name, err, r.raw)
							continue
						}
						sameAnswer(t, p, r, nil)
					}
				})
			}
			for i := range prompts {
				next <- &prompts[i]
			}
			close(next)
			workers.Wait()
			for _, e := range l.failures(t) {
				t.Errorf("an engine failed: %s", describe([]Exchange{e}))
			}
		})
	}
}
