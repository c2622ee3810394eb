package vllm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Error is a refusal, as vLLM's server gives it.
type Error struct {
	Status  int
	Message string
	Type    string // "BadRequestError", "NotFoundError", …
	Param   string // "" is null
	// Detail makes it one of the web framework's own errors, {"detail": …}.
	Detail string
}

func (e *Error) Error() string { return e.Message + e.Detail }

type errorBody struct {
	Error errorInfo `json:"error"`
}

type errorInfo struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    int     `json:"code"`
}

// Body is the answer's body.
func (e *Error) Body() []byte {
	if e.Detail != "" {
		return Marshal(map[string]string{"detail": e.Detail})
	}
	info := errorInfo{Message: e.Message, Type: e.Type, Code: e.Status}
	if e.Param != "" {
		info.Param = &e.Param
	}
	return Marshal(errorBody{info})
}

// Event is the same for the middle of a stream, where vLLM writes it with
// spaces.
func (e *Error) Event() []byte {
	param := "null"
	if e.Param != "" {
		param = string(Marshal(e.Param))
	}
	return fmt.Appendf(nil, `{"error": {"message": %s, "type": %s, "param": %s, "code": %d}}`,
		Marshal(e.Message), Marshal(e.Type), param, e.Status)
}

// bad is one of vLLM's own checks failing, on a parameter or on none.
func bad(param, format string, args ...any) *Error {
	e := &Error{Status: 400, Type: "BadRequestError", Message: fmt.Sprintf(format, args...), Param: param}
	if param != "" {
		e.Message += " (parameter=" + param + ")"
	}
	return e
}

// badValue is the same with the refused value, as Python shows it.
func badValue(param, value, format string, args ...any) *Error {
	e := bad("", format, args...)
	e.Param = param
	e.Message += " (parameter=" + param + ", value=" + value + ")"
	return e
}

// BadRequest is a refusal with status 400 that names no parameter.
func BadRequest(format string, args ...any) *Error { return bad("", format, args...) }

// UnknownModel is the refusal of a model that is not served.
func UnknownModel(name, served string) *Error {
	return &Error{Status: 404, Type: "NotFoundError", Param: "model",
		Message: fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.", name, served)}
}

// TooLong is the refusal of a prompt beyond the context. Exact says that the
// prompt came as ids and was counted to its end.
func TooLong(tokens, context int, exact bool) *Error {
	count, qualifier := tokens, ""
	if !exact {
		count = min(tokens, context+1)
	}
	if count == context+1 {
		qualifier = "at least "
	}
	return badValue("input_tokens", fmt.Sprint(count), "This model's maximum context length is %d tokens. However, your prompt "+
		"contains %s%d input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
		context, qualifier, count)
}

// TooManyCharacters is the refusal of a text so long that it is not tokenised.
func TooManyCharacters(characters, most, context int) *Error {
	return badValue("input_text", fmt.Sprint(characters), "This model's maximum context length is %d tokens. However, your prompt "+
		"contains %d characters (more than %d characters, which is the upper bound for %d input tokens). Please reduce the length of the input prompt.",
		context, characters, most, context)
}

// NoRoom is the engine's own refusal of a prompt that leaves no room for a
// token, or none for itself.
func NoRoom(tokens, context int) *Error {
	if tokens > context {
		return bad("", "The decoder prompt (length %d) is longer than the maximum model length of %d. "+
			"Make sure that `max_model_len` is no smaller than the number of text tokens.", tokens, context)
	}
	return bad("", "The decoder prompt (length %d) plus the number of requested output tokens (at least 1) is longer than the "+
		"maximum model length of %d. Make sure that `max_model_len` is no smaller than the number of text tokens (prompt + requested output tokens).",
		tokens, context)
}

// ErrNotFound, ErrWrongMethod and ErrBadBody are the web framework's own.
var (
	ErrNotFound    = &Error{Status: 404, Detail: "Not Found"}
	ErrWrongMethod = &Error{Status: 405, Detail: "Method Not Allowed"}
	ErrBadBody     = &Error{Status: 400, Detail: "There was an error parsing the body"}
)

// ErrNotCompliant is what a NaN in an answer gives.
var ErrNotCompliant = bad("", "Out of range float values are not JSON compliant")

// schemaErrors collects what pydantic finds wrong with the types of a body.
type schemaErrors struct {
	first string // the location of the first one
	lines []string
}

// add appends one finding; context is an optional last member.
func (s *schemaErrors) add(kind, loc, message string, input any, context string) {
	if len(s.lines) == 0 {
		s.first = loc
	}
	line := fmt.Sprintf("{'type': '%s', 'loc': '%s', 'msg': %s, 'input': %s", kind, loc, repr(message), shown(input))
	if context != "" {
		line += ", 'ctx': {" + context + "}"
	}
	s.lines = append(s.lines, line+"}")
}

func (s *schemaErrors) err() *Error {
	if len(s.lines) == 0 {
		return nil
	}
	label := "error"
	if len(s.lines) > 1 {
		label = "errors"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d validation %s:", len(s.lines), label)
	for _, line := range s.lines[:min(10, len(s.lines))] {
		b.WriteString("\n  " + line)
	}
	if more := len(s.lines) - 10; more > 0 {
		fmt.Fprintf(&b, "\n  ...and %d more errors", more)
	}
	return &Error{Status: 400, Type: "Bad Request", Param: s.first, Message: b.String()}
}

// ErrWrongMediaType is the refusal of a body that does not call itself JSON.
var ErrWrongMediaType = &Error{Status: 400, Type: "Bad Request",
	Message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"}

// Marshal writes v as JSON without escaping HTML; nil if it holds a NaN.
func Marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return nil
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
