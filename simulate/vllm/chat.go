package vllm

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Conversation is what a chat template renders.
type Conversation struct {
	Messages      []Message
	Tools         []json.RawMessage // as the template sees them
	AddGeneration bool
	Continue      bool // the last message goes on
	OwnTemplate   bool // the request brought its own
	Image         bool // some part is not text
}

// Message is a turn; ToolCalls have their arguments parsed.
type Message struct {
	Role, Content string
	ToolCalls     []ToolCall
}

// ToolCall is a call in a turn that is rendered.
type ToolCall struct {
	Name      string
	Arguments json.RawMessage
}

// Chat is a body of /v1/chat/completions and its render endpoint.
type Chat struct {
	Common
	Conversation
	Echo             bool
	ToolChoice       string // "none", "auto", "required" or "named"
	Logprobs         bool
	TokensAsIDs      *bool
	ReturnPromptText bool
	limit            *int64
	limitParam       string
}

// ReadChat parses and checks a body of /v1/chat/completions.
func ReadChat(text []byte, d *Defaults) (*Chat, *Error) {
	r, err := body(text)
	if err != nil {
		return nil, err
	}
	for _, check := range []func(*object) *Error{rawContinue, rawTools, rawChatLogprobs, rawStreamOptions, rawFormat, rawSalt} {
		if err := check(r.o); err != nil {
			return nil, err
		}
	}
	c := &Chat{}
	if r.required("messages") {
		c.Conversation = *r.conversation()
	}
	c.Model = strOr(r.str("model", true), "")
	c.Logprobs = r.bool("logprobs", true, false)
	top := intOr(r.int("top_logprobs", true), 0)
	c.limit, c.limitParam = r.int("max_tokens", true), "max_tokens"
	if r.present("max_completion_tokens", true) {
		c.limit, c.limitParam = r.int("max_completion_tokens", true), "max_completion_tokens"
	}
	c.readCommon(r, d)
	c.ToolChoice = r.toolChoice(c.Tools != nil)
	if r.bool("use_beam_search", false, false) {
		return nil, BadRequest("Beam search is not supported by the simulated engine")
	}
	c.Sampling.PromptLogprobs = optional(r.int("prompt_logprobs", true))
	c.Echo = r.bool("echo", false, false)
	if r.present("return_tokens_as_token_ids", true) {
		b := r.bool("return_tokens_as_token_ids", true, false)
		c.TokensAsIDs = &b
	}
	c.ReturnPromptText = r.bool("return_prompt_text", true, false)
	if err := r.err(); err != nil {
		return nil, err
	}
	s := &c.Sampling
	if c.Logprobs && s.LogprobTokenIDs == nil {
		s.Logprobs = &top
	}
	if s.PromptLogprobs == nil && c.Echo {
		s.PromptLogprobs = &top
	}
	s.SkipCache = s.PromptLogprobs != nil
	return c, nil
}

// CheckLimit refuses more tokens than the context has, before the prompt is
// looked at.
func (c *Chat) CheckLimit(context int) *Error {
	return tooMany(c.limitParam, intOr(c.limit, 0), context)
}

// Limit is the number of tokens that the request, the server and the context
// allow after a prompt of that length.
func (c *Chat) Limit(prompt, context int, d *Defaults) int {
	most := context - prompt
	switch {
	case c.limit != nil:
		most = min(most, clampInt(*c.limit))
	case d.MaxTokens != nil:
		most = min(most, *d.MaxTokens)
	}
	return most
}

