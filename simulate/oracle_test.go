package simulate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"paceline/simulate/lm"
	"paceline/simulate/sampling"
	"paceline/vocab"

	"pgregory.net/rapid"
)

// settings is a request that both the engine and the oracle understand.
type settings struct {
	prompt []vocab.Token
	p      sampling.Params
	seed   int64
	limit  int
	least  int
	stops  []vocab.Token
	ignore bool
}

func (s *settings) body() string {
	b := fmt.Sprintf(`{"prompt":[%s],"max_tokens":%d,"min_tokens":%d,"ignore_eos":%v,"seed":%d,"temperature":%g,"top_p":%g,"top_k":%d,"min_p":%g,
		"repetition_penalty":%g,"presence_penalty":%g,"frequency_penalty":%g,"stop_token_ids":[%s],"return_token_ids":true`,
		list(s.prompt), s.limit, s.least, s.ignore, s.seed, s.p.Temperature, s.p.TopP, s.p.TopK, s.p.MinP,
		s.p.RepetitionPenalty, s.p.PresencePenalty, s.p.FrequencyPenalty, list(s.stops))
	if s.p.AllowedTokenIDs != nil {
		b += `,"allowed_token_ids":[` + list(s.p.AllowedTokenIDs) + "]"
	}
	var bias []string
	for id, v := range s.p.LogitBias {
		bias = append(bias, fmt.Sprintf(`"%d":%g`, id, v))
	}
	return b + `,"logit_bias":{` + strings.Join(bias, ",") + "}}"
}

// oracle writes the answer without any engine: the whole context anew for
// every token.
func (s *settings) oracle(m *lm.Model) []vocab.Token {
	var out []vocab.Token
	for len(out) < s.limit {
		context := slices.Concat(s.prompt, out)
		logits := m.Forward(spanOf(m, context))[0][0]
		p := s.p
		if len(out) < s.least {
			p.BannedTokenIDs = append(slices.Clone(s.stops), m.Config().EOS...)
		}
		next := vocab.Token(0)
		if dist := sampling.Distribution(logits, p, s.prompt, out); dist != nil {
			next = sampling.Draw(dist, rand.New(rand.NewPCG(uint64(s.seed), uint64(len(context)))).Float64())
		}
		out = append(out, next)
		if next == m.Config().EOS[0] && !s.ignore || slices.Contains(s.stops, next) {
			break
		}
	}
	return out
}

