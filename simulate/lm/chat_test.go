package lm

import (
	"encoding/json"
	"testing"
)

// TestRender lists what Jinja, set up as Hugging Face does, makes of
// chat_template.jinja. The chats of reference.json are in TestReferenceChats.
func TestRender(t *testing.T) {
	user := []Message{{Role: "user", Content: "Hi"}}
	for _, c := range []struct {
		messages []Message
		tools    []string
		prompt   bool
		want     string
	}{
		{nil, nil, false, ""},
		{nil, nil, true, "<|assistant|>\n"},
		{user, nil, false, "<|user|>\nHi\n"},
		{user, []string{`{"type":"function","function":{"name":"f","parameters":{"required":["city"]}}}`}, true,
			"<|system|>\nTools:\n" + `{"type": "function", "function": {"name": "f", "parameters": {"required": ["city"]}}}` + "\n<|user|>\nHi\n<|assistant|>\n"},
		{user, []string{` {"b":1,"a":[ ]}`, `"x"`}, true, "<|system|>\nTools:\n{\"b\": 1, \"a\": []}\n\"x\"\n<|user|>\nHi\n<|assistant|>\n"},
		{[]Message{
			{Role: "assistant", Content: "Let me look that up.\n", ToolCalls: []ToolCall{{"get_weather", json.RawMessage(`{"city":"Z\u00fcrich","day":"a\"b\\ \n<&>"}`)}}},
			{Role: "tool", Content: `{"sky": "sun"}`},
		}, nil, true, "<|assistant|>\nLet me look that up.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\", \"day\": \"a\\\"b\\\\ \\n<&>\"}}\n</tool_call><|end|><|tool|>\n{\"sky\": \"sun\"}\n<|assistant|>\n"},
		{[]Message{{Role: "assistant", ToolCalls: []ToolCall{{"f", json.RawMessage(`"{\"a\":1}"`)}, {"g", nil}}}}, nil, false,
			"<|assistant|>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call><tool_call>\n{\"name\": \"g\", \"arguments\": null}\n</tool_call><|end|>"},
		{[]Message{{Role: "assistant"}}, nil, false, "<|assistant|>\n<|end|>"},
		{[]Message{{Role: "system", Content: "S"}, {Role: "user"}}, nil, true, "<|system|>\nS\n<|user|>\n\n<|assistant|>\n"},
	} {
		var tools []json.RawMessage
		for _, tool := range c.tools {
			tools = append(tools, json.RawMessage(tool))
		}
		if got := Render(c.messages, tools, c.prompt); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestToJSON lists what Python's json.dumps(json.loads(x), ensure_ascii=False)
// prints; what it cannot read is returned as it is.
func TestToJSON(t *testing.T) {
	for _, c := range []struct{ json, want string }{
		{"", "null"},
		{"null", "null"},
		{" [true,false , null]\n", "[true, false, null]"},
		{"{}", "{}"},
		{`{"a":1,"b":2,"a":{"c":[]}}`, `{"a": {"c": []}, "b": 2}`},
		{`"\u0000\u001f\u007f\u0080\u2028\u00e9\/\ud83d\ude00\"\\\b\f\n\r\t<&>"`, "\"\\u0000\\u001f\x7f\u0080\u2028é/😀\\\"\\\\\\b\\f\\n\\r\\t<&>\""},
		{"0", "0"},
		{"-0", "0"},
		{"-0.0", "-0.0"},
		{"12345678901234567890123", "12345678901234567890123"},
		{"1.0", "1.0"},
		{"1e5", "100000.0"},
		{"1E400", "Infinity"},
		{"-1e400", "-Infinity"},
		{"1e15", "1000000000000000.0"},
		{"1e16", "1e+16"},
		{"123456789012345678.0", "1.2345678901234568e+17"},
		{"0.0001", "0.0001"},
		{"0.00001", "1e-05"},
		{"1.5e-7", "1.5e-07"},
		{"5e-324", "5e-324"},
		{"1e-400", "0.0"},
		{"0e5", "0.0"},
		{"-2.50", "-2.5"},
		{"1e100", "1e+100"},
		{"9007199254740993.0", "9007199254740992.0"},
		{`{"a":`, `{"a":`},
		{`{} {}`, `{} {}`},
		{`{"a" 1}`, `{"a" 1}`},
	} {
		if got := toJSON(json.RawMessage(c.json)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.json, got, c.want)
		}
	}
}

func FuzzToJSON(f *testing.F) {
	for _, text := range []string{`{"a":[1,2.5e-7,"x\n"],"b":{"c":null}}`, `{"a":1,"a":2}`, "{", "-0", `"\ud800"`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		once := toJSON(text)
		if again := toJSON(json.RawMessage(once)); again != once {
			t.Errorf("%q: once %q, twice %q", text, once, again)
		}
	})
}
