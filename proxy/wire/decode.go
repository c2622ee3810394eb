package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/tidwall/gjson"

	"paceline/vocab"
)

const (
	// maxDepth bounds the nesting of a body: the parser recurses, and a stack
	// that overflows ends the process.
	maxDepth = 256
	// maxFields bounds the top-level fields of a body.
	maxFields = 512
)

// Request is what planning reads of a chat completion or completion request.
// Everything in it refers to Body.
type Request struct {
	Chat bool
	// Body is the request as it came, UTF-8 and valid JSON. Nobody changes it.
	Body []byte
	Root gjson.Result
	// Fields are the top-level fields in their order, each name once.
	Fields []Field

	Model  string // "" when the client named none
	Stream bool
	// IncludeUsage asks for the usage chunk; OtherStreamOptions says that the
	// client wants something of a stream that is not known here.
	IncludeUsage, OtherStreamOptions bool

	// MaxTokens is max_completion_tokens or max_tokens, 0 when neither is given.
	MaxTokens int

	// Multimodal says that a message has a part other than text.
	Multimodal bool
	// Prompts counts the prompts of a completion request, 1 for a chat.
	Prompts int
	// PromptTokens counts the ids of a prompt given as ids, -1 for text.
	// LargestID is the largest of them.
	PromptTokens int
	LargestID    vocab.Token
}

// Field is a top-level field.
type Field struct {
	Name  string
	Value gjson.Result
}

// Decode reads a request. It takes over body, which must not change any more.
// Errors are *Error and name the field.
//
// What is read has one meaning only: a field that stands twice is refused,
// since readers differ in which one they take.
func Decode(chat bool, body []byte) (*Request, error) {
	if err := validate(body); err != nil {
		return nil, err
	}
	r := &Request{Chat: chat, Body: body, Prompts: 1, PromptTokens: -1}
	r.Root = gjson.Parse(unsafe.String(&body[0], len(body))) // not empty: it is valid JSON
	if !r.Root.IsObject() {
		return nil, Invalid("", "the body must be a JSON object")
	}
	if err := r.collect(); err != nil {
		return nil, err
	}
	for _, f := range r.Fields {
		if read := readers[f.Name]; read != nil && f.Value.Type != gjson.Null {
			if err := read(r, f.Name, f.Value); err != nil {
				return nil, err
			}
		}
	}
	return r, r.check()
}

// readers are the fields that planning reads, null excepted.
var readers = map[string]func(r *Request, name string, v gjson.Result) error{
	"model":                 (*Request).readModel,
	"stream":                (*Request).readStream,
	"stream_options":        (*Request).readStreamOptions,
	"max_tokens":            (*Request).readMaxTokens,
	"max_completion_tokens": (*Request).readMaxTokens,
	"messages":              (*Request).readMessages,
	"prompt":                (*Request).readPrompt,
}

// Get returns a top-level field; the zero value when it is not there.
func (r *Request) Get(name string) gjson.Result {
	for _, f := range r.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return gjson.Result{}
}

// For returns the body with another model's name, and nothing else changed;
// the body itself if that is its model's name already or name is empty.
func (r *Request) For(name string) []byte {
	if name == "" || name == r.Model {
		return r.Body
	}
	value := r.Get("model")
	if !value.Exists() {
		// A body without the field takes whatever the server serves.
		return r.Body
	}
	at := value.Index
	if !bytes.HasPrefix(r.Body[at:], []byte(value.Raw)) {
		panic("BUG: the field is not where it was read")
	}
	body := make([]byte, 0, len(r.Body)+len(name)+2)
	body = append(body, r.Body[:at]...)
	body = AppendString(body, name)
	return append(body, r.Body[at+len(value.Raw):]...)
}

// check looks at what no single field can tell.
func (r *Request) check() error {
	switch {
	case r.Chat && !isSet(r.Get("messages")):
		return Invalid("messages", "messages is missing")
	case !r.Chat && !isSet(r.Get("prompt")) && !isSet(r.Get("prompt_embeds")):
		return Invalid("prompt", "prompt is missing")
	case !r.Stream && isSet(r.Get("stream_options")):
		return Invalid("stream_options", "stream_options is only allowed with stream: true")
	}
	return nil
}

