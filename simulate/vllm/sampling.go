package vllm

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"paceline/vocab"
)

// Defaults are a server's own sampling parameters, from the model's
// generation_config.json; nil is vLLM's default. The two OpenAI endpoints
// fill in what a client leaves out; /inference/v1/generate does not.
type Defaults struct {
	Temperature, TopP, MinP, RepetitionPenalty *float64
	TopK, MaxTokens                            *int
}

// Sampling says how to continue a prompt, everything filled in.
type Sampling struct {
	N                                  int
	PresencePenalty, FrequencyPenalty  float64
	RepetitionPenalty                  float64
	Temperature, TopP                  float64 // 0 is greedy
	TopK                               int     // 0 and −1 are all
	MinP                               float64
	Seed                               *int64
	Stop, BadWords                     []string
	StopTokenIDs, LogprobTokenIDs      []int64
	IgnoreEOS, IncludeStop             bool
	MaxTokens                          int // math.MaxInt: as many as fit
	MinTokens                          int
	Logprobs, PromptLogprobs           *int      // nil none, −1 the whole vocabulary
	PromptLogprobIDs                   [][]int64 // −1 pads a row
	PromptLogprobStart                 *int
	Detokenize, SkipSpecial, SkipCache bool
	LogitBias                          map[int64]float64
	AllowedTokenIDs                    []int64
	StreamInterval                     int
	Stream                             bool
}

// defaultMaxTokens is what SamplingParams and /v1/completions have.
const defaultMaxTokens = 16

// greedyBelow is the temperature under which sampling is greedy.
const greedyBelow = 1e-5

// readSampling reads the fields that completions, chat and SamplingParams
// share. Null means the default everywhere here.
func (r *reader) readSampling(d *Defaults) Sampling {
	s := Sampling{N: 1, MaxTokens: math.MaxInt, Detokenize: true}
	s.FrequencyPenalty = floatOr(r.float("frequency_penalty"), 0)
	bias := r.floats("logit_bias")
	s.N = intOr(r.int("n", true), 1)
	s.PresencePenalty = floatOr(r.float("presence_penalty"), 0)
	if seed := r.int("seed", true); seed != nil && *seed != -1 {
		s.Seed = seed
	}
	s.Stop = r.stop()
	s.Temperature = floatOr(r.float("temperature"), floatDefault(d.Temperature, 1))
	s.TopP = floatOr(r.float("top_p"), floatDefault(d.TopP, 1))
	s.TopK = intOr(r.int("top_k", true), intDefault(d.TopK, 0))
	s.MinP = floatOr(r.float("min_p"), floatDefault(d.MinP, 0))
	s.RepetitionPenalty = floatOr(r.float("repetition_penalty"), floatDefault(d.RepetitionPenalty, 1))
	s.StopTokenIDs = unique(r.integers("stop_token_ids", true))
	s.IncludeStop = r.bool("include_stop_str_in_output", false, false)
	s.IgnoreEOS = r.bool("ignore_eos", false, false)
	s.MinTokens = intOr(r.int("min_tokens", false), 0)
	s.SkipSpecial = r.bool("skip_special_tokens", false, true)
	s.AllowedTokenIDs = r.integers("allowed_token_ids", true)
	s.LogprobTokenIDs = r.integers("logprob_token_ids", true)
	s.BadWords = unique(r.strings("bad_words", false))
	s.StreamInterval = intOr(r.int("stream_interval", true), 1)
	s.LogitBias = r.readBias(bias)
	return s
}

func floatDefault(p *float64, def float64) float64 {
	if p == nil {
		return def
	}
	return *p
}

func intDefault(p *int, def int) int {
	if p == nil {
		return def
	}
	return *p
}

