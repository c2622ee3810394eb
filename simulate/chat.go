package simulate

import (
	"strings"

	"paceline/simulate/lm"
	"paceline/simulate/vllm"
)

// chat serves /v1/chat/completions.
func (r *request) chat() *vllm.Error {
	c, p, err := r.readChat()
	if err != nil {
		return err
	}
	prompts := []prompt{p}
	if err := check(&c.Common, prompts); err != nil {
		return err
	}
	w := &chatWriter{s: r.s, c: c, prompt: p}
	w.head = vllm.Head{ID: "chatcmpl-" + r.requestID(c.RequestID), Object: "chat.completion", Created: unix(), Model: r.s.o.Name}
	g, err := r.s.build(&c.Common, prompts, r.fault)
	w.g = g
	ids := []string{w.head.ID}
	if c.Stream {
		w.head.Object = "chat.completion.chunk"
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

// readChat reads the body and renders its conversation.
func (r *request) readChat() (*vllm.Chat, prompt, *vllm.Error) {
	s := r.s
	c, err := vllm.ReadChat(r.ctx.PostBody(), &s.o.Defaults)
	if err != nil {
		return nil, prompt{}, err
	}
	if err := s.checkModel(c.Model); err != nil {
		return nil, prompt{}, err
	}
	if !s.o.ToolParser {
		switch c.ToolChoice {
		case "auto":
			return nil, prompt{}, vllm.BadRequest(`"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set`)
		case "required", "named":
			return nil, prompt{}, vllm.BadRequest(`tool_choice="%s" requires --tool-call-parser to be set`, c.ToolChoice)
		}
	}
	if err := c.CheckLimit(s.o.MaxModelLen); err != nil {
		return nil, prompt{}, err
	}
	text, err := s.render(&c.Conversation)
	if err != nil {
		return nil, prompt{}, err
	}
	p, err := s.tokenise(vllm.Prompt{Text: text, IsText: true})
	if err != nil {
		return nil, prompt{}, err
	}
	p.limit = c.Limit(len(p.ids), s.o.MaxModelLen, &s.o.Defaults)
	return c, p, nil
}

// render writes a conversation as the model reads it.
func (s *Server) render(c *vllm.Conversation) (string, *vllm.Error) {
	switch {
	case c.OwnTemplate:
		return "", vllm.BadRequest("Chat template is passed with request, but --trust-request-chat-template is not set. Refused request with untrusted chat template.")
	case len(c.Messages) == 0:
		return "", vllm.BadRequest("Cannot apply chat template to an empty conversation. Provide at least one message.")
	case c.Image:
		return "", vllm.BadRequest("%s is not a multimodal model", s.o.Name)
	case c.Continue && c.AddGeneration:
		return "", vllm.BadRequest("continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you want the model to continue the final message, and add_generation_prompt when you want to add a header that will prompt it to start a new assistant message instead.")
	}
	messages := make([]lm.Message, len(c.Messages))
	for i, m := range c.Messages {
		messages[i] = lm.Message{Role: m.Role, Content: m.Content}
		for _, call := range m.ToolCalls {
			messages[i].ToolCalls = append(messages[i].ToolCalls, lm.ToolCall{Name: call.Name, Arguments: call.Arguments})
		}
	}
	text := lm.Render(messages, c.Tools, c.AddGeneration)
	if !c.Continue {
		return text, nil
	}
	return continued(text, c.Messages[len(c.Messages)-1].Content)
}

// continued cuts a rendered conversation after its last message's content.
func continued(text, last string) (string, *vllm.Error) {
	trimmed := strings.TrimSpace(last)
	at := strings.LastIndex(text, trimmed)
	if at < 0 {
		return "", vllm.BadRequest("continue_final_message is set but the final message does not appear in the chat after applying the chat template!")
	}
	if whole := strings.TrimLeft(last, " \t\r\n"); strings.HasPrefix(text[at:], whole) {
		return text[:at+len(whole)], nil
	}
	return text[:at+len(trimmed)], nil
}

// chatWriter writes the answer of /v1/chat/completions.
type chatWriter struct {
	s      *Server
	c      *vllm.Chat
	prompt prompt
	g      *generation
	head   vllm.Head

	tokens []int         // by choice
	calls  []*toolStream // by choice, with a tool parser
	cached int
}

func (w *chatWriter) parses() bool {
	return w.s.o.ToolParser && w.c.Tools != nil && w.c.ToolChoice != "none"
}

func (w *chatWriter) chunk(c vllm.ChatChunkChoice, completion int) vllm.ChatChunk {
	chunk := vllm.ChatChunk{Head: w.head, Choices: []vllm.ChatChunkChoice{c}}
	if w.c.Continuous {
		chunk.Usage = vllm.ContinuousUsage(vllm.Counts{Prompt: len(w.prompt.ids), Completion: completion}, true)
	}
	return chunk
}

// begin are the chunks that name the role, one a choice.
func (w *chatWriter) begin(d delta) []any {
	n := len(w.g.seqs)
	w.tokens, w.calls = make([]int, n), make([]*toolStream, n)
	w.cached = w.g.cachedTokens(d.index)
	var events []any
	for i := range n {
		w.calls[i] = &toolStream{s: w.s}
		empty := ""
		chunk := w.chunk(vllm.ChatChunkChoice{Index: i, Delta: vllm.ChatDelta{Role: "assistant", Content: &empty}}, 0)
		chunk.ChatPrompt = &vllm.ChatPrompt{}
		if w.c.ReturnTokenIDs {
			chunk.PromptTokenIDs = vllm.IDs(w.g.seqs[i].prompt)
		}
		if w.c.ReturnPromptText {
			chunk.PromptText = &w.prompt.text
		}
		events = append(events, chunk)
	}
	return events
}

func (w *chatWriter) events(d delta) []any {
	var events []any
	if w.tokens == nil {
		events = w.begin(d)
	}
	if w.tokens[d.index] == 0 && d.text == "" && len(d.tokens) == 0 {
		return events
	}
	w.tokens[d.index] += len(d.tokens)
	choice := vllm.ChatChunkChoice{Index: d.index, Delta: vllm.ChatDelta{Content: &d.text}, ChatTokens: &vllm.ChatTokens{}}
	finish := d.finish
	if w.parses() {
		t := w.calls[d.index]
		choice.Delta = t.add(d.text, d.finish != "")
		if t.called > 0 && finish == "stop" && w.c.ToolChoice != "named" {
			finish = "tool_calls"
		}
		if choice.Delta.Content == nil && choice.Delta.ToolCalls == nil && finish == "" && d.rows == nil && !w.c.ReturnTokenIDs {
			return events
		}
	}
	if w.c.Logprobs {
		choice.Logprobs = w.logprobs(d.rows)
	}
	if w.c.ReturnTokenIDs {
		choice.TokenIDs = append(vllm.IDs{}, d.tokens...)
	}
	if finish != "" {
		choice.Finish, choice.ChatStop = &finish, &vllm.ChatStop{StopReason: d.reason}
	}
	chunk := w.chunk(choice, w.tokens[d.index])
	if finish != "" && !w.c.IncludeUsage {
		chunk.Fingerprint = fingerprint
	}
	return append(events, chunk)
}

func (w *chatWriter) tail() []any {
	if !w.c.IncludeUsage {
		return nil
	}
	return []any{vllm.ChatChunk{
		Head: w.head, Choices: []vllm.ChatChunkChoice{}, Fingerprint: fingerprint,
		Usage: vllm.FinalUsage(w.counts(w.tokens, w.cached), true),
	}}
}

func (w *chatWriter) counts(tokens []int, cached int) vllm.Counts {
	c := vllm.Counts{Prompt: len(w.prompt.ids), Cached: w.s.told(cached)}
	for _, n := range tokens {
		c.Completion += n
	}
	return c
}

func (w *chatWriter) logprobs(rows []vllm.Row) *vllm.ChatLogprobs {
	top := 0
	if w.c.Sampling.Logprobs != nil {
		top = *w.c.Sampling.Logprobs
	}
	return vllm.NewChatLogprobs(rows, top, w.c.Sampling.LogprobTokenIDs != nil, w.c.TokensAsIDs != nil && *w.c.TokensAsIDs)
}

// body is the whole answer at once.
func (w *chatWriter) body(deltas []delta) vllm.ChatBody {
	b := vllm.ChatBody{Head: w.head, Fingerprint: pointer(fingerprint), PromptLogprobs: w.g.seqs[0].promptRows()}
	tokens := make([]int, len(deltas))
	for i, d := range deltas {
		tokens[i] = len(d.tokens)
		choice := vllm.ChatChoice{Index: i, Finish: d.finish, StopReason: d.reason}
		text := d.text
		if w.c.Echo {
			if last := w.c.Messages[len(w.c.Messages)-1]; last.Role == "assistant" {
				text = last.Content + text
			}
		}
		choice.Message = vllm.ChatMessage{Role: "assistant", Content: &text}
		if w.parses() {
			content, calls := parseCalls(text)
			if len(calls) > 0 {
				choice.Message.Content, choice.Message.ToolCalls = content, w.s.identify(calls, false)
				if w.c.ToolChoice != "named" {
					choice.Finish = "tool_calls"
				}
			}
		}
		if w.c.Logprobs {
			choice.Logprobs = w.logprobs(d.rows)
		}
		if w.c.ReturnTokenIDs {
			choice.TokenIDs = append(vllm.IDs{}, d.tokens...)
		}
		b.Choices = append(b.Choices, choice)
	}
	b.Usage = vllm.NewUsage(w.counts(tokens, w.g.cachedTokens(w.g.last)), true)
	if w.c.ReturnTokenIDs {
		b.PromptTokenIDs = vllm.IDs(w.g.seqs[0].prompt)
	}
	if w.c.ReturnPromptText {
		b.PromptText = &w.prompt.text
	}
	return b
}
