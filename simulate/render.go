package simulate

import (
	"fmt"

	"paceline/simulate/vllm"
)

// tokenize serves /tokenize.
func (r *request) tokenize() *vllm.Error {
	s := r.s
	t, err := vllm.ReadTokenize(r.ctx.PostBody())
	if err != nil {
		return err
	}
	if err := s.checkModel(t.Model); err != nil {
		return err
	}
	text := t.Text
	if t.Chat != nil {
		if text, err = s.render(t.Chat); err != nil {
			return err
		}
	}
	tokens := s.o.Model.Tokenizer().Encode(text, true)
	b := vllm.TokenizeBody{Count: len(tokens), MaxModelLen: s.o.MaxModelLen, Tokens: append(vllm.IDs{}, tokens...)}
	if t.Strings {
		b.Strings = []string{}
		for _, id := range tokens {
			b.Strings = append(b.Strings, vllm.Piece(s.o.Model.Tokenizer().Bytes(id), s.o.Model.Tokenizer().Special(id)))
		}
	}
	return r.answer(b)
}

// detokenize serves /detokenize.
func (r *request) detokenize() *vllm.Error {
	model, ids, err := vllm.ReadDetokenize(r.ctx.PostBody())
	if err != nil {
		return err
	}
	if err := r.s.checkModel(model); err != nil {
		return err
	}
	return r.answer(vllm.DetokenizeBody{Prompt: r.s.o.Model.Tokenizer().Decode(vllm.Tokens(ids), false)})
}

// renderCompletion serves /v1/completions/render.
func (r *request) renderCompletion() *vllm.Error {
	c, prompts, err := r.readCompletion()
	if err != nil {
		return err
	}
	if err := check(&c.Common, prompts); err != nil {
		return err
	}
	id := "cmpl-" + r.requestID(c.RequestID)
	bodies := make([]vllm.RenderBody, len(prompts))
	for i, p := range prompts {
		c.Sampling.MaxTokens = p.limit
		bodies[i] = vllm.NewRender(&c.Common, p.ids)
		if bodies[i].RequestID = id; len(prompts) > 1 {
			bodies[i].RequestID = fmt.Sprintf("%s-%d", id, i)
		}
	}
	return r.answer(bodies)
}

// renderChat serves /v1/chat/completions/render.
func (r *request) renderChat() *vllm.Error {
	c, p, err := r.readChat()
	if err != nil {
		return err
	}
	if err := check(&c.Common, []prompt{p}); err != nil {
		return err
	}
	b := vllm.NewRender(&c.Common, p.ids)
	b.RequestID = "chatcmpl-" + r.requestID(c.RequestID)
	return r.answer(b)
}