func unique[T comparable](l []T) []T {
	var out []T
	seen := make(map[T]bool, len(l))
	for _, v := range l {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// readBias turns the keys into ids and bounds the values.
func (r *reader) readBias(bias map[string]float64) map[int64]float64 {
	if bias == nil {
		return nil
	}
	m := make(map[int64]float64, len(bias))
	for key, f := range bias {
		id, err := strconv.ParseInt(strings.TrimSpace(key), 10, 64)
		if err != nil {
			r.add("int_parsing", r.loc("logit_bias"), "Input should be a valid integer, unable to parse string as an integer", key, "")
			continue
		}
		m[id] = min(100, max(-100, f))
	}
	return m
}

// Check is what SamplingParams checks of itself, and normalises the values as
// it does. A request fails on it before anything is streamed.
func (s *Sampling) Check() *Error {
	if s.Temperature > 0 && s.Temperature < .01 {
		s.Temperature = .01
	}
	for _, check := range []func() *Error{s.checkPenalties, s.checkTruncation, s.checkLengths, s.checkLists} {
		if err := check(); err != nil {
			return err
		}
	}
	if s.Temperature < greedyBelow {
		s.Temperature, s.TopP, s.TopK, s.MinP = 0, 1, 0, 0
		if s.N > 1 {
			return bad("", "n must be 1 when using greedy sampling, got %d.", s.N)
		}
	}
	return nil
}

func (s *Sampling) checkPenalties() *Error {
	switch {
	case s.N < 1:
		return bad("", "n must be at least 1, got %d.", s.N)
	case s.N > 16384:
		return bad("", "n must be at most 16384, got %d. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable.", s.N)
	case !(s.PresencePenalty >= -2 && s.PresencePenalty <= 2):
		return bad("", "presence_penalty must be in [-2, 2], got %s.", pyFloat(s.PresencePenalty))
	case !(s.FrequencyPenalty >= -2 && s.FrequencyPenalty <= 2):
		return bad("", "frequency_penalty must be in [-2, 2], got %s.", pyFloat(s.FrequencyPenalty))
	case math.IsNaN(s.RepetitionPenalty) || math.IsInf(s.RepetitionPenalty, 0):
		return bad("", "repetition_penalty must be a finite number, got %s.", pyFloat(s.RepetitionPenalty))
	case s.RepetitionPenalty <= 0:
		return bad("", "repetition_penalty must be greater than zero, got %s.", pyFloat(s.RepetitionPenalty))
	}
	return nil
}

func (s *Sampling) checkTruncation() *Error {
	t := pyFloat(s.Temperature)
	switch {
	case math.IsNaN(s.Temperature) || math.IsInf(s.Temperature, 0):
		return badValue("temperature", t, "temperature must be a finite number, got %s.", t)
	case s.Temperature < 0:
		return badValue("temperature", t, "temperature must be non-negative, got %s.", t)
	case s.Temperature > 2:
		return badValue("temperature", t, "temperature must be in [0, 2], got %s.", t)
	case !(s.TopP > 0 && s.TopP <= 1):
		return badValue("top_p", pyFloat(s.TopP), "top_p must be in (0, 1], got %s.", pyFloat(s.TopP))
	case s.TopK < -1:
		return bad("", "top_k must be 0 (disable), or at least 1, got %d.", s.TopK)
	case !(s.MinP >= 0 && s.MinP <= 1):
		return bad("", "min_p must be in [0, 1], got %s.", pyFloat(s.MinP))
	}
	return nil
}

func (s *Sampling) checkLengths() *Error {
	switch {
	case s.MaxTokens < 1:
		return badValue("max_tokens", fmt.Sprint(s.MaxTokens), "max_tokens must be at least 1, got %d.", s.MaxTokens)
	case s.MinTokens < 0:
		return bad("", "min_tokens must be greater than or equal to 0, got %d.", s.MinTokens)
	case s.MinTokens > s.MaxTokens:
		return bad("", "min_tokens must be less than or equal to max_tokens=%d, got %d.", s.MaxTokens, s.MinTokens)
	case s.StreamInterval < 1:
		return badValue("stream_interval", fmt.Sprint(s.StreamInterval), "stream_interval must be at least 1, got %d.", s.StreamInterval)
	case s.Logprobs != nil && *s.Logprobs < -1:
		return badValue("logprobs", fmt.Sprint(*s.Logprobs), "logprobs must be non-negative or -1, got %d.", *s.Logprobs)
	case s.PromptLogprobs != nil && *s.PromptLogprobs < -1:
		return badValue("prompt_logprobs", fmt.Sprint(*s.PromptLogprobs), "prompt_logprobs must be non-negative or -1, got %d.", *s.PromptLogprobs)
	}
	return nil
}

func (s *Sampling) checkLists() *Error {
	switch {
	case slices.Contains(s.Stop, ""):
		return bad("", "stop cannot contain an empty string.")
	case len(s.Stop) > 0 && !s.Detokenize:
		return bad("", "stop strings are only supported when detokenize is True. Set detokenize=True to use stop.")
	case slices.Contains(s.BadWords, ""):
		return bad("", "bad_words cannot contain an empty string. Got bad_words=%s", pyStrings(s.BadWords))
	}
	return nil
}

func pyStrings(l []string) string {
	quoted := make([]string, len(l))
	for i, s := range l {
		quoted[i] = repr(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func pyInts(l []int64) string { return strings.ReplaceAll(fmt.Sprint(l), " ", ", ") }

// Engine is what Verify has to know of the engine.
type Engine struct {
	Vocabulary  int
	MaxLogprobs int // −1: no limit
	V2          bool
	Speculates  bool
}

// Verify is what the engine checks when it gets the request; of a streamed
// request, when the answer has begun.
func (s *Sampling) Verify(e Engine, prompt int) *Error {
	most := e.MaxLogprobs
	if most == -1 {
		most = e.Vocabulary
	}
	if s.Logprobs != nil && wide(*s.Logprobs, e.Vocabulary) > most {
		n := wide(*s.Logprobs, e.Vocabulary)
		return badValue("logprobs", fmt.Sprint(n), "Requested sample logprobs of %d, which is greater than max allowed: %d", n, most)
	}
	if n := len(s.LogprobTokenIDs); n > 128 {
		return badValue("logprob_token_ids", fmt.Sprint(n), "Requested logprob_token_ids of length %d, which is greater than max allowed: 128", n)
	}
	if s.PromptLogprobs != nil && wide(*s.PromptLogprobs, e.Vocabulary) > most {
		n := wide(*s.PromptLogprobs, e.Vocabulary)
		return badValue("prompt_logprobs", fmt.Sprint(n), "Requested prompt logprobs of %d, which is greater than max allowed: %d", n, most)
	}
	if err := s.verifyRows(e, most, prompt); err != nil {
		return err
	}
	return s.verifyIDs(e)
}

// wide is the number of entries that n log-probabilities are.
func wide(n, vocabulary int) int {
	if n == -1 {
		return vocabulary
	}
	return n
}

func (s *Sampling) verifyRows(e Engine, most, prompt int) *Error {
	const param = "prompt_logprob_token_ids"
	if s.PromptLogprobIDs == nil {
		if s.PromptLogprobStart != nil {
			return badValue("prompt_logprob_start", fmt.Sprint(*s.PromptLogprobStart), "prompt_logprob_start requires prompt_logprob_token_ids.")
		}
		return nil
	}
	if !e.V2 {
		return bad(param, "prompt_logprob_token_ids requires the V2 model runner (VLLM_USE_V2_MODEL_RUNNER=1).")
	}
	start := intDefault(s.PromptLogprobStart, 0)
	if start < 0 {
		return badValue("prompt_logprob_start", fmt.Sprint(start), "prompt_logprob_start must be non-negative.")
	}
	width := 0
	for _, row := range s.PromptLogprobIDs {
		width = max(width, len(row))
	}
	if width == 0 {
		return bad(param, "prompt_logprob_token_ids must be a non-empty integer array of shape [num_rows, num_ids].")
	}
	if width > most {
		return badValue(param, fmt.Sprint(width), "Requested %d token ids per row in prompt_logprob_token_ids, which is greater than max allowed: %d. "+
			"Set max_logprobs (--max-logprobs) to at least %d.", width, most, width)
	}
	for _, row := range s.PromptLogprobIDs {
		for _, id := range row {
			if id < -1 || id >= int64(e.Vocabulary) {
				return bad(param, "prompt_logprob_token_ids contain out-of-vocab token ids (-1 pads a row). Vocabulary size: %d", e.Vocabulary)
			}
		}
	}
	if want := max(prompt-1-start, 0); len(s.PromptLogprobIDs) != want {
		return badValue(param, fmt.Sprint(len(s.PromptLogprobIDs)), "prompt_logprob_token_ids has %d rows, but the prompt has %d scored rows "+
			"(prompt_len - 1 - prompt_logprob_start).", len(s.PromptLogprobIDs), want)
	}
	return nil
}

func (s *Sampling) verifyIDs(e Engine) *Error {
	outside := func(ids []int64) []int64 {
		return slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return id >= 0 && id < int64(e.Vocabulary) })
	}
	biased := make([]int64, 0, len(s.LogitBias))
	for id := range s.LogitBias {
		biased = append(biased, id)
	}
	sort.Slice(biased, func(i, j int) bool { return biased[i] < biased[j] })
	for _, l := range []struct {
		name string
		ids  []int64
	}{{"logprob_token_ids", s.LogprobTokenIDs}, {"logit_bias", biased}, {"stop_token_ids", s.StopTokenIDs}} {
		if out := outside(l.ids); len(out) > 0 {
			return badValue(l.name, pyInts(out), "token_id(s) %s in %s contain out-of-vocab token ids. Vocabulary size: %d",
				pyInts(out), l.name, e.Vocabulary)
		}
	}
	if s.AllowedTokenIDs != nil {
		if len(s.AllowedTokenIDs) == 0 {
			return badValue("allowed_token_ids", "[]", "allowed_token_ids is not None and empty!")
		}
		if out := outside(s.AllowedTokenIDs); len(out) > 0 {
			return badValue("allowed_token_ids", pyInts(out), "allowed_token_ids contains out-of-vocab token id!")
		}
	}
	if e.Speculates && (s.MinP > greedyBelow || len(s.LogitBias) > 0) {
		return bad("", "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding.")
	}
	return nil
}

// CheckTokens refuses ids that the vocabulary lacks.
func CheckTokens(ids []int64, vocabulary int) *Error {
	if lowest := slices.Min(ids); lowest < 0 {
		return bad("", "Token id %d is out of vocabulary", lowest)
	}
	if highest := slices.Max(ids); highest >= int64(vocabulary) {
		return bad("", "Token id %d is out of vocabulary", highest)
	}
	return nil
}

// Tokens turns checked ids into tokens.
func Tokens(ids []int64) []vocab.Token { return tokens(ids) }
