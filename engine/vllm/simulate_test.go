package vllm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"paceline/draft"
	"paceline/draft/model"
	"paceline/engine"
	"paceline/engine/vllm"
	"paceline/simulate"
	"paceline/simulate/lm"
	"paceline/speculate"
	"paceline/verify"
	"paceline/vocab"

	"github.com/tidwall/gjson"
)

// start runs the built-in engine and probes it.
func start(t *testing.T, o simulate.Options) (*simulate.Server, *vllm.Endpoint, engine.Capabilities) {
	t.Helper()
	s, err := simulate.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := engine.NewClient(s.URL(), engine.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	e := vllm.New(c, "", vllm.Options{})
	caps, err := e.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, e, caps
}

func chat(text, more string) []byte {
	return fmt.Appendf(nil, `{"model":"x","messages":[{"role":"user","content":%q}]%s}`, text, more)
}

func request(t *testing.T, caps engine.Capabilities, m verify.Mode, body []byte) vllm.Request {
	t.Helper()
	s, err := vllm.Effective(&caps, true, gjson.ParseBytes(body))
	if err != nil {
		t.Fatal(err)
	}
	return vllm.Request{Chat: true, Body: body, Mode: m, Settings: s}
}

func TestProbeSimulated(t *testing.T) {
	f := func(o simulate.Options, want string) {
		t.Helper()
		_, _, c := start(t, o)
		got := fmt.Sprintf("%s %s len %d vocab %d block %d ids %v chat %v render %v detok %v scale-out %v cached %v prefix %v reasoning %v max %d top %d eos %v named %v", c.Dialect, c.Model,
			c.MaxModelLen, c.VocabSize, c.BlockSize, c.TokenPrompts, c.ChatTokens, c.RenderChat, c.Detokenize, c.ScaleOut, c.CachedTokens, c.PrefixCache, c.Reasoning, c.MaxTokens, c.MaxLogprobs, c.EOS, c.NamedEOS)
		for _, m := range c.Modes {
			if !m.OK {
				got += " no " + m.Mode
			}
		}
		if got != want {
			t.Errorf("got  %s\nwant %s\n%+v", got, want, c.Modes)
		}
	}
	const all = "ids true chat true render true detok true scale-out true cached true prefix true reasoning false"
	f(simulate.Options{}, "vllm target len 2048 vocab 2048 block 16 "+all+" max 0 top 20 eos [0] named []")
	f(simulate.Options{Runner: simulate.V2, BlockSize: 32, MaxModelLen: 512, MaxLogprobs: 5, EOS: []vocab.Token{0, 3}, Name: "big"}, "vllm big len 512 vocab 2048 block 32 "+all+" max 0 top 5 eos [0 3] named [3]")
	f(simulate.Options{MaxLogprobs: 2}, "vllm target len 2048 vocab 2048 block 16 "+all+" max 0 top 2 eos [0] named [] no score")
	f(simulate.Options{NoScaleOut: true}, "vllm target len 2048 vocab 2048 block 16 "+strings.Replace(all, "scale-out true", "scale-out false", 1)+" max 0 top 0 eos [0] named [] no score")
	f(simulate.Options{NoCachedTokens: true}, "vllm target len 2048 vocab 2048 block 16 "+strings.Replace(all, "cached true", "cached false", 1)+" max 0 top 20 eos [0] named [] no score")
	f(simulate.Options{NoPrefixCache: true}, "vllm target len 2048 vocab 2048 block 16 "+strings.Replace(all, "prefix true", "prefix false", 1)+" max 0 top 20 eos [0] named [] no score no fan-out")
}

// The server's own settings are the request's where it gives none.
func TestDefaultsSimulated(t *testing.T) {
	temperature, penalty, limit := 0.0, 1.2, 9
	var o simulate.Options
	o.Defaults.Temperature, o.Defaults.RepetitionPenalty, o.Defaults.MaxTokens = &temperature, &penalty, &limit
	_, e, caps := start(t, o)
	r := request(t, caps, verify.FanOut, chat("Tell me about the sea.", ""))
	if s := r.Settings; s.Temperature != 0 || s.Known || s.MaxTokens != 9 {
		t.Errorf("settings %+v", s)
	}
	ref, _, finish := plain(t, e.Generate(r), nil, 0)
	if len(ref) != 9 || finish != "length" {
		t.Errorf("%v %s", ref, finish)
	}
	if got := rounds(t, e.Generate(r), ref, caps.EOS, 9, rand.New(rand.NewPCG(3, 3)), map[string]int{}); !slices.Equal(got, ref) {
		t.Errorf("%v, want %v", got, ref)
	}
}

// plain streams an answer to its end.
func plain(t *testing.T, g *vllm.Generation, after []vocab.Token, limit int) (tokens []vocab.Token, text, finish string) {
	t.Helper()
	s, err := g.Stream(t.Context(), after, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		c, err := s.Next()
		if err == io.EOF {
			return tokens, text, finish
		}
		if err != nil {
			t.Fatal(err)
		}
		tokens, text = append(tokens, c.Tokens...), text+c.Text
		if c.Finish != "" {
			finish = c.Finish
		}
	}
}

// rounds writes an answer by rounds whose drafts are the true continuation,
// spoilt at random, and counts why rounds fell back.
func rounds(t *testing.T, g *vllm.Generation, ref, ends []vocab.Token, limit int, rng *rand.Rand, fallbacks map[string]int) []vocab.Token {
	t.Helper()
	answer, _, finish := plain(t, g, nil, 1+rng.IntN(3))
	for finish != "stop" && len(answer) < limit {
		k := min(rng.IntN(7), limit-len(answer)-1)
		var d []vocab.Token
		for i := len(answer); i < min(len(answer)+k, len(ref)); i++ {
			id := ref[i]
			if rng.IntN(6) == 0 {
				id = vocab.Token(rng.IntN(2048))
			}
			d = append(d, id)
		}
		pass, err := g.Verify(t.Context(), answer, d)
		if err != nil {
			t.Fatal(err)
		}
		fallbacks[pass.Fallback]++
		v, err := verify.Judge(pass, d, ends)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range v.Tokens {
			answer = append(answer, c.Token)
			if c.Stop {
				finish = "stop"
			}
		}
	}
	return answer
}

var questions = []string{"What is 12 plus 7?", "Say hello in Japanese.", "Hello", "Write a short story about a dog.", "Tell me about the sea."}

// Rounds write what plain streaming writes, token for token, on both runners,
// at every block size, in both modes, with the traps of the prefix cache.
func TestRoundsEqualPlain(t *testing.T) {
	total := map[string]int{}
	for i, o := range []simulate.Options{
		{Runner: simulate.V1, BlockSize: 16},
		{Runner: simulate.V1, BlockSize: 4, Garbage: simulate.Garbage{Plausible: 1, NaN: -1}},
		{Runner: simulate.V1, BlockSize: 4, Garbage: simulate.Garbage{Plausible: -1, NaN: 1}},
		{Runner: simulate.V2, BlockSize: 1},
		{Runner: simulate.V2, BlockSize: 8},
	} {
		_, e, caps := start(t, o)
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		for _, m := range []verify.Mode{verify.Score, verify.FanOut} {
			fallbacks := map[string]int{}
			for _, q := range questions {
				r := request(t, caps, m, chat(q, `,"temperature":0,"max_tokens":60`))
				ref, text, _ := plain(t, e.Generate(r), nil, 0) // and fills the cache past every context
				g := e.Generate(r)
				if got := rounds(t, g, ref, caps.EOS, 60, rng, fallbacks); !slices.Equal(got, ref) {
					t.Errorf("%d %s %q:\n%v\nwant\n%v", i, m, q, got, ref)
				}
				if got, err := g.Decode(t.Context(), ref); err != nil || got != text {
					t.Errorf("%q decoded: %q, %v; want %q", q, got, err, text)
				}
			}
			for why, n := range fallbacks {
				total[why] += n
				if m == verify.FanOut && why != "" {
					t.Errorf("fan-out fell back: %s", why)
				}
			}
		}
	}
	t.Logf("rounds by fallback: %v", total)
	for _, why := range []string{"", "over_deep", "short_rows", "nan_rows"} {
		if total[why] == 0 {
			t.Errorf("no round with fallback %q: the test is too tame", why)
		}
	}
}

// A stream that was cut is gone on with by rounds, and by another stream.
func TestCutAndGoOn(t *testing.T) {
	s, e, caps := start(t, simulate.Options{BlockSize: 4})
	for _, q := range questions {
		r := request(t, caps, verify.Score, chat(q, `,"temperature":0,"max_tokens":40`))
		ref, _, _ := plain(t, e.Generate(r), nil, 0)
		for cut := 1; cut < len(ref); cut += 5 {
			g := e.Generate(r)
			st, err := g.Stream(t.Context(), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			var answer []vocab.Token
			for err == nil {
				var c speculate.Chunk
				c, err = st.Next()
				answer = append(answer, c.Tokens...)
				if len(answer) >= cut {
					st.Close()
				}
			}
			if err != io.EOF && !errors.Is(err, engine.ErrCut) {
				t.Fatal(err)
			}
			for len(answer) < len(ref) && len(answer) < cut+12 {
				d := ref[len(answer):min(len(answer)+3, len(ref)-1)]
				pass, err := g.Verify(t.Context(), answer, d)
				if err != nil {
					t.Fatal(err)
				}
				v, err := verify.Judge(pass, d, caps.EOS)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range v.Tokens {
					answer = append(answer, c.Token)
				}
			}
			if len(answer) < len(ref) {
				rest, _, _ := plain(t, g, answer, 0)
				answer = append(answer, rest...)
			}
			if !slices.Equal(answer, ref) {
				t.Errorf("%q cut at %d:\n%v\nwant\n%v", q, cut, answer, ref)
			}
		}
	}
	for end := time.Now().Add(2 * time.Second); s.Stats().Running > 0; {
		if time.Now().After(end) {
			t.Fatalf("sequences still run: %+v", s.Stats())
		}
	}
}

// Limits, stop ids, ends and what shows of them, as the engine has it.
func TestRequestsEqualPlain(t *testing.T) {
	_, e, caps := start(t, simulate.Options{BlockSize: 4, EOS: []vocab.Token{0, 3}})
	rng := rand.New(rand.NewPCG(2, 2))
	for _, more := range []string{
		`,"max_tokens":1`, `,"max_tokens":2`, `,"max_tokens":7`, `,"max_tokens":40,"min_tokens":9`, `,"max_tokens":40,"min_tokens":40`,
		`,"max_tokens":40,"ignore_eos":true`, `,"max_tokens":40,"stop_token_ids":[320,18]`, `,"max_tokens":40,"stop_token_ids":[320],"ignore_eos":true`,
		`,"max_tokens":40,"logit_bias":{"18":-100,"262":3}`, `,"max_tokens":40,"repetition_penalty":1.3`, `,"max_tokens":40,"allowed_token_ids":[5,18,262,320,0]`,
		`,"max_tokens":40,"cache_salt":"pepper"`, `,"max_tokens":40,"skip_special_tokens":false`,
	} {
		for _, m := range []verify.Mode{verify.Score, verify.FanOut} {
			r := request(t, caps, m, chat("Tell me about the sea.", `,"temperature":0`+more))
			ref, _, _ := plain(t, e.Generate(r), nil, 0)
			var ends []vocab.Token
			if !r.Settings.IgnoreEOS {
				ends = append(ends, caps.EOS...)
			}
			ends = append(ends, r.Settings.StopTokenIDs...)
			g := e.Generate(r)
			answer, _, finish := plain(t, g, nil, 1)
			for finish != "stop" && len(answer) < r.Settings.MaxTokens {
				k := min(3, r.Settings.MaxTokens-len(answer)-1, len(ref)-len(answer))
				if short := r.Settings.MinTokens - len(answer); short > 0 {
					k = min(k, short-1)
				}
				d := slices.Clone(ref[len(answer) : len(answer)+max(k, 0)])
				if len(d) > 0 && rng.IntN(3) == 0 {
					d[len(d)-1] = 7
				}
				pass, err := g.Verify(t.Context(), answer, d)
				if err != nil {
					t.Fatal(more, err)
				}
				v, err := verify.Judge(pass, d, ends)
				if err != nil {
					t.Fatal(more, err)
				}
				for _, c := range v.Tokens {
					answer = append(answer, c.Token)
					if c.Stop {
						finish = "stop"
					}
				}
			}
			if !slices.Equal(answer, ref) {
				t.Errorf("%s %s:\n%v\nwant\n%v", m, more, answer, ref)
			}
		}
	}
}

// The whole of it: draft endpoint, target endpoint, speculate.Run.
func TestRunEqualsPlain(t *testing.T) {
	small, err := lm.Draft()
	if err != nil {
		t.Fatal(err)
	}
	_, d, dcaps := start(t, simulate.Options{Name: "draft", Model: small})
	for _, runner := range []simulate.Runner{simulate.V1, simulate.V2} {
		_, e, caps := start(t, simulate.Options{Runner: runner})
		if caps.Fingerprint != dcaps.Fingerprint || caps.Fingerprint == "" {
			t.Fatalf("fingerprints %q, %q", caps.Fingerprint, dcaps.Fingerprint)
		}
		for _, m := range []verify.Mode{verify.Score, verify.FanOut} {
			for _, q := range questions {
				body := chat(q, `,"temperature":0,"max_tokens":80`)
				r := request(t, caps, m, body)
				var got []vocab.Token
				var text strings.Builder
				res, err := speculate.Run(t.Context(), e.Generate(r), speculate.Options{
					Limits:     speculate.Limits{MaxTokens: 80, Context: caps.MaxModelLen, Ends: caps.EOS},
					Drafter:    model.New(d, model.Options{VocabSize: caps.VocabSize, Context: dcaps.MaxModelLen}),
					Controller: speculate.NewFixed(4, true), Eager: true, Patience: 5 * time.Second,
				}, func(p speculate.Piece) error {
					got = append(got, p.Tokens...)
					text.WriteString(p.Text)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				ref, want, finish := plain(t, e.Generate(r), nil, 0)
				if res.Completion != len(ref) || res.Finish != finish || text.String() != want {
					t.Errorf("%s %q: %q (%d, %s)\nwant %q (%d, %s)", m, q, text.String(), res.Completion, res.Finish, want, len(ref), finish)
				}
			}
		}
	}
}

func TestCompleteSimulated(t *testing.T) {
	_, e, caps := start(t, simulate.Options{})
	var _ draft.Completer = e
	r := request(t, caps, verify.FanOut, chat("Say hello in Japanese.", `,"temperature":0,"max_tokens":20`))
	g := e.Generate(r)
	ref, _, _ := plain(t, g, nil, 0)
	s, _ := e.Generate(r).Stream(t.Context(), nil, 1)
	first, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	c, err := e.Complete(t.Context(), first.Prompt, 20)
	if err != nil || !slices.Equal(c.Tokens, ref) || len(c.Confidence) != len(ref) {
		t.Errorf("%+v, %v; want %v", c, err, ref)
	}
}

// What goes wrong with a call is an error, and the next call works.
func TestFaults(t *testing.T) {
	s, e, caps := start(t, simulate.Options{})
	r := request(t, caps, verify.Score, chat("Tell me about the sea.", `,"temperature":0,"max_tokens":30`))
	ref, _, _ := plain(t, e.Generate(r), nil, 0)
	for _, kind := range []string{"status", "cut", "truncate", "garbage", "bad_ids"} {
		g := e.Generate(r)
		answer, _, _ := plain(t, g, nil, 2)
		if err := s.SetFaults(simulate.Fault{Kind: kind, Path: "/v1/completions"}, simulate.Fault{Kind: kind, Path: "/inference"}); err != nil {
			t.Fatal(err)
		}
		if pass, err := g.Verify(t.Context(), answer, ref[2:5]); err == nil {
			t.Errorf("%s: %+v", kind, pass)
		}
		if c, err := e.Complete(t.Context(), ref, 4); err == nil {
			t.Errorf("%s: drafted %+v", kind, c)
		}
		st, err := g.Stream(t.Context(), answer, 0)
		if err == nil {
			for err == nil {
				_, err = st.Next()
			}
			st.Close()
		}
		if err == io.EOF {
			t.Errorf("%s: the stream ended well", kind)
		}
		if err := s.SetFaults(); err != nil {
			t.Fatal(err)
		}
		pass, err := g.Verify(t.Context(), answer, ref[2:5])
		if err != nil {
			t.Fatalf("after %s: %v", kind, err)
		}
		if v, err := verify.Judge(pass, ref[2:5], caps.EOS); err != nil || v.Accepted != 3 {
			t.Errorf("after %s: %+v, %v", kind, v, err)
		}
	}
}
