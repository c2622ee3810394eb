package pair_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"paceline/proxy/plan"
	"paceline/simulate"
	"paceline/speculate"
)

// queries are greedy requests of many kinds; n of them, always the same.
func queries(n int) []query {
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	animal := func() string { return pick("fox", "cat", "owl", "bear", "goat", "otter", "wolf", "hedgehog") }
	name := func() string { return pick("Mia", "Leo", "Ada", "Tom", "Nia", "Yuki", "Noor", "Otto") }
	story := "Once upon a time there was a brave fox named Mia. Mia lived near the old mill and knew every path around it. One morning Mia found a silver key lying in the grass."
	kinds := []func() string{
		func() string { return fmt.Sprintf("Tell me a story about a %s named %s.", animal(), name()) },
		func() string { return fmt.Sprintf("Write a long story about a %s named %s.", animal(), name()) },
		func() string { return fmt.Sprintf("What is %d plus %d?", r.IntN(20), r.IntN(20)) },
		func() string { return fmt.Sprintf("Write the multiplication table of %d.", 2+r.IntN(11)) },
		func() string {
			return "Write a " + pick("Go", "Python") + " function that can " + pick("add", "subtract", "multiply", "divide") + " two numbers."
		},
		func() string {
			return fmt.Sprintf("Write a loop in Go that prints the numbers from 1 to %d.", 3+r.IntN(27))
		},
		func() string {
			return fmt.Sprintf("Give me a JSON object for a user named %s, aged %d, from %s.", name(), 20+r.IntN(50), pick("Oslo", "Lima", "Kyoto"))
		},
		func() string {
			return "Say hello in " + pick("Japanese", "Greek", "Korean", "Chinese", "Russian", "Polish") + "."
		},
		func() string { return "Repeat this text:\n\n" + story },
		func() string {
			return "Replace " + pick("fox by wolf", "Mia by Ada", "key by boat") + " in this text:\n\n" + story
		},
		func() string { return fmt.Sprintf("Think first: what is %d plus %d?", r.IntN(30), r.IntN(30)) },
		func() string { return "What is speculative decoding?" },
		func() string {
			return pick("こんにちは", "👋🏽 ¿qué tal?", "zażółć gęślą jaźń", "<b>&\u2028\"\\")
		},
	}
	stops := []any{".", []string{"\n"}, []string{"fox", "number"}, []string{" the", " a"}, "んに", []string{"x = ", "  "}}
	var qs []query
	for i := range n {
		f := map[string]any{"temperature": 0, "max_tokens": []int{1, 2, 7, 24, 48, 96}[r.IntN(6)]}
		switch r.IntN(8) {
		case 0:
			f["stop"] = stops[r.IntN(len(stops))]
		case 1:
			f["stop"] = stops[r.IntN(len(stops))]
			f["include_stop_str_in_output"] = true
		case 2:
			f["min_tokens"] = min(f["max_tokens"].(int), 1+r.IntN(30))
		case 3:
			f["ignore_eos"] = true
		case 4:
			f["skip_special_tokens"] = false
		case 5:
			f["stop_token_ids"] = []int{18, 203}
		}
		switch text := kinds[i%len(kinds)](); r.IntN(4) {
		case 0:
			qs = append(qs, completion("<|user|>\n"+text+"\n<|assistant|>\n", f))
		case 1: // token ids, and a prompt that ends inside a character
			qs = append(qs, completion([]int{1, 203, 1501, 203, 2, 203, 5 + r.IntN(2000), 163 + r.IntN(60)}, f))
		default:
			qs = append(qs, chat(text, f))
		}
	}
	return qs
}

// lengths draws draft lengths 0 to 12 at random, and with 0 forces the change
// to plain streaming and back.
type lengths struct {
	rng  *rand.Rand
	seen *counter
}

func (l *lengths) Length(speculate.View) int {
	if l.rng.IntN(6) == 0 {
		return 0
	}
	return l.rng.IntN(13)
}
func (l *lengths) Observe(r speculate.Round) { l.seen.add(r) }

// counter counts what the controllers of a test saw.
type counter struct{ n, drafted, accepted, emitted, fallbacks atomic.Int64 }

func (c *counter) add(r speculate.Round) {
	c.n.Add(1)
	c.drafted.Add(int64(r.Drafted))
	c.accepted.Add(int64(r.Accepted))
	c.emitted.Add(int64(r.Emitted))
	if r.Fallback != "" {
		c.fallbacks.Add(1)
	}
}

// each runs f for every index, four at a time.
func each(n int, f func(i int)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() { defer func() { <-slots }(); f(i) })
	}
	wait.Wait()
}

// draftFaults are the states of the draft that the questions meet in turn. Two
// failures in a row, three would take the draft out of service for a while; in
// the last part it is down.
var draftFaults = [][]simulate.Fault{
	nil,
	{{Kind: "lie"}},
	{{Kind: "status", Skip: 3, Count: 2, Body: "{}"}, {Kind: "garbage", Skip: 5, Count: 2}},
	{{Kind: "bad_ids", Skip: 3, Count: 2}, {Kind: "truncate", Skip: 5, Count: 2}},
	{{Kind: "slow", For: 5e6}},
	{{Kind: "stall", Skip: 6, Count: 1, For: 3e8}, {Kind: "cut", Skip: 12, Count: 2}},
	{{Kind: "status", Skip: 30, Body: "down"}},
}

