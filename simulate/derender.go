package simulate

import (
	"paceline/simulate/lm"
	"paceline/simulate/vllm"
	"paceline/vocab"
)

// pieces is a model's vocabulary for the derender endpoints. Only the end of
// sequence counts as special there: the others are added tokens.
type pieces struct {
	t   *lm.Tokenizer
	eos []vocab.Token
}

// Piece implements vllm.Pieces.
func (p pieces) Piece(id vocab.Token, skipSpecial bool) (string, bool) {
	if skipSpecial && len(p.eos) > 0 && id == p.eos[0] {
		return "", true
	}
	return vllm.Piece(p.t.Bytes(id), p.t.Special(id)), false
}

func (r *request) readDerender(chat bool) (*vllm.Derender, *vllm.Error) {
	d, err := vllm.ReadDerender(r.ctx.PostBody(), chat)
	if err != nil {
		return nil, err
	}
	if err := r.s.checkModel(d.Model); err != nil {
		return nil, err
	}
	if chat && r.s.o.ToolParser && d.Chat == nil {
		return nil, vllm.BadRequest("chat_request is required when a tool or reasoning parser is configured because plain detokenization would leak raw parser markup into content.")
	}
	if d.Stream {
		if n := len(d.Chunk.Choices); n > 1 {
			return nil, vllm.BadRequest("derender_chat_stream expects at most one choice per chunk (got %d).", n)
		}
		if d.State != nil {
			return d, d.State.Valid()
		}
	}
	for _, a := range d.Wholes {
		for _, c := range a.Choices {
			if len(c.TokenIDs) == 0 {
				return nil, vllm.EmptyChoice(c.Index)
			}
			if n := len(c.TokenIDs); n > r.s.o.MaxModelLen {
				return nil, vllm.BadRequest("token_ids length (%d) in choice %d exceeds max_model_len (%d).", n, c.Index, r.s.o.MaxModelLen)
			}
		}
	}
	return d, nil
}

func (r *request) pieces() pieces { return pieces{r.s.o.Model.Tokenizer(), r.s.o.EOS} }

// seed is the state after the prompt of an answer, if the prompt is known.
func (r *request) seed(d *vllm.Derender, i int, a *vllm.DerenderAnswer, skip bool) *vllm.DerenderState {
	ids := d.PromptIDs[i]
	if ids == nil {
		ids = a.PromptIDs
	}
	return vllm.Seed(r.pieces(), ids, skip)
}

func finishOr(finish *string, def string) string {
	if finish == nil {
		return def
	}
	return *finish
}

// derenderChat serves /v1/chat/completions/derender.
func (r *request) derenderChat() *vllm.Error {
	d, err := r.readDerender(true)
	if err != nil {
		return err
	}
	if d.Stream {
		return r.derenderChatChunk(d)
	}
	a := &d.Wholes[0]
	parses := r.s.o.ToolParser && d.Chat != nil
	skip := d.SkipSpecial() && !parses
	b := vllm.ChatBody{Head: vllm.Head{ID: a.RequestID, Object: "chat.completion", Created: unix(), Model: r.s.o.Name}}
	counts := vllm.Counts{Prompt: d.PromptTokens[0], Cached: -1}
	for _, c := range a.Choices {
		text := r.seed(d, 0, a, skip).Decode(r.pieces(), c.TokenIDs, skip)
		counts.Completion += len(c.TokenIDs)
		choice := vllm.ChatChoice{Index: c.Index, Finish: finishOr(c.Finish, "stop"), StopReason: c.StopReason}
		choice.Message = vllm.ChatMessage{Role: "assistant", Content: &text}
		if parses {
			r.s.parseDerendered(&choice, text)
		}
		if d.Chat != nil && d.Chat.ReturnTokenIDs {
			choice.TokenIDs = vllm.IDs(c.TokenIDs)
		}
		b.Choices = append(b.Choices, choice)
	}
	b.Usage = vllm.NewUsage(counts, false)
	return r.answer(b)
}

// parseDerendered takes the tool calls out of an answer whose special tokens
// are still in it.
func (s *Server) parseDerendered(choice *vllm.ChatChoice, text string) {
	t := s.o.Model.Tokenizer()
	text = t.Decode(t.Encode(text, true), true)
	content, calls := parseCalls(text)
	choice.Message.Content = content
	if len(calls) > 0 {
		choice.Message.ToolCalls = s.identify(calls, false)
	}
}

