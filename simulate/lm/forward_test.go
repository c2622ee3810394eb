package lm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"paceline/vocab"
)

// TestForwardOracle compares with the textbook's computation in float64.
func TestForwardOracle(t *testing.T) {
	for shape, c := range shapes {
		m, tensors := randomModel(t, shape)
		random := rand.New(rand.NewPCG(2, uint64(shape)))
		tokens := make([]vocab.Token, 70) // more than two pages
		for i := range tokens {
			tokens[i] = vocab.Token(random.IntN(c.VocabSize))
		}
		got := m.Forward([]Span{{m.NewCache(), tokens, len(tokens)}})[0]
		want := oracle(m.Config(), tensors, tokens)
		worst := 0.
		for i := range want {
			for j := range want[i] {
				worst = max(worst, math.Abs(float64(got[i][j])-want[i][j]))
			}
		}
		t.Logf("shape %d: logits within %.2g", shape, worst)
		if !(worst < 2e-4) {
			t.Errorf("shape %d: logits differ by %g", shape, worst)
		}
	}
}

// sequence is a random conversation: what was appended to its cache so far and
// what is still to come.
type sequence struct {
	cache  *Cache
	tokens []vocab.Token
	want   [][]float32 // logits of every position, computed one token at a time
}

// TestForwardInvariance is the property on which losslessness rests: however
// sequences are batched, cut and forked, with one worker or many, the logits of
// a position are bit for bit those of decoding one token at a time alone.
func TestForwardInvariance(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	models := []*Model{load(t, Target), load(t, Draft)}
	for shape := range shapes {
		m, _ := randomModel(t, shape)
		models = append(models, m)
	}
	rapid.Check(t, func(t *rapid.T) {
		m := models[rapid.IntRange(0, len(models)-1).Draw(t, "model")]
		drawSequence := func(cache *Cache, prefix []vocab.Token) *sequence {
			n := rapid.IntRange(len(prefix)+1, len(prefix)+80).Draw(t, "length")
			seed := rapid.Uint64().Draw(t, "tokens")
			random := rand.New(rand.NewPCG(3, seed))
			s := &sequence{cache: cache, tokens: slices.Clone(prefix)}
			for len(s.tokens) < n {
				s.tokens = append(s.tokens, vocab.Token(random.IntN(m.config.VocabSize)))
			}
			alone := m.NewCache()
			for i := range s.tokens {
				s.want = append(s.want, m.Forward([]Span{{alone, s.tokens[i : i+1], 1}})[0]...)
			}
			return s
		}
		var sequences []*sequence
		for range rapid.IntRange(1, 4).Draw(t, "sequences") {
			sequences = append(sequences, drawSequence(m.NewCache(), nil))
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "fork") == 0 {
				from := rapid.SampledFrom(sequences).Draw(t, "from")
				n := rapid.IntRange(0, from.cache.Len()).Draw(t, "at")
				sequences = append(sequences, drawSequence(from.cache.Fork(n), from.tokens[:n]))
			}
			var batch []Span
			var in []*sequence
			for _, s := range sequences {
				left := len(s.tokens) - s.cache.Len()
				n := rapid.IntRange(0, left).Draw(t, "n")
				tokens := s.tokens[s.cache.Len():][:n]
				batch = append(batch, Span{s.cache, tokens, rapid.IntRange(0, n).Draw(t, "rows")})
				in = append(in, s)
			}
			for i, rows := range m.Forward(batch) {
				checkRows(t, in[i], batch[i].Rows, rows)
			}
		}
	})
}

// checkRows compares the logits of the last positions of s's cache.
func checkRows(t interface{ Fatalf(string, ...any) }, s *sequence, n int, rows [][]float32) {
	if len(rows) != n {
		t.Fatalf("got %d rows, want %d", len(rows), n)
	}
	for i, row := range rows {
		position := s.cache.Len() - n + i
		for id, v := range row {
			if math.Float32bits(v) != math.Float32bits(s.want[position][id]) {
				t.Fatalf("position %d, id %d: got %v, want %v", position, id, v, s.want[position][id])
			}
		}
	}
}

// TestForwardLong has more positions than go through the layers together.
func TestForwardLong(t *testing.T) {
	m := load(t, Draft)
	tokens := someTokens(m, 2*maxRows+17)
	whole := m.Forward([]Span{{m.NewCache(), tokens, len(tokens)}})[0]
	s := &sequence{cache: m.NewCache(), tokens: tokens, want: whole}
	for i := 0; i < len(tokens); i += 31 {
		part := tokens[i:min(i+31, len(tokens))]
		checkRows(t, s, len(part), m.Forward([]Span{{s.cache, part, len(part)}})[0])
	}
}

// TestForwardFullContext uses every position that the model has.
func TestForwardFullContext(t *testing.T) {
	m := load(t, DraftB)
	context := m.Config().Context
	c := m.NewCache()
	m.Forward([]Span{{c, someTokens(m, context-1), 0}})
	row := m.Forward([]Span{{c, []vocab.Token{5}, 1}})[0][0]
	if c.Len() != context || slices.ContainsFunc(row, func(v float32) bool { return v != v }) {
		t.Errorf("length %d, want %d; logits %v", c.Len(), context, row[:4])
	}
}