func isSet(v gjson.Result) bool { return v.Exists() && v.Type != gjson.Null }

func validate(body []byte) error {
	switch {
	case len(body) == 0:
		return Invalid("", "the body is empty, a JSON object is needed")
	case !utf8.Valid(body):
		return Invalid("", "the body is not valid UTF-8")
	case depth(body) > maxDepth:
		return Invalid("", fmt.Sprintf("the body is nested more than %d levels deep", maxDepth))
	case gjson.ValidBytes(body):
		return nil
	}
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(body, &json.RawMessage{}), &syntax) {
		return Invalid("", fmt.Sprintf("the body is not valid JSON: %s (byte %d)", syntax.Error(), syntax.Offset))
	}
	return Invalid("", "the body is not valid JSON")
}

// depth returns how deep body nests at most; what it says of invalid JSON is
// an upper bound of what a parser reaches before it stops.
func depth(body []byte) int {
	deepest, level := 0, 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			i = endOfString(body, i+1)
		case '{', '[':
			level++
			deepest = max(deepest, level)
		case '}', ']':
			level--
		}
	}
	return deepest
}

// endOfString returns where the string that starts at i ends: the index of its
// closing quote, or the end of body.
func endOfString(body []byte, i int) int {
	for start := i; ; i++ {
		n := bytes.IndexByte(body[i:], '"')
		if n < 0 {
			return len(body)
		}
		i += n
		escapes := 0
		for i-escapes > start && body[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
}

// collect lists the top-level fields and refuses duplicates.
func (r *Request) collect() error {
	r.Fields = make([]Field, 0, 16)
	var err error
	r.Root.ForEach(func(k, v gjson.Result) bool {
		if len(r.Fields) == maxFields {
			err = Invalid("", fmt.Sprintf("the body has more than %d fields", maxFields))
			return false
		}
		if r.Get(k.Str).Exists() {
			err = Invalid(k.Str, fmt.Sprintf("the field %q is given twice", k.Str))
			return false
		}
		r.Fields = append(r.Fields, Field{k.Str, v})
		return true
	})
	return err
}

func (r *Request) readModel(name string, v gjson.Result) error {
	if v.Type != gjson.String || v.Str == "" {
		return Invalid(name, "model must be a string and not empty")
	}
	r.Model = v.Str
	return nil
}

func (r *Request) readStream(name string, v gjson.Result) error {
	if !v.IsBool() {
		return Invalid(name, "stream must be true or false")
	}
	r.Stream = v.Bool()
	return nil
}

func (r *Request) readStreamOptions(name string, v gjson.Result) error {
	if !v.IsObject() {
		return Invalid(name, "stream_options must be an object")
	}
	var err error
	seen := false
	v.ForEach(func(k, v gjson.Result) bool {
		switch {
		case k.Str != "include_usage":
			r.OtherStreamOptions = r.OtherStreamOptions || (v.Type != gjson.Null && v.Type != gjson.False)
		case seen:
			err = Invalid("stream_options.include_usage", "the field \"include_usage\" is given twice")
		case v.Type != gjson.Null && !v.IsBool():
			err = Invalid("stream_options.include_usage", "stream_options.include_usage must be true or false")
		default:
			r.IncludeUsage, seen = v.Bool(), true
		}
		return err == nil
	})
	return err
}

// readMaxTokens takes max_completion_tokens over max_tokens, as engines do.
func (r *Request) readMaxTokens(name string, v gjson.Result) error {
	if v.Type != gjson.Number || v.Num != math.Trunc(v.Num) || v.Num > math.MaxInt32 {
		return Invalid(name, name+" must be a whole number in the range of the model's context")
	}
	if v.Num < 1 {
		return Invalid(name, name+" must be at least 1")
	}
	if name == "max_completion_tokens" || r.MaxTokens == 0 {
		r.MaxTokens = int(v.Num)
	}
	return nil
}

func (r *Request) readMessages(name string, v gjson.Result) error {
	if !r.Chat {
		return nil // not a field of completions; the table of fields says what becomes of it
	}
	if !v.IsArray() {
		return Invalid(name, "messages must be an array")
	}
	var err error
	n := 0
	v.ForEach(func(_, m gjson.Result) bool {
		err = r.readMessage(name+"["+strconv.Itoa(n)+"]", m)
		n++
		return err == nil
	})
	if err == nil && n == 0 {
		err = Invalid(name, "messages must not be empty")
	}
	return err
}

func (r *Request) readMessage(name string, m gjson.Result) error {
	if !m.IsObject() {
		return Invalid(name, name+" must be an object")
	}
	var role, content int
	var err error
	m.ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "role":
			role++
			if v.Type != gjson.String || v.Str == "" {
				err = Invalid(name+".role", name+".role must be a string and not empty")
			}
		case "content":
			content++
			err = r.readContent(name+".content", v)
		}
		return err == nil
	})
	switch {
	case err != nil:
		return err
	case role == 0:
		return Invalid(name+".role", name+".role is missing")
	case role > 1 || content > 1:
		return Invalid(name, name+" has a field twice")
	}
	return nil
}

