package vllm

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"paceline/vocab"
)

// Derender is a body of the derender endpoints: an answer of
// /inference/v1/generate, whole or a chunk of it, to be turned into OpenAI's.
type Derender struct {
	Model     string            `json:"model"`
	Stream    bool              `json:"stream"`
	Whole     *DerenderAnswer   `json:"generate_response"`  // chat
	Wholes    []DerenderAnswer  `json:"generate_responses"` // completions
	Chunk     *DerenderAnswer   `json:"generate_chunk"`
	State     *DerenderState    `json:"stream_state"`
	RawTokens json.RawMessage   `json:"prompt_tokens"`
	RawIDs    json.RawMessage   `json:"prompt_token_ids"`
	Chat      *DerenderOriginal `json:"chat_request"`
	Text      *DerenderOriginal `json:"completion_request"`

	PromptTokens []int   // of each answer; one for chat and chunks
	PromptIDs    [][]int // the same
}

// DerenderAnswer is an answer or a chunk.
type DerenderAnswer struct {
	RequestID string `json:"request_id"`
	Choices   []struct {
		Index      int           `json:"index"`
		TokenIDs   []vocab.Token `json:"token_ids"`
		Finish     *string       `json:"finish_reason"`
		StopReason any           `json:"stop_reason"`
	} `json:"choices"`
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
	PromptIDs []int `json:"prompt_token_ids"`
}

// DerenderOriginal is what matters of the original request.
type DerenderOriginal struct {
	SkipSpecial    *bool             `json:"skip_special_tokens"`
	ReturnTokenIDs bool              `json:"return_token_ids"`
	Tools          []json.RawMessage `json:"tools"`
	ToolChoice     any               `json:"tool_choice"`
}

// DerenderState is what the client carries from chunk to chunk.
type DerenderState struct {
	Prev        []string `json:"prev_tokens"`
	Prefix      int      `json:"prefix_offset"`
	Read        int      `json:"read_offset"`
	RoleSent    bool     `json:"role_sent"`
	Context     []int    `json:"logprob_context_token_ids"`
	TextOffset  int      `json:"logprob_text_offset"`
	OutputIDs   []int    `json:"output_token_ids"`
	OutputSizes []int    `json:"output_chunk_lens"`
	Tools       bool     `json:"tools_streamed"`
	CallIDs     []string `json:"last_tool_call_ids"`
}

// ReadDerender parses and checks a body. Chat says which endpoint's.
func ReadDerender(text []byte, chat bool) (*Derender, *Error) {
	r, err := body(text)
	if err != nil {
		return nil, err
	}
	d := &Derender{}
	if e := json.Unmarshal(text, d); e != nil {
		r.add("value_error", "body", "Value error, "+e.Error(), r.o, "")
		return nil, r.err()
	}
	needs := map[[2]bool]string{
		{true, false}: "generate_response", {false, false}: "generate_responses",
		{true, true}: "generate_chunk", {false, true}: "generate_chunk",
	}[[2]bool{chat, d.Stream}]
	if !r.required(needs) {
		return nil, r.err()
	}
	n := 1
	if chat && !d.Stream {
		d.Wholes = []DerenderAnswer{*d.Whole}
	} else if !d.Stream {
		n = len(d.Wholes)
		if n == 0 {
			return nil, BadRequest("generate_responses must not be empty")
		}
	}
	if err := d.readPrompts(chat || d.Stream, n); err != nil {
		return nil, err
	}
	return d, nil
}

// readPrompts reads the two fields that are a list of lists only where there
// may be several answers.
func (d *Derender) readPrompts(single bool, n int) *Error {
	d.PromptTokens, d.PromptIDs = make([]int, n), make([][]int, n)
	tokens, ids := any(&d.PromptTokens), any(&d.PromptIDs)
	if single {
		tokens, ids = &d.PromptTokens[0], &d.PromptIDs[0]
	}
	for _, field := range []struct {
		raw  json.RawMessage
		into any
		name string
	}{{d.RawTokens, tokens, "prompt_tokens"}, {d.RawIDs, ids, "prompt_token_ids"}} {
		if len(field.raw) == 0 || string(field.raw) == "null" {
			continue
		}
		if err := json.Unmarshal(field.raw, field.into); err != nil {
			return BadRequest("%s: %v", field.name, err)
		}
	}
	if len(d.PromptTokens) != n || len(d.PromptIDs) != n {
		return BadRequest("prompt_tokens length (%d) must equal generate_responses length (%d)", len(d.PromptTokens), n)
	}
	return nil
}

// SkipSpecial is the original request's wish, true without one.
func (d *Derender) SkipSpecial() bool {
	for _, o := range []*DerenderOriginal{d.Chat, d.Text} {
		if o != nil && o.SkipSpecial != nil {
			return *o.SkipSpecial
		}
	}
	return true
}

// EmptyChoice is the refusal of an answer without tokens.
func EmptyChoice(index int) *Error {
	return BadRequest("choice %d has empty or null token_ids", index)
}

// Pieces are a vocabulary as the state has it: Of names a token, "" for one
// that is skipped.
type Pieces interface {
	Piece(id vocab.Token, skipSpecial bool) (piece string, skipped bool)
}

// Seed is the state after a prompt, of which only the end matters.
func Seed(p Pieces, ids []int, skipSpecial bool) *DerenderState {
	s := &DerenderState{}
	for _, id := range ids[max(0, len(ids)-7):] {
		if piece, skipped := p.Piece(vocab.Token(id), skipSpecial); !skipped {
			s.Prev = append(s.Prev, piece)
		}
	}
	s.Read = len(s.Prev)
	s.Prefix = max(s.Read-5, 0)
	return s
}