// TestForwardConcurrent runs forks of one cache at the same time.
func TestForwardConcurrent(t *testing.T) {
	m := load(t, Target)
	const shared = 40
	tokens := someTokens(m, shared+6)
	want := m.Forward([]Span{{m.NewCache(), tokens, 6}})[0]
	prefix := m.NewCache()
	m.Forward([]Span{{prefix, tokens[:shared], 0}})
	var others sync.WaitGroup
	for i := range 4 {
		fork := &sequence{cache: prefix.Fork(shared - i), tokens: tokens}
		others.Go(func() {
			m.Forward([]Span{{fork.cache, tokens[shared-i : shared], 0}})
			for j, token := range tokens[shared:] {
				row := m.Forward([]Span{{fork.cache, []vocab.Token{token}, 1}})[0][0]
				if !slices.Equal(row, want[j]) {
					t.Errorf("fork %d, token %d: other logits", i, j)
				}
			}
		})
	}
	others.Wait()
}

// TestForwardResultIsKept checks that a later Forward leaves logits alone.
func TestForwardResultIsKept(t *testing.T) {
	m := load(t, Draft)
	c := m.NewCache()
	first := m.Forward([]Span{{c, someTokens(m, 3), 2}})[0]
	kept := slices.Clone(first[1])
	m.Forward([]Span{{c, someTokens(m, 3), 3}})
	if !slices.Equal(first[1], kept) || len(first) != 2 || len(first[0]) != 2048 || cap(first[0]) != 2048 {
		t.Error("the logits of an earlier call changed, or have another shape")
	}
}

func TestForwardPanics(t *testing.T) {
	m := load(t, Draft)
	full := m.NewCache()
	full.length = m.Config().Context
	twice := m.NewCache()
	busy := m.NewCache()
	busy.busy.Store(true)
	for _, c := range []struct {
		call func()
		want string
	}{
		{func() { m.Forward([]Span{{m.NewCache(), []vocab.Token{2048}, 0}}) }, "BUG: token 2048 is outside the vocabulary of 2048"},
		{func() { m.Forward([]Span{{m.NewCache(), []vocab.Token{-1}, 0}}) }, "BUG: token -1 is outside the vocabulary of 2048"},
		{func() { m.Forward([]Span{{m.NewCache(), []vocab.Token{1}, 2}}) }, "BUG: 2 rows of 1 tokens"},
		{func() { m.Forward([]Span{{m.NewCache(), []vocab.Token{1}, -1}}) }, "BUG: -1 rows of 1 tokens"},
		{func() { m.Forward([]Span{{full, []vocab.Token{1}, 0}}) }, "BUG: 2049 positions exceed the context of 2048"},
		{func() { m.Forward([]Span{{twice, []vocab.Token{1}, 0}, {twice, nil, 0}}) }, "BUG: the cache is in two spans"},
		{func() { m.Forward([]Span{{load(t, DraftB).NewCache(), nil, 0}}) }, "BUG: the cache is another model's"},
		{func() { m.NewCache().Fork(1) }, "BUG: fork at 1 of a cache of 0 positions"},
		{func() { m.NewCache().Fork(-1) }, "BUG: fork at -1 of a cache of 0 positions"},
		{func() { busy.Fork(0) }, "BUG: fork of a cache that is in a Forward"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); got != c.want {
					t.Errorf("got panic %q, want %q", got, c.want)
				}
			}()
			c.call()
		}()
	}
}

// TestForwardAllocates keeps a step of one token at three allocations: the
// result's two slices and its array.
func TestForwardAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	m := load(t, Target)
	start := prefilled(m, 2*pageSize)
	m.Forward([]Span{{start, someTokens(m, 1), 0}}) // the page of the steps below
	batch := []Span{{start, someTokens(m, 1), 1}}
	if got := testing.AllocsPerRun(20, func() { m.Forward(batch) }); got > 3 {
		t.Errorf("%v allocations a step, want 3", got)
	}
}

// TestForkShares checks which pages a fork has in common with its origin.
func TestForkShares(t *testing.T) {
	m := load(t, DraftB)
	c := prefilled(m, 2*pageSize+3)
	for _, want := range []struct{ at, pages, shared int }{
		{0, 0, 0},
		{1, 1, 0},
		{pageSize, 1, 1},
		{pageSize + 1, 2, 1},
		{2 * pageSize, 2, 2},
		{2*pageSize + 3, 3, 2},
	} {
		fork := c.Fork(want.at)
		shared := 0
		for i, p := range fork.pages {
			if &p[0] == &c.pages[i][0] {
				shared++
			}
		}
		if fork.Len() != want.at || len(fork.pages) != want.pages || shared != want.shared {
			t.Errorf("at %d: length %d, %d pages, %d shared, want %+v", want.at, fork.Len(), len(fork.pages), shared, want)
		}
	}
}
