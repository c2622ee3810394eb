package vllm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

// topRows is how many of the most likely tokens a row is asked for. Greedy
// needs the first; one more shows how near a tie was, and a third tells a tie
// of two from one that may go on beyond the list. (A V1 runner sends a row for
// every token of the context, so more are not free.)
const topRows = 3

const (
	pathCompletions = "/v1/completions"
	pathGenerate    = "/inference/v1/generate"
)

// fanOut asks for one token after C, C+d1, … in one request: K+1 prompts that
// share their prefix through the cache. The engine draws every token with the
// request's own settings, so it is exact at any temperature, and at any state
// of the cache. It is asked about the first n tokens of the draft only: the one
// behind is not in the vocabulary, so its choice differs from it for certain
// and what the choices behind it hold is never read.
//
// No seed goes along: on a V1 runner it would give every sub-prompt the same
// noise. min_tokens is relative to a request; a round does not straddle its end.
func (g *Generation) fanOut(ctx context.Context, after, draft []vocab.Token, n int) (verify.Pass, error) {
	w := g.e.take()
	defer g.e.give(w)
	b := g.begin(w.body[:0])
	b = append(b, g.later...)
	b = append(b, `"max_tokens":1,"stream":false,"return_token_ids":true`...)
	b = appendInt(b, "min_tokens", g.minTokens(len(after), 1))
	b = append(b, `,"prompt":[`...)
	for i := range n + 1 {
		b = append(append(b, '['), g.ids...)
		if i > 0 {
			b = vocab.AppendIDs(append(b, ','), draft[:i])
		}
		b = append(b, ']', ',')
	}
	b[len(b)-1] = ']'
	w.body = append(b, '}')

	pass := verify.Pass{Mode: verify.FanOut, Cached: -1, Computed: -1, Calls: 1}
	a, err := g.e.c.Fetch(ctx, &engine.Request{Path: pathCompletions, Header: g.r.Header, Body: w.body}, w.answer[:0])
	if err != nil {
		return pass, err
	}
	w.answer = a.Body
	v, err := w.parse(0)
	if err != nil {
		return pass, fmt.Errorf("cannot read the answer of a fan-out: %w", err)
	}
	if pass.Choices, err = choices(v, n+1, g.caps.VocabSize); err != nil {
		return pass, fmt.Errorf("cannot read the answer of a fan-out: %w", err)
	}
	if g.r.Settings.SkipSpecial {
		for _, c := range pass.Choices {
			g.e.specials.Load().note([]vocab.Token{c.Token}, c.Text)
		}
	}
	for len(pass.Choices) < len(draft)+1 {
		pass.Choices = append(pass.Choices, verify.Choice{Token: -1})
	}
	// Of a batch the server tells the last prompt's hit only; it is the one
	// that a score would have sent.
	pass.Cached = cachedTokens(v)
	return pass, nil
}

// score asks for the rows that judge the draft and for one token after it, in
// one request: a single sequence, C+d, of which the engine computes what its
// cache does not hold.
//
// A row that the engine did not compute is uninitialised memory on a V1 runner,
// and no look at it tells (of 102,880 such rows 216 looked like real ones): the
// rows are trusted only if the cache was hit no deeper than the context without
// its last token, or, on a V2 runner, which sends the computed rows only, if
// there are enough of them. detokenize must stay false: with it the server
// decodes the ids of uninitialised rows, and dies.
func (g *Generation) score(ctx context.Context, after, draft []vocab.Token) (verify.Pass, error) {
	w := g.e.take()
	defer g.e.give(w)
	w.body = g.scoreBody(w.body[:0], draft)
	pass := verify.Pass{Mode: verify.Score, Cached: -1, Computed: -1, Calls: 1}
	a, err := g.e.c.Fetch(ctx, &engine.Request{Path: pathGenerate, Header: g.r.Header, Body: w.body}, w.answer[:0])
	if err != nil {
		if isNaN(err) {
			err = nanRows
		}
		return pass, err
	}
	w.answer = a.Body
	pass, err = g.readScore(w, len(g.prompt)+len(after), draft, a.Repeated)
	if err == nil {
		err = g.knowsEnds(ctx, pass.Rows)
	}
	return pass, err
}

// readScore reads w.answer, the answer to a score after a context of so many
// tokens. repeated says that the request was sent twice: then it may have met
// its own first half in the cache.
func (g *Generation) readScore(w *work, context int, draft []vocab.Token, repeated bool) (verify.Pass, error) {
	pass := verify.Pass{Mode: verify.Score, Cached: -1, Computed: -1, Calls: 1}
	v, err := w.parse(len(draft))
	if err != nil {
		return pass, fmt.Errorf("cannot read the answer of a score: %w", err)
	}
	whole := context + len(draft)
	if pass.Cached = cachedTokens(v); pass.Cached >= 0 {
		pass.Computed = whole - pass.Cached
	}
	if pass.Cached < 0 || pass.Cached > context-1 || repeated {
		n, _ := countRows(w.answer)
		switch {
		case n >= whole:
			return pass, overDeep // a list of full length: no telling which rows were computed
		case n-1 < len(draft): // a short list begins with null
			return pass, shortRows
		}
	}
	if pass.Rows, err = rows(v.GetArray("prompt_logprobs"), draft, g.caps.VocabSize, topRows); err != nil {
		return pass, err
	}
	list := v.GetArray("choices")
	if len(list) != 1 {
		return pass, fmt.Errorf("cannot read the answer of a score: %w: %d choices", errAnswer, len(list))
	}
	if pass.Bonus, err = choice(list[0], g.caps.VocabSize); err != nil {
		return pass, fmt.Errorf("cannot read the answer of a score: %w", err)
	}
	return pass, nil
}

// scoreBody appends the request of a score. Every setting is explicit: this
// endpoint does not fill gaps from the model's generation_config.
func (g *Generation) scoreBody(b []byte, draft []vocab.Token) []byte {
	b = append(append(g.begin(b), `"token_ids":[`...), g.ids...)
	b = vocab.AppendIDs(append(b, ','), draft)
	b = append(append(b, `],"stream":false,`...), g.scoring...)
	b = append(b, `"sampling_params":{"n":1,"max_tokens":1,"min_tokens":0,"temperature":0,"top_p":1,"top_k":0,"min_p":0,`...)
	b = append(b, `"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,"detokenize":false,"skip_reading_prefix_cache":false`...)
	b = appendInt(b, "prompt_logprobs", topRows)
	if g.r.Settings.IgnoreEOS {
		b = append(b, `,"ignore_eos":true`...)
	}
	b = vocab.AppendIDs(append(b, `,"stop_token_ids":[`...), g.r.Settings.StopTokenIDs)
	return append(b, `]}}`...)
}

// isNaN recognises the answer to rows that hold NaN: "Out of range float
// values are not JSON compliant" (measured in 74 of 700 over-deep calls).
func isNaN(err error) bool {
	var se *engine.StatusError
	return errors.As(err, &se) && se.Status == 400 && bytes.Contains(se.Body, []byte("Out of range float values"))
}
