package sampling

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"paceline/vocab"
)

// ln gives logits whose softmax is the given probabilities.
func ln(probabilities ...float64) []float32 {
	out := make([]float32, len(probabilities))
	for i, p := range probabilities {
		out[i] = float32(math.Log(p))
	}
	return out
}

func TestDistribution(t *testing.T) {
	row := ln(.1, .4, .2, .3)
	ids := func(ids ...vocab.Token) []vocab.Token { return ids }
	for _, c := range []struct {
		name   string
		logits []float32
		set    func(*Params)
		prompt []vocab.Token
		output []vocab.Token
		want   []float64
	}{
		{"neutral", row, func(p *Params) {}, ids(1), ids(2), []float64{.1, .4, .2, .3}},
		{"greedy", row, func(p *Params) { p.Temperature = 0 }, nil, nil, []float64{0, 1, 0, 0}},
		{"greedy, equals", ln(.1, .3, .3, .3), func(p *Params) { p.Temperature = 0 }, nil, nil, []float64{0, 1, 0, 0}},
		{"greedy, banned", row, func(p *Params) { p.Temperature, p.BannedTokenIDs = 0, ids(1) }, nil, nil, []float64{0, 0, 0, 1}},
		{"greedy ignores truncation", row, func(p *Params) { p.Temperature, p.TopK, p.TopP = 0, 2, .1 }, nil, nil, []float64{0, 1, 0, 0}},
		{"temperature .5", row, func(p *Params) { p.Temperature = .5 }, nil, nil, []float64{1. / 30, 16. / 30, 4. / 30, 9. / 30}},
		{"temperature 1e-9", row, func(p *Params) { p.Temperature = 1e-9 }, nil, nil, []float64{0, 1, 0, 0}},
		{"top-k 2", row, func(p *Params) { p.TopK = 2 }, nil, nil, []float64{0, 4. / 7, 0, 3. / 7}},
		{"top-k 2, equals", ln(.4, .2, .2, .2), func(p *Params) { p.TopK = 2 }, nil, nil, []float64{.4, .2, .2, .2}},
		{"top-k -1", row, func(p *Params) { p.TopK = -1 }, nil, nil, []float64{.1, .4, .2, .3}},
		{"top-k 4", row, func(p *Params) { p.TopK = 4 }, nil, nil, []float64{.1, .4, .2, .3}},
		{"top-p .65", row, func(p *Params) { p.TopP = .65 }, nil, nil, []float64{0, 4. / 7, 0, 3. / 7}},
		{"top-p .75", row, func(p *Params) { p.TopP = .75 }, nil, nil, []float64{0, 4. / 9, 2. / 9, 3. / 9}},
		{"top-p 0", row, func(p *Params) { p.TopP = 0 }, nil, nil, []float64{0, 1, 0, 0}},
		{"top-p, equals", ln(.25, .25, .25, .25), func(p *Params) { p.TopP = .4 }, nil, nil, []float64{.5, .5, 0, 0}},
		{"top-p of what top-k left", row, func(p *Params) { p.TopK, p.TopP = 3, .7 }, nil, nil, []float64{0, 4. / 7, 0, 3. / 7}},
		{"top-p of what min-p left", row, func(p *Params) { p.MinP, p.TopP = .6, .56 }, nil, nil, []float64{0, 1, 0, 0}},
		{"min-p .6", row, func(p *Params) { p.MinP = .6 }, nil, nil, []float64{0, 4. / 7, 0, 3. / 7}},
		{"min-p after temperature", row, func(p *Params) { p.MinP, p.Temperature = .6, .5 }, nil, nil, []float64{0, 1, 0, 0}},
		{"min-p 2", row, func(p *Params) { p.MinP = 2 }, nil, nil, []float64{0, 1, 0, 0}},
		{"presence", ln(.25, .25, .5), func(p *Params) { p.PresencePenalty = math.Ln2 }, ids(0), ids(2, 2), []float64{1. / 3, 1. / 3, 1. / 3}},
		{"frequency", ln(.2, .2, .6), func(p *Params) { p.FrequencyPenalty = math.Ln2 }, ids(0), ids(2, 2), []float64{.2 / .55, .2 / .55, .15 / .55}},
		{"repetition", []float32{2, -1, 0}, func(p *Params) { p.RepetitionPenalty = 2 }, ids(0, 0), ids(1, 0), softmax(1, -2, 0)},
		{"repetition 0", row, func(p *Params) { p.RepetitionPenalty = 0 }, ids(0), ids(1), []float64{.1, .4, .2, .3}},
		{"bias before repetition", []float32{-1, 0}, func(p *Params) {
			p.RepetitionPenalty, p.LogitBias = 2, map[vocab.Token]float64{0: 3}
		}, ids(0), nil, softmax(1, 0)},
		{"bias", []float32{0, 0}, func(p *Params) { p.LogitBias = map[vocab.Token]float64{1: 2, -1: 9, 2: 9} }, nil, nil, softmax(0, 2)},
		{"allowed", row, func(p *Params) { p.AllowedTokenIDs = ids(0, 2, 99, -1) }, nil, nil, []float64{1. / 3, 0, 2. / 3, 0}},
		{"banned", row, func(p *Params) { p.BannedTokenIDs = ids(1, 2, 99, -1) }, nil, nil, []float64{.25, 0, 0, .75}},
		{"banned stays banned", row, func(p *Params) {
			p.BannedTokenIDs, p.LogitBias, p.RepetitionPenalty = ids(1, 2), map[vocab.Token]float64{1: 100}, .5
		}, ids(1), nil, []float64{.25, 0, 0, .75}},
		{"nothing left", row, func(p *Params) { p.AllowedTokenIDs, p.BannedTokenIDs = ids(1), ids(1) }, nil, nil, nil},
		{"no token in range", row, func(p *Params) { p.AllowedTokenIDs = ids(4) }, nil, nil, nil},
		{"no vocabulary", nil, func(p *Params) {}, nil, nil, nil},
	} {
		p := Neutral()
		c.set(&p)
		got := Distribution(c.logits, p, c.prompt, c.output)
		if (got == nil) != (c.want == nil) || distance(got, c.want) > 1e-7 {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func softmax(logits ...float64) []float64 {
	out := make([]float64, len(logits))
	for i, v := range logits {
		out[i] = math.Exp(v - slices.Max(logits))
	}
	total := sum(out)
	for i := range out {
		out[i] /= total
	}
	return out
}

// distance is the largest difference, infinite between different lengths.
func distance(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	worst := 0.
	for i := range a {
		worst = max(worst, math.Abs(a[i]-b[i]))
	}
	return worst
}

// naive is vLLM's code (v1/sample/sampler.py, ops/topk_topp_sampler.py) line by
// line: sort everything ascending, mask, cumulate.
func naive(logits []float32, p Params, prompt, output []vocab.Token) []float64 {
	scores := make([]float64, len(logits))
	for i, v := range logits {
		id := vocab.Token(i)
		s := float64(v)
		if len(p.AllowedTokenIDs) > 0 && !slices.Contains(p.AllowedTokenIDs, id) || slices.Contains(p.BannedTokenIDs, id) {
			s = math.Inf(-1)
		}
		s += p.LogitBias[id]
		if slices.Contains(prompt, id) || slices.Contains(output, id) {
			if s > 0 {
				s /= p.RepetitionPenalty
			} else {
				s *= p.RepetitionPenalty
			}
		}
		for _, o := range output {
			if o == id {
				s -= p.FrequencyPenalty
			}
		}
		if slices.Contains(output, id) {
			s -= p.PresencePenalty
		}
		scores[i] = s / p.Temperature
	}
	top := slices.Max(scores)
	for i := range scores {
		if math.Exp(scores[i]-top) < p.MinP {
			scores[i] = math.Inf(-1)
		}
	}
	order := make([]int, len(scores)) // ascending; among equals the lower id is kept, so it comes later
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case scores[a] < scores[b]:
			return -1
		case scores[a] > scores[b]:
			return 1
		}
		return b - a
	})
	if p.TopK > 0 && p.TopK < len(order) {
		kth := scores[order[len(order)-p.TopK]]
		for i := range scores {
			if scores[i] < kth {
				scores[i] = math.Inf(-1)
			}
		}
	}
	probabilities := softmax(scores...)
	cumulated := 0.
	for i, id := range order {
		cumulated += probabilities[id]
		if cumulated <= 1-p.TopP && i < len(order)-1 {
			scores[id] = math.Inf(-1)
		}
	}
	return softmax(scores...)
}

