package vllm

import (
	"math"
	"slices"
	"strconv"
)

// RenderBody is what the render endpoints return: a request for
// /inference/v1/generate.
type RenderBody struct {
	RequestID      string        `json:"request_id"`
	TokenIDs       []int64       `json:"token_ids"`
	TokenOffsets   Null          `json:"token_offsets"`
	Features       Null          `json:"features"`
	ContentParts   Null          `json:"content_parts"`
	SamplingParams *paramsObject `json:"sampling_params"`
	Model          *string       `json:"model"`
	ReasoningEnded Null          `json:"reasoning_ended"`
	ParserKwargs   Null          `json:"reasoning_parser_kwargs"`
	ReturnTokenIDs Null          `json:"return_token_ids"`
	OutputMode     string        `json:"output_mode"`
	Stream         bool          `json:"stream"`
	StreamOptions  *options      `json:"stream_options"`
	CacheSalt      *string       `json:"cache_salt"`
	Priority       int           `json:"priority"`
	KVTransfer     Null          `json:"kv_transfer_params"`
	ECTransfer     Null          `json:"ec_transfer_params"`
}

type options struct {
	IncludeUsage bool `json:"include_usage"`
	Continuous   bool `json:"continuous_usage_stats"`
}

// NewRender fills in everything but the id.
func NewRender(c *Common, ids []int64) RenderBody {
	b := RenderBody{TokenIDs: ids, SamplingParams: newParamsObject(&c.Sampling), OutputMode: "tokens", Stream: c.Stream}
	if c.Model != "" {
		b.Model = &c.Model
	}
	if c.CacheSalt != "" {
		b.CacheSalt = &c.CacheSalt
	}
	if c.Stream && c.StreamOptions {
		b.StreamOptions = &options{c.IncludeUsage, c.Continuous}
	}
	return b
}

// paramsObject is SamplingParams as JSON: what equals the class's default is
// left out, in the way that Python's writer happens to tell equality (a float
// is not the default unless greedy sampling put it there).
type paramsObject struct {
	keys   []string
	values []any
}

func (p *paramsObject) set(key string, v any) {
	p.keys = append(p.keys, key)
	p.values = append(p.values, v)
}

func (p *paramsObject) setUnless(defaulted bool, key string, v any) {
	if !defaulted {
		p.set(key, v)
	}
}

// MarshalJSON implements json.Marshaler.
func (p *paramsObject) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, key := range p.keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, Marshal(key)...)
		b = append(b, ':')
		b = append(b, Marshal(p.values[i])...)
	}
	return append(b, '}'), nil
}

func newParamsObject(s *Sampling) *paramsObject {
	p := &paramsObject{}
	greedy := s.Temperature == 0
	p.setUnless(s.N == 1, "n", s.N)
	p.set("presence_penalty", Float(s.PresencePenalty))
	p.set("frequency_penalty", Float(s.FrequencyPenalty))
	p.set("repetition_penalty", Float(s.RepetitionPenalty))
	p.set("temperature", Float(s.Temperature))
	p.setUnless(greedy, "top_p", Float(s.TopP))
	p.setUnless(s.TopK == 0, "top_k", s.TopK)
	p.setUnless(greedy, "min_p", Float(s.MinP))
	p.setUnless(s.Seed == nil, "seed", s.Seed)
	p.set("stop", notNil(s.Stop))
	p.set("stop_token_ids", notNil(s.StopTokenIDs))
	p.setUnless(!s.IgnoreEOS, "ignore_eos", s.IgnoreEOS)
	p.setUnless(s.MaxTokens == defaultMaxTokens || s.MaxTokens == math.MaxInt, "max_tokens", s.MaxTokens)
	p.setUnless(s.MinTokens == 0, "min_tokens", s.MinTokens)
	p.setUnless(s.Logprobs == nil, "logprobs", s.Logprobs)
	p.setUnless(s.PromptLogprobs == nil, "prompt_logprobs", s.PromptLogprobs)
	p.setUnless(s.LogprobTokenIDs == nil, "logprob_token_ids", s.LogprobTokenIDs)
	p.setUnless(s.SkipSpecial, "skip_special_tokens", false)
	p.setUnless(!s.IncludeStop, "include_stop_str_in_output", true)
	kind := 2 // the whole answer at its end
	if s.Stream {
		kind = 1 // what is new
	}
	p.set("output_kind", kind)
	p.setUnless(s.StreamInterval == 1, "stream_interval", s.StreamInterval)
	p.set("skip_clone", true)
	p.setUnless(s.LogitBias == nil, "logit_bias", biasObject(s.LogitBias))
	p.setUnless(s.AllowedTokenIDs == nil, "allowed_token_ids", s.AllowedTokenIDs)
	p.set("bad_words", notNil(s.BadWords))
	p.set("skip_reading_prefix_cache", s.SkipCache)
	return p
}

func notNil[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func biasObject(bias map[int64]float64) *paramsObject {
	ids := make([]int64, 0, len(bias))
	for id := range bias {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	p := &paramsObject{}
	for _, id := range ids {
		p.set(strconv.FormatInt(id, 10), Float(bias[id]))
	}
	return p
}