const prompts = 208

// TestGreedyAnswersAreTheTargetsOwn asks the target alone and the proxy before
// it the same questions: text, finish and usage are equal, in both modes,
// streamed and not, at random draft lengths with forced changes to plain
// streaming and back, while the draft is well, lies, fails and hangs, and
// while the target's prefix cache is deeper than it should be.
func TestGreedyAnswersAreTheTargetsOwn(t *testing.T) {
	qs := queries(prompts)
	if testing.Short() {
		qs = qs[:prompts/2]
	}
	for _, mode := range []struct {
		name   string
		verify plan.Wish
		target simulate.Options
	}{
		{"score on the V1 runner", plan.Auto, simulate.Options{Runner: simulate.V1}},
		{"score on the V2 runner", plan.Auto, simulate.Options{Runner: simulate.V2, BlockSize: 1, MergeChunks: true}},
		{"fan-out", plan.OnlyFanOut, simulate.Options{NoScaleOut: true}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			var rounds counter
			e := startEngines(t, mode.target)
			want := make([]answer, len(qs))
			// Half of the questions are asked directly before, half after: an
			// answer that was generated before makes the cache over-deep.
			direct := func(odd int) {
				each(len(qs)/2, func(i int) {
					var err error
					if want[2*i+odd], err = ask(t.Context(), e.target.URL(), qs[2*i+odd], false); err != nil {
						t.Errorf("target alone, %v: %v", qs[2*i+odd], err)
					}
				})
			}
			direct(0)
			got := make([]answer, len(qs))
			urls := []string{}
			for _, eager := range []bool{true, false} {
				var seed atomic.Uint64
				urls = append(urls, startProxy(t, e, mode.verify, eager, func() speculate.Controller {
					return &lengths{rand.New(rand.NewPCG(5, seed.Add(1))), &rounds}
				}))
			}
			for part, faults := range draftFaults {
				if err := e.draft.SetFaults(faults...); err != nil {
					t.Fatal(err)
				}
				var mine []int
				for i := range qs {
					if i/2%len(draftFaults) == part {
						mine = append(mine, i)
					}
				}
				each(len(mine), func(n int) {
					i := mine[n]
					var err error
					if got[i], err = ask(t.Context(), urls[i%2], qs[i], i%3 == 0); err != nil {
						t.Errorf("through the proxy, %v: %v", qs[i], err)
					}
				})
			}
			direct(1)
			speculated, unequal, modes := 0, 0, map[string]int{}
			for i := range qs {
				modes[got[i].mode]++
				if got[i].mode == "score" || got[i].mode == "fan-out" {
					speculated++
				}
				if d := cmp.Diff(want[i], got[i], cmpopts.IgnoreUnexported(answer{})); d != "" {
					unequal++
					t.Errorf("%v (%s) differs from the target alone (-want +got):\n%s", qs[i], got[i].mode, d)
				}
			}
			t.Logf("%d of %d equal, %d speculated; %d rounds, %d drafted, %d accepted, %d tokens from rounds, %d rounds answered by another mode",
				len(qs)-unequal, len(qs), speculated, rounds.n.Load(), rounds.drafted.Load(), rounds.accepted.Load(), rounds.emitted.Load(), rounds.fallbacks.Load())
			t.Logf("modes: %v", modes)
			if speculated < len(qs)/2 || rounds.emitted.Load() < int64(2*len(qs)) {
				t.Errorf("only %d of %d requests were speculated, %d tokens came from rounds", speculated, len(qs), rounds.emitted.Load())
			}
		})
	}
}

// TestPromptsThatEndInsideACharacter: what the engine shows first then holds
// the whole prompt's text, and may come with several tokens at once.
func TestPromptsThatEndInsideACharacter(t *testing.T) {
	e := startEngines(t, simulate.Options{Runner: simulate.V2, BlockSize: 1, MergeChunks: true})
	prompt := []int{1, 203}
	for range 10 { // longer than any window that is decoded
		prompt = append(prompt, 1501, 203)
	}
	q := completion(append(prompt, 2, 203, 820, 174), map[string]any{"temperature": 0, "max_tokens": 24, "stop_token_ids": []int{18, 203}})
	want, err := ask(t.Context(), e.target.URL(), q, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, eager := range []bool{true, false} {
		var seed atomic.Uint64
		var rounds counter
		url := startProxy(t, e, plan.Auto, eager, func() speculate.Controller {
			return &lengths{rand.New(rand.NewPCG(8, seed.Add(1))), &rounds}
		})
		var wrong atomic.Int64
		each(200, func(i int) {
			got, err := ask(t.Context(), url, q, i%2 == 0)
			if err != nil {
				t.Error(err)
			} else if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(answer{})); d != "" && wrong.Add(1) == 1 {
				t.Errorf("eager %v, differs from the target alone (-want +got):\n%s", eager, d)
			}
		})
		t.Logf("eager %v: %d of 200 wrong, %d tokens from rounds", eager, wrong.Load(), rounds.emitted.Load())
	}
}