// Decode takes tokens in and returns the text that they complete. It is the
// slow, window-wise detokeniser: not equal to the engine's where special
// tokens are skipped in the middle or a prompt ends inside a character.
func (s *DerenderState) Decode(p Pieces, ids []vocab.Token, skipSpecial bool) string {
	var all strings.Builder
	for _, id := range ids {
		var fresh []string
		if piece, skipped := p.Piece(id, skipSpecial); !skipped {
			fresh = []string{piece}
		}
		output := append(append([]string(nil), s.Prev...), fresh...)
		prefix := PiecesText(output[s.Prefix:s.Read])
		text := PiecesText(output[s.Prefix:])
		from := s.Prefix
		if utf8.RuneCountInString(text) > utf8.RuneCountInString(prefix) && !strings.HasSuffix(text, "\uFFFD") {
			all.WriteString(string([]rune(text)[utf8.RuneCountInString(prefix):]))
			from = s.Read
			s.Read = len(output)
		}
		s.Prev = output[from:]
		s.Read -= from
		s.Prefix = 0
	}
	return all.String()
}

// Carry notes what was derendered for the next call.
func (s *DerenderState) Carry(ids []vocab.Token, text string, chat bool) {
	for _, id := range ids {
		s.Context = append(s.Context, int(id))
	}
	s.Context = s.Context[max(0, len(s.Context)-4):]
	if chat {
		s.RoleSent = true
	} else {
		s.TextOffset += utf8.RuneCountInString(text)
	}
	s.Prev, s.Context = notNil(s.Prev), notNil(s.Context)
	s.OutputIDs, s.OutputSizes, s.CallIDs = notNil(s.OutputIDs), notNil(s.OutputSizes), notNil(s.CallIDs)
}

// Valid refuses a state that does not fit itself.
func (s *DerenderState) Valid() *Error {
	if s.Prefix < 0 || s.Read < s.Prefix || s.Read > len(s.Prev) {
		return BadRequest("invalid stream_state: detokenization failed (offsets %d and %d of %d)", s.Prefix, s.Read, len(s.Prev))
	}
	return nil
}

// DerenderedChat is a derendered chunk of chat with the state for the next
// call.
type DerenderedChat struct {
	Chunk DerenderedChatChunk `json:"chunk"`
	State *DerenderState      `json:"stream_state"`
}

// DerenderedText is the same for completions.
type DerenderedText struct {
	Chunk DerenderedTextChunk `json:"chunk"`
	State *DerenderState      `json:"stream_state"`
}

// DerenderedChatChunk is a chat chunk with all its nulls.
type DerenderedChatChunk struct {
	Head
	Choices     []DerenderedChatChoice `json:"choices"`
	Usage       *Usage                 `json:"usage"`
	Fingerprint Null                   `json:"system_fingerprint"`
	PromptIDs   Null                   `json:"prompt_token_ids"`
	PromptText  Null                   `json:"prompt_text"`
	Metrics     Null                   `json:"metrics"`
}

// DerenderedChatChoice is its choice.
type DerenderedChatChoice struct {
	Index      int             `json:"index"`
	Delta      DerenderedDelta `json:"delta"`
	Logprobs   Null            `json:"logprobs"`
	Finish     *string         `json:"finish_reason"`
	StopReason any             `json:"stop_reason"`
	TokenIDs   IDs             `json:"token_ids"`
}

// DerenderedDelta is what it adds.
type DerenderedDelta struct {
	Role      *string `json:"role"`
	Content   *string `json:"content"`
	Reasoning Null    `json:"reasoning"`
}

// DerenderedTextChunk is a completions chunk with all its nulls.
type DerenderedTextChunk struct {
	Head
	Choices     []CompletionChunkChoice `json:"choices"`
	Usage       *Usage                  `json:"usage"`
	Fingerprint Null                    `json:"system_fingerprint"`
	Metrics     Null                    `json:"metrics"`
}

// byteLevel is GPT-2's alphabet of bytes.
var byteLevel, fromByteLevel = func() (to [256]rune, from map[rune]byte) {
	from = map[rune]byte{}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad {
			r = next
			next++
		}
		to[b], from[r] = r, byte(b)
	}
	return to, from
}()

// Piece writes a token's bytes as the vocabulary does.
func Piece(bytes []byte, special bool) string {
	if special {
		return string(bytes)
	}
	var b strings.Builder
	for _, c := range bytes {
		b.WriteRune(byteLevel[c])
	}
	return b.String()
}

// PiecesText is the text of pieces; one U+FFFD for each maximal part of a
// character.
func PiecesText(pieces []string) string {
	var bytes []byte
	for _, p := range pieces {
		for _, r := range p {
			if c, ok := fromByteLevel[r]; ok {
				bytes = append(bytes, c)
			} else {
				bytes = utf8.AppendRune(bytes, r)
			}
		}
	}
	return lossy(bytes)
}

// lossy is Python's bytes.decode("utf-8", errors="replace").
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
			out.Write(b[:n])
			b = b[n:]
			continue
		}
		n := 1
		for n < len(b) && n < 4 && partOfRune(b[:n+1]) {
			n++
		}
		out.WriteRune(utf8.RuneError)
		b = b[n:]
	}
	return out.String()
}

// partOfRune tells whether b can be the beginning of a character.
func partOfRune(b []byte) bool {
	for _, tail := range []string{"\x80", "\xbf", "\x80\x80", "\xbf\xbf"} {
		if utf8.FullRune(append(b[:len(b):len(b)], tail...)) {
			if r, n := utf8.DecodeRune(append(b[:len(b):len(b)], tail...)); r != utf8.RuneError && n > len(b) {
				return true
			}
		}
	}
	return false
}
