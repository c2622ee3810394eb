package benchmark

import (
	"math"
	"testing"
	"time"
)

func TestPerToken(t *testing.T) {
	f := func(tokens int, decode, want time.Duration) {
		t.Helper()
		s := Sample{Tokens: tokens, Decode: decode}
		if got := s.PerToken(); got != want {
			t.Errorf("%d tokens in %v: %v a token, want %v", tokens, decode, got, want)
		}
	}
	f(0, 0, 0)
	f(1, time.Second, 0) // no token after the first
	f(2, time.Second, time.Second)
	f(101, 10*time.Second, 100*time.Millisecond)
}

func TestSummarise(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	side := summarise([]Sample{
		{Tokens: 101, First: ms(10), Decode: ms(10_000), Gaps: []time.Duration{ms(50), ms(150)}},
		{Tokens: 11, First: ms(30), Decode: ms(500), Gaps: []time.Duration{ms(100)}},
		{Tokens: 1, First: ms(20)},
	})
	f := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	f("tokens per second is a ratio of sums", side.TokensPerSecond, 110/10.5)
	f("ttft p50", side.FirstP50, 20)
	f("ttft p99", side.FirstP99, 30)
	f("tpot p50", side.PerTokenP50, 50)
	f("tpot p99", side.PerTokenP99, 100)
	f("gap p50", side.GapP50, 100)
	f("gap p99", side.GapP99, 150)
	if side.Tokens != 113 {
		t.Errorf("%d tokens", side.Tokens)
	}
}

func TestQuantile(t *testing.T) {
	f := func(q, want float64, values ...float64) {
		t.Helper()
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v of %v: %v, want %v", q, values, got, want)
		}
	}
	f(.5, 0)
	f(.5, 7, 7)
	f(0, 1, 3, 1, 2)
	f(.5, 2, 3, 1, 2)
	f(.99, 3, 3, 1, 2)
	f(1, 3, 3, 1, 2)
}

func TestPairEqual(t *testing.T) {
	a := Sample{Text: "x", Finish: "stop", Tokens: 2}
	f := func(change func(*Sample), want bool) {
		t.Helper()
		p := Pair{Plain: a, Proxied: a}
		change(&p.Proxied)
		if got := p.Equal(); got != want {
			t.Errorf("%+v: equal %v, want %v", p, got, want)
		}
	}
	f(func(*Sample) {}, true)
	f(func(s *Sample) { s.Decode = time.Second }, true)
	f(func(s *Sample) { s.Text = "x " }, false)
	f(func(s *Sample) { s.Finish = "length" }, false)
	f(func(s *Sample) { s.Tokens = 3 }, false)
}

func TestPredict(t *testing.T) {
	ms := time.Millisecond
	f := func(survival []float64, c Costs, want float64) {
		t.Helper()
		if got := Predict(survival, c); math.Abs(got-want) > .005 {
			t.Errorf("%v %+v: %.3f, want %.3f", survival, c, got, want)
		}
	}
	// No draft: a round is a token, and costs what it costs.
	f(nil, Costs{Token: 100 * ms, Pass: 100 * ms}, 1)
	f(nil, Costs{Token: 100 * ms, Pass: 100 * ms, Rest: 100 * ms}, .5)
	// A perfect draft of four for nothing.
	f([]float64{1, 1, 1, 1}, Costs{Token: 100 * ms, Pass: 100 * ms}, 5)
	// α = .7 at 6.5 tokens/s with 5 ms a drafted token: 2.53 at its best length (six).
	var best float64
	var survival []float64
	for s := .7; len(survival) < 12; s *= .7 {
		survival = append(survival, s)
		best = max(best, Predict(survival, Costs{Token: 153846 * time.Microsecond, Draft: 5 * ms, Pass: 153846 * time.Microsecond, Rest: 2 * ms}))
	}
	if math.Abs(best-2.53) > .01 {
		t.Errorf("best length at α .7: %.3f, want 2.53", best)
	}
}

func TestPredictAnswers(t *testing.T) {
	ms := time.Millisecond
	c := Costs{Token: 150 * ms, Draft: 5 * ms, Pass: 150 * ms, Rest: 2 * ms}
	survival := []float64{.9, .8, .7, .6}
	endless := Predict(survival, c)
	if got := PredictAnswers(survival, c, []int{1}); got != 0 {
		t.Errorf("an answer of one token: %v", got)
	}
	short, long := PredictAnswers(survival, c, []int{20}), PredictAnswers(survival, c, []int{200_000})
	if !(short < endless && math.Abs(long-endless) < .001*endless) {
		t.Errorf("short %.3f, long %.3f, endless %.3f: want short < long ≈ endless", short, long, endless)
	}
}
