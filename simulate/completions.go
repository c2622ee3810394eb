package simulate

import (
	"fmt"

	"paceline/simulate/vllm"
)

// completions serves /v1/completions.
func (r *request) completions() *vllm.Error {
	c, prompts, err := r.readCompletion()
	if err != nil {
		return err
	}
	if err := check(&c.Common, prompts); err != nil {
		return err
	}
	w := &completionWriter{s: r.s, c: c, prompts: prompts}
	w.head = vllm.Head{ID: "cmpl-" + r.requestID(c.RequestID), Object: "text_completion", Created: unix(), Model: r.s.o.Name}
	ids := make([]string, len(prompts))
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", w.head.ID, i)
	}
	g, err := r.s.build(&c.Common, prompts, r.fault)
	w.g = g
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

// readCompletion reads the body and tokenises its prompts.
func (r *request) readCompletion() (*vllm.Completion, []prompt, *vllm.Error) {
	s := r.s
	c, err := vllm.ReadCompletion(r.ctx.PostBody(), &s.o.Defaults)
	if err != nil {
		return nil, nil, err
	}
	if err := s.checkModel(c.Model); err != nil {
		return nil, nil, err
	}
	if err := c.CheckLimit(s.o.MaxModelLen); err != nil {
		return nil, nil, err
	}
	if len(c.Prompts) == 0 {
		return nil, nil, vllm.BadRequest("You must pass at least one prompt")
	}
	prompts := make([]prompt, len(c.Prompts))
	for i, p := range c.Prompts {
		if prompts[i], err = s.tokenise(p); err != nil {
			return nil, nil, err
		}
		prompts[i].limit = c.Limit(len(prompts[i].ids), s.o.MaxModelLen)
		if c.Echo && !p.IsText {
			prompts[i].text = s.o.Model.Tokenizer().Decode(vllm.Tokens(p.IDs), false)
		}
	}
	return c, prompts, nil
}

// completionWriter writes the answer of /v1/completions.
type completionWriter struct {
	s       *Server
	c       *vllm.Completion
	prompts []prompt
	g       *generation
	head    vllm.Head

	tokens  []int // by choice
	offsets []int
	cached  int
	begun   bool
}

// prompt is the prompt of a choice.
func (w *completionWriter) prompt(choice int) prompt { return w.prompts[choice/w.c.Sampling.N] }

func (w *completionWriter) events(d delta) []any {
	if w.tokens == nil {
		w.tokens, w.offsets = make([]int, len(w.g.seqs)), make([]int, len(w.g.seqs))
	}
	if !w.begun {
		w.begun, w.cached = true, w.g.cachedTokens(d.index)
	}
	first := w.tokens[d.index] == 0
	if first && d.text == "" && len(d.tokens) == 0 {
		return nil
	}
	w.tokens[d.index] += len(d.tokens)
	choice := vllm.CompletionChunkChoice{Index: d.index, Text: d.text, StopReason: d.reason}
	if d.finish != "" {
		choice.Finish = &d.finish
	}
	rows := d.rows
	if first && w.c.Echo {
		choice.Text, rows = w.echo(d)
	}
	if w.c.Sampling.Logprobs != nil || w.c.Sampling.LogprobTokenIDs != nil {
		choice.Logprobs, w.offsets[d.index] = w.logprobs(rows, d.index, w.offsets[d.index])
	}
	if w.c.ReturnTokenIDs {
		choice.TokenIDs = vllm.IDs(d.tokens)
		if choice.TokenIDs == nil {
			choice.TokenIDs = vllm.IDs{}
		}
	}
	if first && (w.c.ReturnTokenIDs || w.c.Echo) {
		choice.PromptTokenIDs = vllm.IDs(w.g.seqs[d.index].prompt)
	}
	chunk := vllm.CompletionChunk{Head: w.head, Choices: []vllm.CompletionChunkChoice{choice}}
	if d.finish != "" && !w.c.IncludeUsage {
		chunk.Fingerprint = fingerprint
	}
	if w.c.Continuous {
		chunk.Usage = vllm.ContinuousUsage(vllm.Counts{Prompt: len(w.prompt(d.index).ids), Completion: w.tokens[d.index]}, false)
	}
	return []any{chunk}
}

func (w *completionWriter) tail() []any {
	if !w.c.IncludeUsage {
		return nil
	}
	counts := vllm.Counts{Cached: w.s.told(w.cached)}
	for _, p := range w.prompts {
		counts.Prompt += len(p.ids)
	}
	for _, n := range w.tokens {
		counts.Completion += n
	}
	return []any{vllm.CompletionChunk{
		Head: w.head, Choices: []vllm.CompletionChunkChoice{}, Usage: vllm.FinalUsage(counts, false), Fingerprint: fingerprint,
	}}
}

// told is a cached-token count as the server's switch lets it be told.
func (s *Server) told(cached int) int {
	if s.o.NoCachedTokens {
		return -1
	}
	return cached
}

// echo puts the prompt in front of an answer, or in its place.
func (w *completionWriter) echo(d delta) (string, []vllm.Row) {
	text := w.prompt(d.index).text
	if w.c.ReturnTokenIDs {
		text = ""
	}
	rows := w.g.seqs[d.index].promptRows()
	if w.c.EchoOnly() {
		return text, rows
	}
	return text + d.text, append(rows, d.rows...)
}

func (w *completionWriter) logprobs(rows []vllm.Row, index, offset int) (*vllm.CompletionLogprobs, int) {
	asID := w.c.TokensAsIDs != nil && *w.c.TokensAsIDs
	first := w.g.seqs[index].prompt[:1]
	name := w.s.o.Model.Tokenizer().Decode(first, false)
	if asID {
		name = fmt.Sprintf("token_id:%d", first[0])
	}
	top := 0
	if w.c.Sampling.Logprobs != nil {
		top = *w.c.Sampling.Logprobs
	}
	return vllm.NewCompletionLogprobs(rows, top, w.c.Sampling.LogprobTokenIDs != nil, asID, offset, name)
}

// body is the whole answer at once.
func (w *completionWriter) body(deltas []delta) vllm.CompletionBody {
	b := vllm.CompletionBody{Head: w.head, Fingerprint: pointer(fingerprint)}
	counts := vllm.Counts{}
	for i, d := range deltas {
		q := w.g.seqs[i]
		choice := vllm.CompletionChoice{Index: i, Text: d.text, Finish: &deltas[i].finish, StopReason: d.reason, PromptLogprobs: q.promptRows()}
		rows := d.rows
		if w.c.Echo {
			choice.Text, rows = w.echo(d)
		}
		if w.c.Sampling.Logprobs != nil || w.c.Sampling.LogprobTokenIDs != nil {
			choice.Logprobs, _ = w.logprobs(rows, i, 0)
		}
		if w.c.ReturnTokenIDs {
			choice.TokenIDs, choice.PromptTokenIDs = append(vllm.IDs{}, d.tokens...), vllm.IDs(q.prompt)
		}
		b.Choices = append(b.Choices, choice)
		counts.Completion += len(d.tokens)
	}
	for _, p := range w.prompts {
		counts.Prompt += len(p.ids)
	}
	counts.Cached = w.s.told(w.g.cachedTokens(w.lastOfLastPrompt()))
	b.Usage = vllm.NewUsage(counts, false)
	return b
}

// lastOfLastPrompt is the sequence of the last prompt whose cache hit the
// usage tells: vLLM shows that of one prompt only.
func (w *completionWriter) lastOfLastPrompt() int { return len(w.g.seqs) - 1 }
