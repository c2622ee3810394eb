package vllm

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Entry is a token of a row with its log-probability and its rank in the
// vocabulary; Text is nil where nothing is detokenised.
type Entry struct {
	ID      int64
	Logprob float64
	Rank    int64
	Text    *string
}

// Row lists the most likely tokens of a position, the actual one first.
type Row []Entry

// MarshalJSON writes the object that vLLM makes of a row: ids as keys, in
// order; of a repeated id the last values count.
func (r Row) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	b := []byte{'{'}
	for i, e := range r {
		if r.index(e.ID) < i {
			continue
		}
		for _, later := range r[i+1:] {
			if later.ID == e.ID {
				e = later
			}
		}
		if math.IsNaN(e.Logprob) {
			return nil, fmt.Errorf("NaN in a row")
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, e.ID, 10)
		b = append(b, `":{"logprob":`...)
		b = append(b, pyFloat(floor(e.Logprob))...)
		b = append(b, `,"rank":`...)
		b = strconv.AppendInt(b, e.Rank, 10)
		b = append(b, `,"decoded_token":`...)
		b = append(b, Marshal(e.Text)...)
		b = append(b, '}')
	}
	return append(b, '}'), nil
}

func (r Row) index(id int64) int {
	return slices.IndexFunc(r, func(e Entry) bool { return e.ID == id })
}

// unique drops a repetition of the first token.
func (r Row) unique() Row {
	if len(r) > 1 {
		if i := r[1:].index(r[0].ID); i >= 0 {
			return slices.Delete(slices.Clone(r), i+1, i+2)
		}
	}
	return r
}

// floor is what −∞ is written as.
func floor(f float64) float64 { return max(f, -9999) }

// name is how a token is called in an answer with log-probabilities.
func (e Entry) name(asID bool) string {
	if asID || e.Text == nil {
		return fmt.Sprintf("token_id:%d", e.ID)
	}
	return *e.Text
}

// CompletionLogprobs is the completions endpoint's shape.
type CompletionLogprobs struct {
	TextOffset    []int    `json:"text_offset"`
	TokenLogprobs []*Float `json:"token_logprobs"`
	Tokens        []string `json:"tokens"`
	TopLogprobs   []*named `json:"top_logprobs"`
}

// named is an object of log-probabilities by token text, in order.
type named struct {
	names []string
	value map[string]float64
}

// MarshalJSON implements json.Marshaler.
func (n *named) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, name := range n.names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, Marshal(name)...)
		b = append(b, ':')
		b = append(b, pyFloat(n.value[name])...)
	}
	return append(b, '}'), nil
}

// NewCompletionLogprobs lists rows from a text offset on; a nil row is a
// token without any (the prompt's first), whose text is then given by first.
// It returns the offset after them.
func NewCompletionLogprobs(rows []Row, top int, all, asID bool, offset int, first string) (*CompletionLogprobs, int) {
	l := &CompletionLogprobs{TextOffset: []int{}, TokenLogprobs: []*Float{}, Tokens: []string{}, TopLogprobs: []*named{}}
	for _, row := range rows {
		name := first
		if row == nil {
			l.TokenLogprobs = append(l.TokenLogprobs, nil)
			l.TopLogprobs = append(l.TopLogprobs, nil)
		} else {
			row = row.unique()
			name = row[0].name(asID)
			f := Float(floor(row[0].Logprob))
			l.TokenLogprobs = append(l.TokenLogprobs, &f)
			n := &named{value: map[string]float64{}}
			for i, e := range row {
				if !all && top != -1 && i > top {
					break
				}
				key := e.name(asID)
				if _, ok := n.value[key]; !ok {
					n.names = append(n.names, key)
				}
				n.value[key] = floor(e.Logprob)
			}
			l.TopLogprobs = append(l.TopLogprobs, n)
		}
		l.Tokens = append(l.Tokens, name)
		l.TextOffset = append(l.TextOffset, offset)
		offset += utf8.RuneCountInString(name)
	}
	return l, offset
}

// ChatLogprobs is the chat endpoint's shape.
type ChatLogprobs struct {
	Content []chatContent `json:"content"`
}

type chatEntry struct {
	Token   string `json:"token"`
	Logprob Float  `json:"logprob"`
	Bytes   []int  `json:"bytes"`
}

type chatContent struct {
	chatEntry
	Top []chatEntry `json:"top_logprobs"`
}

// NewChatLogprobs lists rows.
func NewChatLogprobs(rows []Row, top int, all, asID bool) *ChatLogprobs {
	l := &ChatLogprobs{Content: []chatContent{}}
	for _, row := range rows {
		row = row.unique()
		c := chatContent{chatEntry: newChatEntry(row[0], asID), Top: []chatEntry{}}
		if row[0].Text != nil { // the bytes are the text's also where the name is an id
			c.Bytes = bytesOf(*row[0].Text)
		}
		for i, e := range row {
			if all || top == -1 || i < top {
				c.Top = append(c.Top, newChatEntry(e, asID))
			}
		}
		l.Content = append(l.Content, c)
	}
	return l
}

func newChatEntry(e Entry, asID bool) chatEntry {
	name := e.name(asID)
	return chatEntry{name, Float(floor(e.Logprob)), bytesOf(name)}
}

func bytesOf(s string) []int {
	b := make([]int, len(s))
	for i := range len(s) {
		b[i] = int(s[i])
	}
	return b
}

// TokenLogprobs is the shape of /inference/v1/generate.
type TokenLogprobs struct {
	Content []tokenContent `json:"content"`
}

type tokenEntry struct {
	TokenID int64 `json:"token_id"`
	Logprob Float `json:"logprob"`
	Rank    int64 `json:"rank"`
}

type tokenContent struct {
	tokenEntry
	Top []tokenEntry `json:"top_logprobs"`
}

// NewTokenLogprobs lists rows.
func NewTokenLogprobs(rows []Row, top int) *TokenLogprobs {
	l := &TokenLogprobs{Content: []tokenContent{}}
	for _, row := range rows {
		row = row.unique()
		c := tokenContent{tokenEntry: newTokenEntry(row[0]), Top: []tokenEntry{}}
		for i, e := range row {
			if top == -1 || i < max(top, 1) {
				c.Top = append(c.Top, newTokenEntry(e))
			}
		}
		l.Content = append(l.Content, c)
	}
	return l
}

func newTokenEntry(e Entry) tokenEntry {
	return tokenEntry{e.ID, Float(floor(e.Logprob)), e.Rank}
}
