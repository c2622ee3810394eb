package simulate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"paceline/simulate/lm"
	"paceline/vocab"
)

func spanOf(m *lm.Model, tokens []vocab.Token) []lm.Span {
	return []lm.Span{{Cache: m.NewCache(), Tokens: tokens, Rows: 1}}
}

// longPrompt is n tokens that are no particular text.
func longPrompt(n int) []vocab.Token {
	p := make([]vocab.Token, n)
	for i := range p {
		p[i] = vocab.Token(5 + i*37%2000)
	}
	return p
}

func (a *answer) cached() int {
	if a.Usage.Details == nil {
		return -1
	}
	return a.Usage.Details.Cached
}

// TestCachedTokens: what the prefix cache has, as usage tells it: full blocks,
// never all of the prompt, apart by salt, and nothing for those who skip it.
func TestCachedTokens(t *testing.T) {
	s := start(t, Options{BlockSize: 16})
	complete := func(prompt []vocab.Token, more string) *answer {
		t.Helper()
		status, text := post(t, s, "/v1/completions", `{"prompt":[`+list(prompt)+`],"max_tokens":1,"temperature":0`+more+`}`)
		a := decode[answer](t, status, text)
		return &a
	}
	p := longPrompt(100)
	f := func(prompt []vocab.Token, more string, want int) {
		t.Helper()
		if have := complete(prompt, more).cached(); have != want {
			t.Errorf("%d tokens%s: %d cached, want %d", len(prompt), more, have, want)
		}
	}
	f(p, "", 0)
	f(p, "", 96)
	f(p[:96], "", 80) // the last block is computed again
	f(p[:97], "", 96)
	f(p[:15], "", 0)
	f(append(slices.Clone(p[:50]), 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7), "", 48)
	f(p, `,"cache_salt":"x"`, 0)
	f(p, `,"cache_salt":"x"`, 96)
	f(p, `,"cache_salt":"y"`, 0)
	f(p, `,"prompt_logprobs":0`, 0)
	f(p, `,"echo":true,"logprobs":1`, 0)
}

// TestComputedTokens: a hit saves the work, not only the figure.
func TestComputedTokens(t *testing.T) {
	s := start(t, Options{BlockSize: 16})
	body := `{"prompt":[` + list(longPrompt(1000)) + `],"max_tokens":1,"temperature":0}`
	post(t, s, "/v1/completions", body)
	before := s.Stats()
	post(t, s, "/v1/completions", body)
	after := s.Stats()
	if n := after.ComputedTokens - before.ComputedTokens; n != 1000-992 {
		t.Errorf("computed %d tokens after a hit, want 8", n)
	}
	if after.CachedTokens-before.CachedTokens != 992 {
		t.Errorf("cached %d tokens, want 992", after.CachedTokens-before.CachedTokens)
	}
}

// TestSteps: an idle engine begins with the first prompt of a list alone; with
// JoinLists all go at once.
func TestSteps(t *testing.T) {
	f := func(o Options, prompts int, want int64) {
		t.Helper()
		s := start(t, o)
		p := "[" + list(longPrompt(40)) + "]"
		post(t, s, "/v1/completions", `{"prompt":[`+p+strings.Repeat(","+p, prompts-1)+`],"max_tokens":1,"temperature":0}`)
		if n := s.Stats().Steps; n != want {
			t.Errorf("%d prompts, joined %v: %d steps, want %d", prompts, o.JoinLists, n, want)
		}
	}
	f(Options{}, 1, 1)
	f(Options{}, 2, 2)
	f(Options{}, 9, 2)
	f(Options{JoinLists: true}, 9, 1)
	f(Options{JoinLists: true, StepTokens: 30}, 1, 2)
}