func (r *request) derenderChatChunk(d *vllm.Derender) *vllm.Error {
	if r.s.o.ToolParser {
		return vllm.BadRequest("invalid stream_state: derender failed") // the simulated parser cannot be resumed
	}
	chunk := vllm.DerenderedChatChunk{
		Head:    vllm.Head{ID: d.Chunk.RequestID, Object: "chat.completion.chunk", Created: unix(), Model: r.s.o.Name},
		Choices: []vllm.DerenderedChatChoice{}, Usage: chunkUsage(d),
	}
	state := r.derenderChunk(d, true, func(c vllm.CompletionChunkChoice, role bool) {
		choice := vllm.DerenderedChatChoice{Index: c.Index, Finish: c.Finish, StopReason: c.StopReason, TokenIDs: c.TokenIDs}
		if role {
			assistant := "assistant"
			choice.Delta.Role = &assistant
		}
		if c.Text != "" {
			choice.Delta.Content = &c.Text
		}
		chunk.Choices = append(chunk.Choices, choice)
	})
	return r.answer(vllm.DerenderedChat{Chunk: chunk, State: state})
}

// derenderChunk decodes the choice of a chunk, if it has one, and returns the
// state after it.
func (r *request) derenderChunk(d *vllm.Derender, chat bool, add func(c vllm.CompletionChunkChoice, role bool)) *vllm.DerenderState {
	skip := d.SkipSpecial()
	state := d.State
	if state == nil {
		state = r.seed(d, 0, d.Chunk, skip)
	}
	var ids []vocab.Token
	text := ""
	role := !state.RoleSent
	for _, c := range d.Chunk.Choices {
		ids = c.TokenIDs
		text = state.Decode(r.pieces(), ids, skip)
		choice := vllm.CompletionChunkChoice{Index: c.Index, Text: text, Finish: c.Finish, StopReason: c.StopReason}
		if d.Chat != nil && d.Chat.ReturnTokenIDs {
			choice.TokenIDs = vllm.IDs(ids)
		}
		add(choice, role)
	}
	state.Carry(ids, text, chat && (len(d.Chunk.Choices) > 0 || state.RoleSent))
	return state
}

func chunkUsage(d *vllm.Derender) *vllm.Usage {
	if d.Chunk.Usage == nil {
		return nil
	}
	prompt := d.PromptTokens[0]
	if prompt == 0 {
		prompt = d.Chunk.Usage.Prompt
	}
	u := vllm.NewUsage(vllm.Counts{Prompt: prompt, Completion: d.Chunk.Usage.Completion, Cached: -1}, false)
	return &u
}

// derenderCompletion serves /v1/completions/derender.
func (r *request) derenderCompletion() *vllm.Error {
	d, err := r.readDerender(false)
	if err != nil {
		return err
	}
	if d.Stream {
		chunk := vllm.DerenderedTextChunk{
			Head:    vllm.Head{ID: d.Chunk.RequestID, Object: "text_completion", Created: unix(), Model: r.s.o.Name},
			Choices: []vllm.CompletionChunkChoice{}, Usage: chunkUsage(d),
		}
		state := r.derenderChunk(d, false, func(c vllm.CompletionChunkChoice, _ bool) { chunk.Choices = append(chunk.Choices, c) })
		return r.answer(vllm.DerenderedText{Chunk: chunk, State: state})
	}
	b := vllm.CompletionBody{Head: vllm.Head{ID: d.Wholes[0].RequestID, Object: "text_completion", Created: unix(), Model: r.s.o.Name}}
	counts := vllm.Counts{Cached: -1}
	skip := d.SkipSpecial()
	for i := range d.Wholes {
		a := &d.Wholes[i]
		counts.Prompt += d.PromptTokens[i]
		for _, c := range a.Choices {
			counts.Completion += len(c.TokenIDs)
			finish := finishOr(c.Finish, "stop")
			b.Choices = append(b.Choices, vllm.CompletionChoice{
				Index: len(b.Choices), Text: r.seed(d, i, a, skip).Decode(r.pieces(), c.TokenIDs, skip), Finish: &finish, StopReason: c.StopReason,
			})
		}
	}
	b.Usage = vllm.NewUsage(counts, false)
	return r.answer(b)
}