// readContent looks whether a message is text: a string, or parts of text.
func (r *Request) readContent(name string, v gjson.Result) error {
	switch {
	case v.Type == gjson.Null || v.Type == gjson.String:
		return nil
	case !v.IsArray():
		return Invalid(name, name+" must be a string or an array of parts")
	}
	var err error
	v.ForEach(func(_, part gjson.Result) bool {
		switch {
		case part.Type == gjson.String:
		case !part.IsObject():
			err = Invalid(name, name+" must be an array of parts, each an object with a type")
		case part.Get("type").String() != "text" || count(part, "type") > 1:
			r.Multimodal = true
		}
		return err == nil
	})
	return err
}

// count returns how often a key stands in an object.
func count(object gjson.Result, key string) int {
	n := 0
	object.ForEach(func(k, _ gjson.Result) bool {
		if k.Str == key {
			n++
		}
		return true
	})
	return n
}

// readPrompt tells a text, a list of ids, and a list of those apart.
func (r *Request) readPrompt(name string, v gjson.Result) error {
	if r.Chat {
		return nil // not a field of chats
	}
	switch {
	case v.Type == gjson.String:
		return nil
	case !v.IsArray():
		return Invalid(name, "prompt must be a string, an array of token ids, or an array of those")
	}
	first := v.Get("0")
	if first.Type == gjson.Number {
		return r.readIDs(name, v)
	}
	var err error
	n := 0
	v.ForEach(func(_, p gjson.Result) bool {
		n++
		switch {
		case p.Type == gjson.String && first.Type == gjson.String:
		case p.IsArray() && first.IsArray():
			err = r.readIDs(name, p)
		default:
			err = Invalid(name, "prompt must be an array of strings or an array of arrays of token ids")
		}
		return err == nil
	})
	if err == nil && n == 0 {
		err = Invalid(name, "prompt must not be empty")
	}
	r.Prompts = n
	return err
}

func (r *Request) readIDs(name string, v gjson.Result) error {
	var err error
	n := 0
	v.ForEach(func(_, id gjson.Result) bool {
		if id.Type != gjson.Number || id.Num != math.Trunc(id.Num) || id.Num < 0 || id.Num > math.MaxInt32 {
			err = Invalid(name, fmt.Sprintf("prompt must hold token ids, whole numbers that are not negative; the one at %d is none", n))
			return false
		}
		r.LargestID = max(r.LargestID, vocab.Token(id.Num))
		n++
		return true
	})
	if err == nil && n == 0 {
		err = Invalid(name, "prompt must not be empty")
	}
	r.PromptTokens = max(r.PromptTokens, n)
	return err
}