// TestScoreSteps: a score call is one step, however long the draft.
func TestScoreSteps(t *testing.T) {
	s := start(t, Options{BlockSize: 16})
	prompt := longPrompt(100)
	post(t, s, "/v1/completions", `{"prompt":[`+list(prompt[:90])+`],"max_tokens":1,"temperature":0}`)
	for _, k := range []int{1, 4, 10} {
		before := s.Stats()
		post(t, s, scorePath, score(prompt[:90+k], `,"detokenize":false`))
		after := s.Stats()
		if steps, tokens := after.Steps-before.Steps, after.ComputedTokens-before.ComputedTokens; steps != 1 || tokens != int64(90+k-80) {
			t.Errorf("a draft of %d takes %d steps and %d tokens, want 1 and %d", k, steps, tokens, 90+k-80)
		}
	}
}

// TestWithoutCache: the switches of the prefix cache.
func TestWithoutCache(t *testing.T) {
	body := `{"prompt":[` + list(longPrompt(100)) + `],"max_tokens":1,"temperature":0}`
	f := func(o Options, want int) {
		t.Helper()
		s := start(t, o)
		post(t, s, "/v1/completions", body)
		status, text := post(t, s, "/v1/completions", body)
		a := decode[answer](t, status, text)
		if a.cached() != want {
			t.Errorf("%+v: %d cached, want %d", o, a.cached(), want)
		}
	}
	f(Options{}, 96)
	f(Options{NoPrefixCache: true}, 0)
	f(Options{NoCachedTokens: true}, -1)
}

// TestEviction: a small cache forgets what was used longest ago and goes on
// giving right answers.
func TestEviction(t *testing.T) {
	small := start(t, Options{Model: draftModel(t), BlockSize: 16, CacheTokens: 2048 + 64})
	large := start(t, Options{Model: draftModel(t), BlockSize: 16})
	for round := range 3 {
		for i := range 4 {
			prompt := longPrompt(700)
			prompt[0] = vocab.Token(100 + i)
			body := fmt.Sprintf(`{"prompt":[%s],"max_tokens":20,"temperature":0,"return_token_ids":true}`, list(prompt))
			status, have := post(t, small, "/v1/completions", body)
			a := decode[answer](t, status, have)
			status, want := post(t, large, "/v1/completions", body)
			b := decode[answer](t, status, want)
			if !slices.Equal(a.Choices[0].TokenIDs, b.Choices[0].TokenIDs) {
				t.Errorf("round %d, prompt %d: %v, want %v", round, i, a.Choices[0].TokenIDs, b.Choices[0].TokenIDs)
			}
			if a.cached() != 0 {
				t.Errorf("round %d, prompt %d: %d cached in a cache for two such prompts", round, i, a.cached())
			}
		}
	}
}

// TestPreemption: sequences that lose their blocks start again and end as they
// would have.
func TestPreemption(t *testing.T) {
	s := start(t, Options{Model: draftModel(t), BlockSize: 16, CacheTokens: 2064})
	alone := start(t, Options{Model: draftModel(t), BlockSize: 16})
	prompts := make([]string, 6)
	for i := range prompts {
		p := longPrompt(300)
		p[0] = vocab.Token(200 + i)
		prompts[i] = "[" + list(p) + "]"
	}
	body := `{"prompt":[` + strings.Join(prompts, ",") + `],"max_tokens":80,"ignore_eos":true,"temperature":0,"return_token_ids":true}`
	status, text := post(t, s, "/v1/completions", body)
	have := decode[answer](t, status, text)
	status, text = post(t, alone, "/v1/completions", body)
	want := decode[answer](t, status, text)
	for i := range prompts {
		if !slices.Equal(have.Choices[i].TokenIDs, want.Choices[i].TokenIDs) {
			t.Errorf("prompt %d: %v, want %v", i, have.Choices[i].TokenIDs, want.Choices[i].TokenIDs)
		}
	}
	if s.Stats().ComputedTokens <= alone.Stats().ComputedTokens {
		t.Error("nothing was preempted")
	}
}
