package simulate

import (
	"paceline/simulate/vllm"
)

// generate serves /inference/v1/generate: tokens in, tokens out, and the log-
// probabilities of the prompt without computing all of it again.
func (r *request) generate() *vllm.Error {
	s := r.s
	c, err := vllm.ReadGenerate(r.ctx.PostBody())
	if err != nil {
		return err
	}
	if err := s.checkModel(c.Model); err != nil {
		return err
	}
	if c.Sampling.N > s.o.MaxRunning {
		return vllm.BadRequest("sampling_params.n must be at most the server's max_num_seqs (%d), got %d.", s.o.MaxRunning, c.Sampling.N)
	}
	if c.Stream && c.Sampling.PromptLogprobIDs != nil {
		return vllm.BadRequest("prompt_logprob_token_ids are not available when stream=true.")
	}
	p := prompt{ids: c.IDs, limit: c.Sampling.MaxTokens}
	if len(c.IDs) > s.o.MaxModelLen {
		return vllm.NoRoom(len(c.IDs), s.o.MaxModelLen)
	}
	w := &generateWriter{s: s, c: c, id: "generate-tokens-" + r.requestID(c.RequestID), created: unix()}
	g, err := s.build(&c.Common, []prompt{p}, r.fault)
	w.g = g
	ids := []string{w.id}
	if c.Stream {
		return r.stream(g, err, w, ids)
	}
	if err != nil {
		return err
	}
	deltas, err := r.whole(g, ids)
	if err != nil {
		return err
	}
	return r.answer(w.body(deltas))
}

// abortRequests serves /inference/v1/abort_requests.
func (r *request) abortRequests() *vllm.Error {
	ids, err := vllm.ReadAbort(r.ctx.PostBody())
	if err != nil {
		return err
	}
	s := r.s
	s.mu.Lock()
	var seqs []*sequence
	for _, id := range ids {
		seqs = append(seqs, s.live[id]...)
	}
	s.mu.Unlock()
	s.loop.abort(seqs, true)
	return nil
}

// generateWriter writes the answer of /inference/v1/generate.
type generateWriter struct {
	s       *Server
	c       *vllm.Generate
	g       *generation
	id      string
	created int64

	tokens []int // by choice
	cached int
}

func (w *generateWriter) mode() string {
	if w.c.TextMode {
		return "text"
	}
	return "tokens"
}

func (w *generateWriter) choice(d delta, all int) vllm.GenerateChoice {
	c := vllm.GenerateChoice{Index: d.index, StopReason: d.reason, TokenIDs: append(vllm.IDs{}, d.tokens...)}
	if d.finish != "" {
		c.Finish = &d.finish
		c.WeightVersions = []vllm.WeightVersion{{Version: "default", Start: 0, End: all}}
	}
	if n := w.c.Sampling.Logprobs; n != nil {
		if w.c.TextMode {
			c.Logprobs = vllm.NewChatLogprobs(d.rows, max(*n, 1), *n == -1, false)
		} else {
			c.Logprobs = vllm.NewTokenLogprobs(d.rows, *n)
		}
	}
	if w.c.TextMode {
		c.Text = &d.text
	}
	return c
}

func (w *generateWriter) events(d delta) []any {
	chunk := vllm.GenerateChunk{RequestID: w.id, OutputMode: w.mode()}
	if w.tokens == nil {
		w.tokens = make([]int, len(w.g.seqs))
		w.cached = w.g.cachedTokens(d.index)
		if w.c.ReturnTokenIDs {
			chunk.GeneratePrompt = &vllm.GeneratePrompt{PromptTokenIDs: vllm.IDs(w.g.seqs[0].prompt)}
		}
	}
	w.tokens[d.index] += len(d.tokens)
	chunk.Choices = []vllm.GenerateChoice{w.choice(d, w.tokens[d.index])}
	if w.c.Continuous {
		chunk.Usage = vllm.NewUsage(vllm.Counts{Prompt: len(w.c.IDs), Completion: w.tokens[d.index], Cached: -1}, false)
	}
	return []any{chunk}
}

func (w *generateWriter) tail() []any {
	if !w.c.IncludeUsage {
		return nil
	}
	return []any{vllm.GenerateChunk{
		RequestID: w.id, OutputMode: w.mode(), Choices: []vllm.GenerateChoice{},
		Usage: vllm.FinalUsage(w.counts(w.tokens, w.cached), false),
	}}
}

func (w *generateWriter) counts(tokens []int, cached int) vllm.Counts {
	c := vllm.Counts{Prompt: len(w.c.IDs), Cached: w.s.told(cached)}
	for _, n := range tokens {
		c.Completion += n
	}
	return c
}

// body is the whole answer at once.
func (w *generateWriter) body(deltas []delta) vllm.GenerateBody {
	q := w.g.seqs[0]
	b := vllm.GenerateBody{
		RequestID: w.id, Model: w.s.o.Name, Created: w.created, OutputMode: w.mode(),
		PromptLogprobs: q.promptRows(), PromptIDLogprobs: npy(q.scores),
	}
	tokens := make([]int, len(deltas))
	for i, d := range deltas {
		tokens[i] = len(d.tokens)
		b.Choices = append(b.Choices, w.choice(d, len(d.tokens)))
	}
	b.Usage = vllm.NewUsage(w.counts(tokens, w.g.cachedTokens(w.g.last)), false)
	if w.c.ReturnTokenIDs {
		b.PromptTokenIDs = vllm.IDs(q.prompt)
	}
	return b
}
