package lm

import (
	"encoding/json"
	"strings"
)

// Message is one turn of a conversation.
type Message struct {
	Role      string // user, assistant, system or tool; written as it is
	Content   string
	ToolCalls []ToolCall // of an assistant's turn
}

// ToolCall is a call that an assistant made.
type ToolCall struct {
	Name string

	// Arguments is JSON: the arguments' object, or a string that holds their
	// text, as OpenAI's API has it. The template writes the text of a string as
	// it is and everything else like Render's tools; nil is null.
	Arguments json.RawMessage
}

// Render writes a conversation as the models read it: what Hugging Face makes
// of the chat_template.jinja that all embedded models share. Tools are JSON
// values, each on one line of a system turn, formatted as Python's json.dumps
// does; malformed ones are written as they are. addGenerationPrompt opens the
// assistant's next turn.
func Render(messages []Message, tools []json.RawMessage, addGenerationPrompt bool) string {
	var b strings.Builder
	if len(tools) > 0 {
		b.WriteString("<|system|>\nTools:\n")
		for _, tool := range tools {
			b.WriteString(toJSON(tool))
			b.WriteByte('\n')
		}
	}
	for _, m := range messages {
		b.WriteString("<|" + m.Role + "|>\n" + m.Content)
		for _, call := range m.ToolCalls {
			b.WriteString("<tool_call>\n{\"name\": \"" + call.Name + "\", \"arguments\": " + call.arguments() + "}\n</tool_call>")
		}
		if m.Role == "assistant" {
			b.WriteString("<|end|>")
		} else {
			b.WriteByte('\n')
		}
	}
	if addGenerationPrompt {
		b.WriteString("<|assistant|>\n")
	}
	return b.String()
}

func (c *ToolCall) arguments() string {
	var text string
	if !isNull(c.Arguments) && json.Unmarshal(c.Arguments, &text) == nil {
		return text
	}
	return toJSON(c.Arguments)
}
