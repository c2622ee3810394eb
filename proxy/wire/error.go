package wire

import "strconv"

// Source says whose fault an error is.
type Source string

const (
	Proxy    Source = "proxy"    // the request, or this proxy
	Upstream Source = "upstream" // the target behind it
)

// Error is a refusal in OpenAI's terms. What Message says goes to the client:
// no addresses, no secrets, no inner errors.
type Error struct {
	Status  int
	Type    string // "invalid_request_error", …
	Code    string // "" is sent as null
	Param   string // the field at fault, "" is sent as null
	Message string
	Src     Source
}

func (e *Error) Error() string { return e.Message }

// Append appends the error's envelope.
func (e *Error) Append(dst []byte) []byte {
	dst = append(dst, `{"error":{"message":`...)
	dst = AppendString(dst, e.Message)
	dst = append(dst, `,"type":`...)
	dst = AppendString(dst, e.Type)
	dst = append(dst, `,"param":`...)
	dst = appendStringOrNull(dst, e.Param)
	dst = append(dst, `,"code":`...)
	dst = appendStringOrNull(dst, e.Code)
	dst = append(dst, `,"src":`...)
	dst = AppendString(dst, string(e.Src))
	return append(dst, `}}`...)
}

// AppendEvent appends the error as a server-sent event. It is the last event
// of its stream: no [DONE] follows.
func (e *Error) AppendEvent(dst []byte) []byte {
	dst = append(dst, "data: "...)
	dst = e.Append(dst)
	return append(dst, "\n\n"...)
}

// Invalid is the refusal of a request for one of its fields.
func Invalid(param, message string) *Error {
	return &Error{Status: 400, Type: "invalid_request_error", Param: param, Message: message, Src: Proxy}
}

// TooLarge is the refusal of a body above the limit.
func TooLarge(limit int) *Error {
	return &Error{
		Status: 413, Type: "invalid_request_error", Code: "request_too_large", Src: Proxy,
		Message: "the request body is larger than the limit of " + strconv.Itoa(limit) + " bytes",
	}
}
