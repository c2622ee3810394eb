package simulate

import (
	"encoding/json"
	"strings"

	"paceline/simulate/vllm"
)

// The hermes format of tool calls: a JSON object between two tags.
const (
	callBegins = "<tool_call>"
	callEnds   = "</tool_call>"
)

// parseCalls takes the tool calls out of an answer. Without any, or with a
// broken one, it is all content.
func parseCalls(text string) (content *string, calls []toolCall) {
	at := strings.Index(text, callBegins)
	if at < 0 {
		return &text, nil
	}
	for rest := text[at:]; ; {
		_, after, found := strings.Cut(rest, callBegins)
		if !found {
			break
		}
		inner, next, _ := strings.Cut(after, callEnds)
		var c toolCall
		if json.Unmarshal([]byte(inner), &c) != nil || c.Name == "" {
			return &text, nil
		}
		calls = append(calls, c)
		rest = next
	}
	if before := text[:at]; before != "" {
		return &before, calls
	}
	return nil, calls
}

// identify gives calls their ids, and their places in a stream.
func (s *Server) identify(calls []toolCall, streamed bool) []vllm.AnswerCall {
	out := make([]vllm.AnswerCall, len(calls))
	for i, c := range calls {
		out[i] = vllm.AnswerCall{
			ID: "chatcmpl-tool-" + s.newID(), Type: "function",
			Function: vllm.AnswerFunction{Name: c.Name, Arguments: string(c.Arguments)},
		}
		if streamed {
			out[i].Index = &i
		}
	}
	return out
}

// toolStream takes tool calls out of a stream. A call is handed out whole,
// when its end has come; the real parser does it piece by piece.
type toolStream struct {
	s      *Server
	text   string // not handed out yet
	called int
}

func (t *toolStream) add(text string, finished bool) vllm.ChatDelta {
	t.text += text
	var d vllm.ChatDelta
	at := strings.Index(t.text, callBegins)
	if at < 0 {
		keep := 0
		if !finished {
			keep = overlap(t.text, callBegins)
		}
		if show := t.text[:len(t.text)-keep]; show != "" && t.called == 0 {
			d.Content = &show
		}
		t.text = t.text[len(t.text)-keep:]
		return d
	}
	if before := t.text[:at]; before != "" && t.called == 0 {
		d.Content = &before
	}
	t.text = t.text[at:]
	if end := strings.LastIndex(t.text, callEnds); end >= 0 {
		_, calls := parseCalls(t.text[:end+len(callEnds)])
		d.ToolCalls = t.s.identify(calls, true)
		for i := range d.ToolCalls {
			at := t.called + i
			d.ToolCalls[i].Index = &at
		}
		t.called += len(calls)
		t.text = t.text[end+len(callEnds):]
	}
	return d
}

// overlap is how much of the end of text may be the beginning of tag.
func overlap(text, tag string) int {
	for n := min(len(text), len(tag)-1); n > 0; n-- {
		if strings.HasSuffix(text, tag[:n]) {
			return n
		}
	}
	return 0
}

// toolCall is a call as the models write it.
type toolCall struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}