// TestDistributionNaive compares with the naive implementation. Logits come from
// a coarse grid, so that there are ties; top-p does not, since a sum that should
// equal it is rounded differently by the two.
func TestDistributionNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "vocabulary")
		token := rapid.Custom(func(t *rapid.T) vocab.Token { return vocab.Token(rapid.IntRange(0, n-1).Draw(t, "id")) })
		tokens := rapid.SliceOfN(token, 0, 6)
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(rapid.IntRange(-24, 24).Draw(t, "logit")) / 4
		}
		p := Params{
			Temperature:       rapid.SampledFrom([]float64{.1, .7, 1, 1.5}).Draw(t, "temperature"),
			TopK:              rapid.IntRange(-1, n+1).Draw(t, "top-k"),
			TopP:              rapid.SampledFrom([]float64{1, .9512345, .7123456, .3123456, .0123456}).Draw(t, "top-p"),
			MinP:              rapid.SampledFrom([]float64{0, 0, .0123456, .1234567, .9}).Draw(t, "min-p"),
			RepetitionPenalty: rapid.SampledFrom([]float64{1, 1, 1.5, .5}).Draw(t, "repetition"),
			PresencePenalty:   rapid.SampledFrom([]float64{0, 0, .5, -1}).Draw(t, "presence"),
			FrequencyPenalty:  rapid.SampledFrom([]float64{0, 0, .5, -1}).Draw(t, "frequency"),
			AllowedTokenIDs:   rapid.SampledFrom([][]vocab.Token{nil, nil, tokens.Draw(t, "allowed")}).Draw(t, "which"),
			BannedTokenIDs:    tokens.Draw(t, "banned"),
			LogitBias:         rapid.MapOfN(token, rapid.SampledFrom([]float64{-100, -1, 2}), 0, 3).Draw(t, "bias"),
		}
		prompt, output := tokens.Draw(t, "prompt"), tokens.Draw(t, "output")
		before := slices.Clone(logits)
		got := Distribution(logits, p, prompt, output)
		if !slices.Equal(logits, before) {
			t.Fatal("the logits were modified")
		}
		if got == nil {
			for i := range logits {
				id := vocab.Token(i)
				if !slices.Contains(p.BannedTokenIDs, id) && (len(p.AllowedTokenIDs) == 0 || slices.Contains(p.AllowedTokenIDs, id)) {
					t.Fatalf("nil, but %d is allowed", id)
				}
			}
			return
		}
		if want := naive(logits, p, prompt, output); !(distance(got, want) < 1e-12) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestDraw(t *testing.T) {
	dist := []float64{0, .25, 0, .5, .25, 0}
	for _, c := range []struct {
		u    float64
		want vocab.Token
	}{
		{0, 1}, {math.Nextafter(.25, 0), 1}, {.25, 3}, {.5, 3}, {math.Nextafter(.75, 0), 3}, {.75, 4}, {math.Nextafter(1, 0), 4},
	} {
		if got := Draw(dist, c.u); got != c.want {
			t.Errorf("u = %v: got %d, want %d", c.u, got, c.want)
		}
	}
	if got := Draw([]float64{.5, .5 - 1e-9, 0}, math.Nextafter(1, 0)); got != 1 {
		t.Errorf("a sum below u: got %d, want the last token that has a probability", got)
	}
	defer func() {
		if got := fmt.Sprint(recover()); got != "BUG: draw from an empty distribution" {
			t.Errorf("got panic %q", got)
		}
	}()
	Draw(nil, .5)
}