// TestOracle: whatever is asked at once, and however cramped the engine is,
// every answer is the one that computing everything anew would give.
func TestOracle(t *testing.T) {
	draft := draftModel(t)
	rapid.Check(t, func(t *rapid.T) {
		o := Options{
			Model: draft, Runner: V2, Seed: 1, MaxModelLen: 128, JoinLists: rapid.Bool().Draw(t, "join"),
			BlockSize:  rapid.SampledFrom([]int{1, 4, 16, 32}).Draw(t, "block"),
			StepTokens: rapid.SampledFrom([]int{3, 17, 64, 8192}).Draw(t, "step"),
			MaxRunning: rapid.IntRange(1, 6).Draw(t, "running"),
			Memo:       rapid.SampledFrom([]int{0, 4, 1000}).Draw(t, "memo"),
		}
		o.CacheTokens = 160 + rapid.IntRange(0, 300).Draw(t, "cache")
		s, err := Start(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		for range 2 { // the second time with a warm cache
			requests := rapid.SliceOfN(rapid.Custom(drawSettings), 1, 5).Draw(t, "requests")
			answers := make([]string, len(requests))
			var wg sync.WaitGroup
			for i := range requests {
				wg.Go(func() { _, answers[i], _ = try(s, "/v1/completions", requests[i].body()) })
			}
			wg.Wait()
			for i := range requests {
				want := requests[i].oracle(draft)
				if !strings.Contains(answers[i], `"token_ids":[`+list(want)+`]`) {
					t.Fatalf("%s\nanswer %s\nwant %v", requests[i].body(), answers[i], want)
				}
			}
		}
		st := s.Stats()
		if st.Running != 0 || st.Waiting != 0 || st.Aborted != 0 || o.Memo == 0 && st.ForwardedTokens != st.ComputedTokens {
			t.Fatalf("%+v", st)
		}
	})
}

func drawSettings(t *rapid.T) *settings {
	ids := rapid.SampledFrom([][]vocab.Token{
		{1, 203, 1501, 203, 2, 203}, {1, 203, 487, 320, 954, 519, 761, 35, 203, 2, 203}, {5}, longPrompt(33), longPrompt(50), longPrompt(64),
	}).Draw(t, "prompt")
	s := &settings{
		prompt: ids, p: sampling.Neutral(), seed: int64(rapid.IntRange(0, 5).Draw(t, "seed")),
		limit: rapid.IntRange(1, 10).Draw(t, "limit"), ignore: rapid.Bool().Draw(t, "ignore"),
	}
	s.least = rapid.IntRange(0, s.limit).Draw(t, "least")
	s.p.Temperature = rapid.SampledFrom([]float64{0, 0, .7, 1, 1.8}).Draw(t, "temperature")
	if s.p.Temperature > 0 {
		s.p.TopP = rapid.SampledFrom([]float64{1, .9, .3}).Draw(t, "top_p")
		s.p.TopK = rapid.SampledFrom([]int{0, 1, 20}).Draw(t, "top_k")
		s.p.MinP = rapid.SampledFrom([]float64{0, .05}).Draw(t, "min_p")
	}
	s.p.RepetitionPenalty = rapid.SampledFrom([]float64{1, 1.05, 1.7}).Draw(t, "repetition")
	s.p.PresencePenalty = rapid.SampledFrom([]float64{0, 1.5, -1}).Draw(t, "presence")
	s.p.FrequencyPenalty = rapid.SampledFrom([]float64{0, .5}).Draw(t, "frequency")
	if rapid.Bool().Draw(t, "stop") {
		s.stops = []vocab.Token{18, 203}
	}
	switch rapid.IntRange(0, 3).Draw(t, "restriction") {
	case 0:
		s.p.AllowedTokenIDs = []vocab.Token{0, 5, 18, 264, 318, 1501}
	case 1:
		s.p.LogitBias = map[vocab.Token]float64{1501: -100, 264: 5}
	}
	return s
}

// TestBadWords: a word of several tokens is broken off at its last one, with
// and without a space before it.
func TestBadWords(t *testing.T) {
	s := start(t, Options{})
	complete := func(more string) string {
		t.Helper()
		status, text := post(t, s, "/v1/completions", `{"prompt":[1,203,1501,203,2,203],"max_tokens":12,"temperature":0`+more+`}`)
		return decode[answer](t, status, text).Choices[0].Text
	}
	if text := complete(""); !strings.HasPrefix(text, "Hello! I am a very small") {
		t.Fatalf("%q", text)
	}
	for _, word := range []string{"Hello", " very small", "I am a"} {
		if text := complete(`,"bad_words":["` + word + `"]`); strings.Contains(text, strings.TrimSpace(word)) {
			t.Errorf("%q contains %q", text, word)
		}
	}
	if status, text := post(t, s, "/v1/completions", `{"prompt":"x","bad_words":[" "]}`); status != 400 {
		t.Errorf("%d %s", status, text)
	}
}

// TestEcho: a text prompt comes back before the answer, in its place with
// max_tokens 0, and with the log-probabilities of both.
func TestEcho(t *testing.T) {
	s := start(t, Options{})
	type echoed struct {
		Choices []struct {
			Text     string
			Logprobs struct {
				Tokens  []string
				Offsets []int      `json:"text_offset"`
				Values  []*float64 `json:"token_logprobs"`
			}
		}
	}
	f := func(body, want string, tokens int) {
		t.Helper()
		status, text := post(t, s, "/v1/completions", body)
		c := decode[echoed](t, status, text).Choices[0]
		if c.Text != want {
			t.Errorf("%s: %q, want %q", body, c.Text, want)
		}
		l := c.Logprobs
		if len(l.Tokens) != tokens || len(l.Offsets) != tokens || len(l.Values) != tokens || tokens > 0 && (l.Values[0] != nil || strings.Join(l.Tokens, "") != want) {
			t.Errorf("%s: %+v, want %d tokens", body, l, tokens)
		}
	}
	f(`{"prompt":"Hello world","echo":true,"max_tokens":0}`, "Hello world", 0)
	f(`{"prompt":"Hello world","echo":true,"max_tokens":0,"logprobs":1}`, "Hello world", 3)
	status, text := post(t, s, "/v1/completions", `{"prompt":"Hello world","max_tokens":4,"temperature":0}`)
	answer := decode[answer](t, status, text).Choices[0].Text
	f(`{"prompt":"Hello world","echo":true,"max_tokens":4,"temperature":0,"logprobs":0}`, "Hello world"+answer, 7)
	f(`{"prompt":[1501,873,333],"echo":true,"max_tokens":4,"temperature":0}`, "Hello world"+answer, 0)
	status, text = post(t, s, "/v1/completions", `{"prompt":"Hello world","echo":true,"stream":true,"max_tokens":4,"temperature":0}`)
	if _, streamed := readStream(t, status, text); streamed != "Hello world"+answer {
		t.Errorf("streamed %q", streamed)
	}
}
