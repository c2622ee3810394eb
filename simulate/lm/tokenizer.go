package lm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"paceline/vocab"
)

// Tokenizer is a byte-level BPE tokeniser with GPT-2's pre-tokeniser. It is
// immutable and safe for concurrent use.
type Tokenizer struct {
	tokens  []string // bytes by id; "" for ids that are not in use
	special []bool   // by id
	bytes   [256]vocab.Token
	merges  map[[2]vocab.Token]merge
	added   []addedToken // that Encode finds in text, longest first
}

// addedToken is a token that is cut out of a text before pre-tokenisation.
type addedToken struct {
	content string
	id      vocab.Token
}

// Size returns the number of ids, which are 0 … Size()-1.
func (t *Tokenizer) Size() int { return len(t.tokens) }

// Special reports whether id is a special token, such as an end of text.
func (t *Tokenizer) Special(id vocab.Token) bool { return t.known(id) && t.special[id] }

// Bytes returns a copy of the bytes that id stands for, which need not be UTF-8;
// none for an id outside the vocabulary.
func (t *Tokenizer) Bytes(id vocab.Token) []byte {
	if !t.known(id) {
		return nil
	}
	return []byte(t.tokens[id])
}

func (t *Tokenizer) known(id vocab.Token) bool { return id >= 0 && int(id) < len(t.tokens) }

// Encode returns the tokens of text, nil for an empty one. With parseSpecial
// the added tokens that are written out in it, such as <|end|>, become their
// ids, as with Hugging Face; without it they are text like any other. Bytes that
// are not UTF-8 are kept: the tokens' bytes, put together, are always text's.
func (t *Tokenizer) Encode(text string, parseSpecial bool) []vocab.Token {
	var ids, bytes []vocab.Token
	m := merger{pairs: t.merges}
	for text != "" {
		plain, id, rest := text, vocab.Token(-1), ""
		if parseSpecial {
			plain, id, rest = t.cut(text)
		}
		for plain != "" {
			n := nextWord(plain)
			bytes = bytes[:0]
			for i := range n {
				bytes = append(bytes, t.bytes[plain[i]])
			}
			ids = m.word(ids, bytes)
			plain = plain[n:]
		}
		if id >= 0 {
			ids = append(ids, id)
		}
		text = rest
	}
	return ids
}

// cut splits text at its first added token, the longest of those that begin
// there; id is -1 if there is none.
func (t *Tokenizer) cut(text string) (before string, id vocab.Token, after string) {
	for i := range len(text) {
		for _, a := range t.added {
			if text[i] == a.content[0] && strings.HasPrefix(text[i:], a.content) {
				return text[:i], a.id, text[i+len(a.content):]
			}
		}
	}
	return text, -1, ""
}

// Decode returns the text of ids. Special tokens are left out if skipSpecial is
// set, ids outside the vocabulary always. Bytes that do not form UTF-8 become
// U+FFFD, one for each maximal part of a character, as Hugging Face and Python
// (errors="replace") do.
func (t *Tokenizer) Decode(ids []vocab.Token, skipSpecial bool) string {
	var text []byte
	for _, id := range ids {
		if !t.known(id) || skipSpecial && t.special[id] {
			continue
		}
		text = append(text, t.tokens[id]...)
	}
	if utf8.Valid(text) {
		return string(text)
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			size = partSize(text)
		}
		b.WriteRune(r)
		text = text[size:]
	}
	return b.String()
}

// partSize returns the length of the maximal part of a character with which
// text, which does not begin with a whole one, begins: as many bytes as some
// character starts with, or one.
//
// Source: Unicode 17, section 3.9, "U+FFFD Substitution of Maximal Subparts".
func partSize(text []byte) int {
	trailing, low, high := 0, byte(0x80), byte(0xbf) // low and high bound the second byte
	switch lead := text[0]; {
	case lead >= 0xc2 && lead <= 0xdf:
		trailing = 1
	case lead >= 0xe0 && lead <= 0xef:
		trailing = 2
	case lead >= 0xf0 && lead <= 0xf4:
		trailing = 3
	}
	switch text[0] {
	case 0xe0:
		low = 0xa0 // below: overlong
	case 0xed:
		high = 0x9f // above: surrogates
	case 0xf0:
		low = 0x90 // below: overlong
	case 0xf4:
		high = 0x8f // above: beyond U+10FFFF
	}
	n := 1
	for n <= trailing && n < len(text) && text[n] >= low && text[n] <= high {
		n++
		low, high = 0x80, 0xbf
	}
	return n
}

// tokenizerFile is the part of tokenizer.json that decides what the tokeniser
// does.
type tokenizerFile struct {
	Added []struct {
		ID         vocab.Token `json:"id"`
		Content    string      `json:"content"`
		SingleWord bool        `json:"single_word"`
		LStrip     bool        `json:"lstrip"`
		RStrip     bool        `json:"rstrip"`
		Special    bool        `json:"special"`
	} `json:"added_tokens"`
	Normalizer   json.RawMessage `json:"normalizer"`
	PreTokenizer struct {
		Type           string `json:"type"`
		AddPrefixSpace bool   `json:"add_prefix_space"`
		UseRegex       bool   `json:"use_regex"`
	} `json:"pre_tokenizer"`
	Model struct {
		Type                    string                 `json:"type"`
		ContinuingSubwordPrefix string                 `json:"continuing_subword_prefix"`
		EndOfWordSuffix         string                 `json:"end_of_word_suffix"`
		IgnoreMerges            bool                   `json:"ignore_merges"`
		Vocab                   map[string]vocab.Token `json:"vocab"`
		Merges                  []mergePair            `json:"merges"`
	} `json:"model"`
}

