package vllm

import (
	"context"
	"fmt"
	"math"

	"github.com/valyala/fastjson"

	"paceline/draft"
	"paceline/vocab"
)

// Complete implements draft.Completer: it continues prefix greedily by at most
// k tokens. An answer that is not that (ids missing, too many, unknown ones) is
// an error.
func (e *Endpoint) Complete(ctx context.Context, prefix []vocab.Token, k int) (draft.Completion, error) {
	caps := e.caps.Load()
	if caps.MaxModelLen > 0 {
		k = min(k, caps.MaxModelLen-len(prefix))
	}
	if k <= 0 || len(prefix) == 0 {
		return draft.Completion{}, nil
	}
	w := e.take()
	defer e.give(w)
	b := append(append(w.body[:0], `{"model":`...), quoted(caps.Model)...)
	b = append(vocab.AppendIDs(append(b, `,"prompt":[`...), prefix), ']')
	b = appendInt(b, "max_tokens", k)
	w.body = append(b, `,"temperature":0,"top_p":1,"top_k":0,"min_p":0,"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,`+
		`"stream":false,"return_token_ids":true,"logprobs":1}`...)
	v, err := e.call(ctx, w, pathCompletions, nil)
	if err != nil {
		return draft.Completion{}, err
	}
	list := v.GetArray("choices")
	if len(list) != 1 {
		return draft.Completion{}, fmt.Errorf("cannot read a draft: %w: %d choices", errAnswer, len(list))
	}
	var c draft.Completion
	if c.Tokens, err = tokenIDs(make([]vocab.Token, 0, k), list[0].Get("token_ids"), caps.VocabSize); err != nil {
		return draft.Completion{}, fmt.Errorf("cannot read a draft: %w", err)
	}
	finish := string(list[0].GetStringBytes("finish_reason"))
	if n := len(c.Tokens); n == 0 || n > k || finish != "stop" && finish != "length" || n < k && finish == "length" && len(prefix)+n != caps.MaxModelLen {
		return draft.Completion{}, fmt.Errorf("cannot read a draft: %w: %d of %d tokens, finish reason %q", errAnswer, n, k, finish)
	}
	c.Confidence = confidence(list[0].GetArray("logprobs", "token_logprobs"), len(c.Tokens))
	return c, nil
}

// confidence turns log-probabilities into probabilities; nil unless there is a
// sound one for each token.
func confidence(list []*fastjson.Value, n int) []float32 {
	if len(list) != n {
		return nil
	}
	all := make([]float32, n)
	for i, v := range list {
		p := math.Exp(v.GetFloat64())
		if v.Type() != fastjson.TypeNumber || !(p <= 1.001) {
			return nil
		}
		all[i] = float32(max(min(p, 1), math.SmallestNonzeroFloat32))
	}
	return all
}