// TestDrawFrequencies checks 400,000 draws from a truncated distribution against
// it: Pearson's chi-square, below its 99.99 % quantile.
func TestDrawFrequencies(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	logits := make([]float32, 200)
	for i := range logits {
		logits[i] = float32(2 * random.NormFloat64())
	}
	p := Neutral()
	p.Temperature, p.TopK, p.TopP = .8, 40, .95
	dist := Distribution(logits, p, nil, nil)
	const draws = 400_000
	counts := make([]int, len(dist))
	for range draws {
		counts[Draw(dist, random.Float64())]++
	}
	chi, cells := 0., 0
	for i, q := range dist {
		if q == 0 {
			if counts[i] > 0 {
				t.Errorf("token %d was drawn and has no probability", i)
			}
			continue
		}
		cells++
		chi += math.Pow(float64(counts[i])-draws*q, 2) / (draws * q)
	}
	freedom := float64(cells - 1)
	// Wilson and Hilferty's approximation of the quantile; 3.72 is the normal's.
	limit := freedom * math.Pow(1-2/(9*freedom)+3.72*math.Sqrt(2/(9*freedom)), 3)
	if cells < 10 || chi > limit {
		t.Errorf("chi-square %.1f of %d cells, want below %.1f", chi, cells, limit)
	}
}