func rawContinue(o *object) *Error {
	if truthy(o.get("continue_final_message")) && truthy(o.get("add_generation_prompt")) {
		return bad("", "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
	}
	return nil
}

func rawChatLogprobs(o *object) *Error {
	if truthy(o.get("logprob_token_ids")) && !truthy(o.get("logprobs")) {
		return bad("logprob_token_ids", "when using `logprob_token_ids`, `logprobs` must be set to true.")
	}
	if err := rawCounts(o, "top_logprobs"); err != nil {
		return err
	}
	if n, ok := o.get("top_logprobs").(number); ok && !truthy(o.get("logprobs")) {
		if f, _ := parseFloat(string(n)); f == -1 || f > 0 {
			return bad("top_logprobs", "when using `top_logprobs`, `logprobs` must be set to true.")
		}
	}
	return nil
}

const namedToolUsage = "Correct usage: `{\"type\": \"function\", \"function\": {\"name\": \"my_function\"}}`"

func rawTools(o *object) *Error {
	tools := o.get("tools")
	if l, ok := tools.(list); ok && len(l) == 0 {
		return bad("tools", "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.")
	}
	choice := o.get("tool_choice")
	if choice == nil || choice == "none" {
		return nil
	}
	if tools == nil {
		return bad("tool_choice", "When using `tool_choice`, `tools` must be set.")
	}
	named, ok := choice.(*object)
	if !ok {
		if choice != "auto" && choice != "required" {
			return bad("tool_choice", "Invalid value for `tool_choice`: %s! Only named tools, \"none\", \"auto\" or \"required\" are supported.", plain(choice))
		}
		return nil
	}
	f, ok := named.get("function").(*object)
	if !ok {
		return bad("tool_choice.function", "Invalid value for `function`: `%s` in `tool_choice`! %s", plain(named.get("function")), namedToolUsage)
	}
	name, _ := f.get("name").(string)
	if name == "" {
		return bad("tool_choice.function.name", "Expected field `name` in `function` in `tool_choice`! %s", namedToolUsage)
	}
	l, _ := tools.(list)
	for _, t := range l {
		if tool, ok := t.(*object); ok {
			if f, ok := tool.get("function").(*object); ok && f.get("name") == name {
				return nil
			}
		}
	}
	return bad("tool_choice", "The tool specified in `tool_choice` does not match any of the specified `tools`")
}

func (r *reader) toolChoice(tools bool) string {
	switch v := r.o.get("tool_choice").(type) {
	case string:
		return v
	case *object:
		return "named"
	}
	if tools && !r.o.has("tool_choice") {
		return "auto"
	}
	return "none"
}

// conversation reads messages, tools and how to render them.
func (r *reader) conversation() *Conversation {
	c := &Conversation{
		AddGeneration: r.bool("add_generation_prompt", false, true),
		Continue:      r.bool("continue_final_message", false, false),
		OwnTemplate:   r.o.get("chat_template") != nil,
	}
	r.bool("add_special_tokens", false, false)
	if kwargs, ok := r.o.get("chat_template_kwargs").(*object); ok && kwargs.get("chat_template") != nil {
		c.OwnTemplate = true
	}
	elements, _ := r.elements("body.messages", r.o.get("messages"))
	for i, e := range elements {
		loc := fmt.Sprintf("body.messages.%d", i)
		m, ok := e.(*object)
		if !ok {
			r.add("dict_type", loc, "Input should be a valid dictionary", e, "")
			continue
		}
		c.Messages = append(c.Messages, r.message(&reader{r.schemaErrors, loc, m}, c))
	}
	if r.present("tools", true) {
		elements, _ := r.elements("body.tools", r.o.get("tools"))
		for i, e := range elements {
			if tool := r.tool(fmt.Sprintf("body.tools.%d", i), e); tool != nil {
				c.Tools = append(c.Tools, tool)
			}
		}
	}
	return c
}

func (r *reader) message(m *reader, c *Conversation) Message {
	var out Message
	if m.required("role") {
		out.Role = strOr(m.str("role", false), "")
	}
	switch content := m.o.get("content").(type) {
	case nil:
	case string:
		out.Content = content
	case list:
		var texts []string
		for _, part := range content {
			p, ok := part.(*object)
			text, isText := part.(string)
			if ok {
				text, isText = p.get("text").(string)
			}
			if !isText {
				c.Image = true
			}
			texts = append(texts, text)
		}
		out.Content = strings.Join(texts, "\n")
	default:
		m.add("string_type", m.loc("content"), "Input should be a valid string", content, "")
	}
	calls, _ := m.o.get("tool_calls").(list)
	for _, call := range calls {
		o, ok := call.(*object)
		if !ok {
			continue
		}
		if f, ok := o.get("function").(*object); ok {
			name, _ := f.get("name").(string)
			out.ToolCalls = append(out.ToolCalls, ToolCall{name, arguments(f.get("arguments"))})
		}
	}
	return out
}

// arguments are an object also when they came as its text.
func arguments(v any) json.RawMessage {
	text, ok := v.(string)
	switch {
	case !ok && v != nil:
		return dump(nil, v)
	case text == "":
		return json.RawMessage("{}")
	}
	if parsed, err := parse([]byte(text)); err == nil {
		return dump(nil, parsed)
	}
	return dump(nil, text)
}

// tool keeps what vLLM keeps of a tool, in its order.
func (r *reader) tool(loc string, v any) json.RawMessage {
	o, ok := v.(*object)
	if !ok {
		r.add("model_attributes_type", loc, "Input should be a valid dictionary or object to extract fields from", v, "")
		return nil
	}
	t := &reader{r.schemaErrors, loc, o}
	if !t.required("function") {
		return nil
	}
	f := t.child("function", false)
	if f == nil || !f.required("name") {
		return nil
	}
	function := &object{values: map[string]any{}}
	set := func(key string, v any) {
		function.keys = append(function.keys, key)
		function.values[key] = v
	}
	set("name", f.o.get("name"))
	set("description", f.o.get("description"))
	set("parameters", f.o.get("parameters"))
	for _, key := range []string{"strict", "defer_loading"} {
		if v := f.o.get(key); v != nil {
			set(key, v)
		}
	}
	return dump(nil, &object{keys: []string{"type", "function"}, values: map[string]any{"type": "function", "function": function}})
}
