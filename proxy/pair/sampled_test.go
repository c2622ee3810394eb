package pair_test

import (
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"

	"paceline/proxy/plan"
	"paceline/simulate"
	"paceline/simulate/lm"
	"paceline/simulate/sampling"
	"paceline/speculate"
	"paceline/vocab"
)

// draws is how many answers are drawn for each setting. The figures of the
// README come from 20,000 (make bench); a plain test run draws fewer.
func draws(t testing.TB) int {
	if v := os.Getenv("PACELINE_DRAWS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal("PACELINE_DRAWS: ", err)
		}
		return n
	}
	if testing.Short() {
		return 1500
	}
	return 3000
}

// TestSampledAnswersHaveTheTargetsDistribution draws answers of four tokens
// through the proxy, in runs whose tokens 2 to 4 come from rounds, and compares
// them with the exact distribution of such answers, summed up from the model.
func TestSampledAnswersHaveTheTargetsDistribution(t *testing.T) {
	model, err := lm.Target()
	if err != nil {
		t.Fatal(err)
	}
	// An animal, "named" and a name follow: many answers are about as likely.
	const question = "<|user|>\nTell me a story.\n<|assistant|>\nOnce upon a time there was a brave"
	for _, c := range []struct {
		name   string
		fields map[string]any
		params func(*sampling.Params)
	}{
		{"T = 1", map[string]any{"temperature": 1}, func(p *sampling.Params) { p.Temperature = 1 }},
		{"T = .7, top-p .9", map[string]any{"temperature": .7, "top_p": .9}, func(p *sampling.Params) { p.Temperature, p.TopP = .7, .9 }},
		{"top-k 5", map[string]any{"temperature": 1, "top_k": 5}, func(p *sampling.Params) { p.Temperature, p.TopK = 1, 5 }},
		{"min-p .1", map[string]any{"temperature": 1, "min_p": .1}, func(p *sampling.Params) { p.Temperature, p.MinP = 1, .1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			params := sampling.Neutral()
			c.params(&params)
			n := draws(t)
			exact := answers(model, question, params, 4, 1/(200*float64(n)))
			e := startEngines(t, simulate.Options{})
			var rounds counter
			url := startProxy(t, e, plan.Auto, true, func() speculate.Controller { return &always{3, &rounds} })
			fields := map[string]any{"max_tokens": 4, "seed": nil}
			for k, v := range c.fields {
				fields[k] = v
			}
			q := completion(question, fields)
			var mu sync.Mutex
			seen := map[string]int{}
			var tokens atomic.Int64
			each(n, func(i int) {
				a, err := ask(t.Context(), url, q, false)
				if err != nil {
					t.Errorf("draw %d: %v", i, err)
					return
				}
				tokens.Add(int64(a.Completion - 1))
				mu.Lock()
				seen[a.Finish+" "+a.Text]++
				mu.Unlock()
			})
			p, cells := chiSquare(exact, seen, n)
			if cells < 10 {
				t.Fatalf("only %d answers are likely enough to be counted", cells)
			}
			share := float64(rounds.emitted.Load()) / float64(max(1, tokens.Load()))
			t.Logf("%d draws, %d cells, p = %.4f; %.1f %% of the tested tokens came from rounds, %.0f %% of %d drafted tokens accepted",
				n, cells, p, 100*share, 100*float64(rounds.accepted.Load())/float64(max(1, rounds.drafted.Load())), rounds.drafted.Load())
			if p < .001 {
				t.Errorf("p = %.6f: this is not the target's distribution", p)
			}
			if share < .9 {
				t.Errorf("only %.1f %% of tokens 2 to 4 came from rounds", 100*share)
			}
		})
	}
}

// always drafts as many tokens.
type always struct {
	k    int
	seen *counter
}

func (a *always) Length(speculate.View) int { return a.k }
func (a *always) Observe(r speculate.Round) { a.seen.add(r) }

// answers sums up the exact probability of every answer of up to n tokens, by
// finish reason and text, leaving out what is less likely than least.
func answers(m *lm.Model, prompt string, p sampling.Params, n int, least float64) map[string]float64 {
	ids := m.Tokenizer().Encode(prompt, true)
	cache := m.NewCache()
	logits := m.Forward([]lm.Span{{Cache: cache, Tokens: ids, Rows: 1}})[0][0]
	out := map[string]float64{}
	var walk func(cache *lm.Cache, logits []float32, path []vocab.Token, prob float64)
	walk = func(cache *lm.Cache, logits []float32, path []vocab.Token, prob float64) {
		for id, q := range sampling.Distribution(logits, p, ids, path) {
			q *= prob
			if q < least {
				continue
			}
			next := append(path[:len(path):len(path)], vocab.Token(id))
			text := strings.TrimRight(m.Tokenizer().Decode(next, true), "\uFFFD")
			switch {
			case vocab.Token(id) == m.Config().EOS[0]:
				out["stop "+text] += q
			case len(next) == n:
				out["length "+text] += q
			default:
				c := cache.Fork(cache.Len())
				row := m.Forward([]lm.Span{{Cache: c, Tokens: next[len(path):], Rows: 1}})[0][0]
				walk(c, row, next, q)
			}
		}
	}
	walk(cache, logits, nil, 1)
	return out
}

// chiSquare compares counts with probabilities: a cell for every answer that
// is expected at least five times, and one for all others.
func chiSquare(exact map[string]float64, seen map[string]int, n int) (p float64, cells int) {
	rest, restSeen := 1.0, n
	var x2 float64
	for answer, q := range exact {
		expected := q * float64(n)
		if expected < 5 {
			continue
		}
		cells++
		d := float64(seen[answer]) - expected
		x2 += d * d / expected
		rest -= q
		restSeen -= seen[answer]
	}
	if expected := rest * float64(n); expected >= 1 {
		cells++
		d := float64(restSeen) - expected
		x2 += d * d / expected
	} else if restSeen > 5 {
		return 0, cells // what hardly ever happens happened
	}
	return distuv.ChiSquared{K: math.Max(1, float64(cells-1))}.Survival(x2), cells
}