func TestLogprobs(t *testing.T) {
	logits := []float32{1, 3, 2, 3, -1000}
	norm := math.Log(math.Exp(1) + 2*math.Exp(3) + math.Exp(2))
	for i, got := range Logprobs(logits) {
		if want := float64(logits[i]) - norm; math.Abs(float64(got)-want) > 1e-4 {
			t.Errorf("token %d: got %v, want %v", i, got, want)
		}
	}
	at := func(logit float64) float32 { return float32(logit - norm) }
	for _, c := range []struct {
		n    int
		want []Choice
	}{
		{-1, nil},
		{0, nil},
		{1, []Choice{{1, at(3), 1}}},
		{3, []Choice{{1, at(3), 1}, {3, at(3), 2}, {2, at(2), 3}}},
		{9, []Choice{{1, at(3), 1}, {3, at(3), 2}, {2, at(2), 3}, {0, at(1), 4}, {4, at(-1000), 5}}},
	} {
		if got := TopN(logits, c.n); !slices.Equal(got, c.want) {
			t.Errorf("top %d: got %v, want %v", c.n, got, c.want)
		}
	}
	for id, want := range map[vocab.Token]int{0: 4, 1: 2, 2: 3, 3: 2, 4: 5} {
		if got := Rank(logits, id); got != want {
			t.Errorf("rank of %d is %d, want %d", id, got, want)
		}
	}
	if TopN(nil, 3) != nil || len(Logprobs(make([]float32, 1))) != 1 {
		t.Error("an empty row, or a row of one")
	}
}

// TestLargest compares with sorting.
func TestLargest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 30).Draw(t, "values")
		want := make([]int, len(values))
		for i := range want {
			want[i] = i
		}
		slices.SortStableFunc(want, func(a, b int) int { return values[b] - values[a] })
		n := rapid.IntRange(1, len(values)).Draw(t, "n")
		if got := largest(values, n); !slices.Equal(got, want[:n]) {
			t.Fatalf("got %v, want %v", got, want[:n])
		}
	})
}

func BenchmarkDistribution(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 2048)
	for i := range logits {
		logits[i] = float32(3 * random.NormFloat64())
	}
	output := make([]vocab.Token, 200)
	for _, c := range []struct {
		name string
		set  func(*Params)
	}{
		{"neutral", func(p *Params) {}},
		{"greedy", func(p *Params) { p.Temperature = 0 }},
		{"top-p .95", func(p *Params) { p.TopP = .95 }},
		{"top-k 20", func(p *Params) { p.TopK = 20 }},
		{"top-k 20, top-p .95, min-p .05", func(p *Params) { p.TopK, p.TopP, p.MinP = 20, .95, .05 }},
		{"penalties", func(p *Params) { p.RepetitionPenalty, p.PresencePenalty = 1.1, .5 }},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := Neutral()
			c.set(&p)
			b.ReportAllocs()
			for b.Loop() {
				Distribution(logits, p, nil, output)
			}
		})
	}
	b.Run("TopN 20", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			TopN(logits, 20)
		}
	})
}
