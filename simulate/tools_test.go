package simulate

import (
	"encoding/json"
	"strings"
	"testing"
)

// toolChat is a conversation in which the model calls a tool.
const toolChat = `"messages":[{"role":"user","content":"What is the weather in Paris?"}],"temperature":0,"max_tokens":60,
	"tools":[{"type":"function","function":{"name":"get_weather","description":"Get the weather of a city","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`

// TestToolCalls: with the parser, a call is taken out of the answer, streamed
// or not; without it the request is refused, and tool_choice none leaves the
// text alone.
func TestToolCalls(t *testing.T) {
	plain, parses := start(t, Options{}), start(t, Options{ToolParser: true})
	const path = "/v1/chat/completions"
	if status, text := post(t, plain, path, "{"+toolChat+"}"); status != 400 || !strings.Contains(text, "--tool-call-parser") {
		t.Errorf("without a parser: %d %s", status, text)
	}
	status, text := post(t, plain, path, "{"+toolChat+`,"tool_choice":"none"}`)
	raw := decode[answer](t, status, text).Choices[0].Message.Content
	if !strings.Contains(raw, callBegins) {
		t.Fatalf("the model calls no tool: %q", raw)
	}
	type called struct {
		Function struct{ Name, Arguments string }
		ID       string
		Type     string
		Index    int
	}
	type message struct {
		Content *string
		Calls   []called `json:"tool_calls"`
	}
	check := func(what string, m message, finish string) {
		t.Helper()
		if len(m.Calls) != 1 || m.Calls[0].Function.Name != "get_weather" || !json.Valid([]byte(m.Calls[0].Function.Arguments)) ||
			m.Calls[0].ID == "" || m.Calls[0].Type != "function" || finish != "tool_calls" {
			t.Errorf("%s: %+v, finish %q", what, m, finish)
		}
	}
	status, text = post(t, parses, path, "{"+toolChat+"}")
	whole := decode[struct {
		Choices []struct {
			Message message
			Finish  string `json:"finish_reason"`
		}
	}](t, status, text).Choices[0]
	check("whole", whole.Message, whole.Finish)
	status, text = post(t, parses, path, "{"+toolChat+`,"stream":true}`)
	var m message
	finish := ""
	for _, event := range strings.Split(text, "\n\n") {
		if event = strings.TrimPrefix(event, "data: "); event == "" || event == "[DONE]" {
			continue
		}
		c := decode[struct {
			Choices []struct {
				Delta  message
				Finish string `json:"finish_reason"`
			}
		}](t, status, event).Choices[0]
		m.Calls = append(m.Calls, c.Delta.Calls...)
		finish += c.Finish
	}
	check("streamed", m, finish)
}

func TestParseCalls(t *testing.T) {
	f := func(text, content string, names ...string) {
		t.Helper()
		have, calls := parseCalls(text)
		var got []string
		for _, c := range calls {
			got = append(got, c.Name)
		}
		if strings.Join(got, " ") != strings.Join(names, " ") || (have == nil) != (content == "") && len(calls) > 0 || have != nil && *have != content {
			t.Errorf("%q: %v %v", text, have, got)
		}
	}
	f("no call", "no call")
	f(`<tool_call>{"name":"f","arguments":{}}</tool_call>`, "", "f")
	f(`before <tool_call>{"name":"f","arguments":{}}</tool_call>`, "before ", "f")
	f("<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>", "", "f", "g")
	f(`<tool_call>{"name":"f"`, `<tool_call>{"name":"f"`)
	f(`<tool_call>{}</tool_call>`, `<tool_call>{}</tool_call>`)
}