// mergePair is written ["a", "b"] or, by older versions, "a b".
type mergePair [2]string

// UnmarshalJSON reads both forms.
func (p *mergePair) UnmarshalJSON(data []byte) error {
	var pair []string
	if err := json.Unmarshal(data, &pair); err != nil {
		var line string
		if err := json.Unmarshal(data, &line); err != nil {
			return err
		}
		pair = strings.Split(line, " ")
	}
	if len(pair) != 2 {
		return fmt.Errorf("%s is no pair of tokens", data)
	}
	copy(p[:], pair)
	return nil
}

// readTokenizer reads tokenizer.json and refuses what Encode does not do.
func readTokenizer(fsys fs.FS) (*Tokenizer, error) {
	var f tokenizerFile
	if err := readJSON(fsys, "tokenizer.json", &f); err != nil {
		return nil, err
	}
	t, err := f.tokenizer()
	if err != nil {
		return nil, fmt.Errorf("cannot use tokenizer.json: %w", err)
	}
	return t, nil
}

func (f *tokenizerFile) tokenizer() (*Tokenizer, error) {
	switch {
	case f.Model.Type != "BPE":
		return nil, fmt.Errorf("model is %q, want BPE", f.Model.Type)
	case f.Model.ContinuingSubwordPrefix != "" || f.Model.EndOfWordSuffix != "" || f.Model.IgnoreMerges:
		return nil, errors.New("subword prefixes, word suffixes and ignore_merges are not supported")
	case f.PreTokenizer.Type != "ByteLevel" || f.PreTokenizer.AddPrefixSpace || !f.PreTokenizer.UseRegex:
		return nil, errors.New("pre_tokenizer must be ByteLevel with use_regex and without add_prefix_space")
	case !isNull(f.Normalizer):
		return nil, errors.New("a normalizer is not supported")
	}
	t := &Tokenizer{}
	if err := t.setTokens(f); err != nil {
		return nil, err
	}
	return t, t.setMerges(f)
}

// setTokens fills in the tables by id and by byte.
func (t *Tokenizer) setTokens(f *tokenizerFile) error {
	ids := len(f.Model.Vocab) + len(f.Added)
	put := func(id vocab.Token, content string) error {
		if id < 0 || int(id) >= ids {
			return fmt.Errorf("id %d of %q is outside the %d ids", id, content, ids)
		}
		for int(id) >= len(t.tokens) {
			t.tokens, t.special = append(t.tokens, ""), append(t.special, false)
		}
		t.tokens[id] = content
		return nil
	}
	for written, id := range f.Model.Vocab {
		if err := put(id, fromByteLevel(written)); err != nil {
			return err
		}
	}
	for _, a := range f.Added {
		if a.Content == "" || a.LStrip || a.RStrip || a.SingleWord {
			return fmt.Errorf("added token %q: empty tokens, lstrip, rstrip and single_word are not supported", a.Content)
		}
		if err := put(a.ID, a.Content); err != nil {
			return err
		}
		t.special[a.ID] = a.Special
		t.added = append(t.added, addedToken{a.Content, a.ID})
	}
	slices.SortStableFunc(t.added, func(a, b addedToken) int { return len(b.content) - len(a.content) })
	for b, r := range byteLevel {
		id, ok := f.Model.Vocab[string(r)]
		if !ok {
			return fmt.Errorf("there is no token for byte %#x", b)
		}
		t.bytes[b] = id
	}
	return nil
}

// setMerges fills in the merge table; ranks are the positions in the list.
func (t *Tokenizer) setMerges(f *tokenizerFile) error {
	t.merges = make(map[[2]vocab.Token]merge, len(f.Model.Merges))
	for rank, pair := range f.Model.Merges {
		left, hasLeft := f.Model.Vocab[pair[0]]
		right, hasRight := f.Model.Vocab[pair[1]]
		to, hasBoth := f.Model.Vocab[pair[0]+pair[1]]
		if !hasLeft || !hasRight || !hasBoth {
			return fmt.Errorf("merge %q names tokens that do not exist", pair)
		}
		t.merges[[2]vocab.Token{left, right}] = merge{rank: uint32(rank), to: to}
	}
	return nil
}

// byteLevel is GPT-2's way to write bytes as printable characters: printable
// Latin-1 stands for itself, the other bytes are numbered from U+0100.
var byteLevel = func() (table [256]rune) {
	next := rune(0x100)
	for b := range table {
		if b >= '!' && b <= '~' || b >= '¡' && b <= '¬' || b >= '®' && b <= 'ÿ' {
			table[b] = rune(b)
			continue
		}
		table[b] = next
		next++
	}
	return table
}()

// byteOf inverts byteLevel.
var byteOf = func() map[rune]byte {
	inverse := make(map[rune]byte, len(byteLevel))
	for b, r := range byteLevel {
		inverse[r] = byte(b)
	}
	return inverse
}()

// fromByteLevel turns a written token into its bytes. A token with a character
// that stands for no byte is taken literally.
func fromByteLevel(written string) string {
	out := make([]byte, 0, len(written))
	for _, r := range written {
		b, ok := byteOf[r]
		if !ok {
			return written
		}
		out = append(out, b)
	}
	return string(out)
}
