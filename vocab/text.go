package vocab

import (
	"strings"
	"unicode/utf8"
)

// replacement is what engines write for bytes that are no (or not yet) UTF-8.
const replacement = "\uFFFD"

// contextTokens is how many resolved tokens stand before the new ones in a
// window that is sent to be decoded, so that they get their spaces right;
// windowTokens is how long a window may grow before a new one is begun.
const (
	contextTokens = 8
	windowTokens  = 64
)

// Text turns committed tokens into the text that may be shown. It is a pure
// state: it says which runs of tokens an engine should decode, and takes the
// answers. The rule is the one engines use for their own streams (Hugging Face
// DecodeStream, vLLM's incremental detokeniser), token by token: decode a
// window with and without the new tokens and show the difference, unless the
// window ends in U+FFFD: then nothing of the tokens since the last complete
// end is shown yet, and nothing ever if the answer ends there.
//
// The zero Text is not usable; see NewText.
type Text struct {
	tokens []Token
	// tokens[:shown] end at a complete character and are shown.
	// tokens[shown:known] are in hand too: said of them was shown by the engine,
	// the rest is held back until a character is complete.
	shown, known int
	said         string
	// base is what decoding tokens[start:shown] gives, if hasBase.
	start   int
	base    string
	hasBase bool
	source  int // of the last text that was taken, 0 if it was decoded
	missed  int // the last source whose tokens had to be decoded instead
	// end is where the next window ends; asked where the open question's does,
	// 0 when none is open.
	end, asked int
}

// NewText begins a text after a context (the tail of the prompt is enough; it
// is copied). The context itself is never shown.
func NewText(context []Token) *Text {
	if len(context) > contextTokens {
		context = context[len(context)-contextTokens:]
	}
	n := len(context)
	return &Text{tokens: append([]Token(nil), context...), shown: n, known: n, end: n}
}

// Add appends tokens. source numbers where text comes from: one stream or one
// answer of the engine, whose texts add up among themselves; 0 means that the
// text is unknown. whole says that the text is all of these tokens' (of one
// token a text that is not empty always is). If the text can be relied on here
// it is returned at once (it may be empty: the engine holds it back, or there
// is none to show); otherwise the tokens wait for Ask.
func (t *Text) Add(tokens []Token, text string, source int, whole bool) string {
	// Another source than the last knows nothing of what that one holds back,
	// and text without tokens belongs to earlier ones.
	fits := source == t.source || t.shown == t.known && (len(tokens) > 0 || source != t.missed)
	settled := source != 0 && t.asked == 0 && t.Pending() == 0 && fits
	t.tokens = append(t.tokens, tokens...)
	t.end = len(t.tokens)
	if !settled {
		t.missed = source
		return ""
	}
	t.source = source
	switch {
	case len(tokens) == 0 && t.shown == t.known:
		return text
	case text != "" && (whole || len(tokens) == 1) && !strings.HasSuffix(text, replacement):
		t.shown, t.said, t.hasBase = t.end, "", false
	default:
		t.said += text
	}
	t.known = t.end
	return text
}

// Pending counts tokens whose text is not known yet.
func (t *Text) Pending() int { return len(t.tokens) - t.known }

// Known returns a copy as if the pending tokens had not been added.
func (t *Text) Known() *Text {
	c := *t
	c.tokens = t.tokens[:t.known:t.known]
	c.end, c.asked = t.known, 0
	return &c
}

// Ask returns the runs of tokens to decode so that pending ones can be shown:
// base may be empty (then there is nothing to decode for it). The slices
// belong to the Text and stay unchanged until Answer. ok is false when nothing
// is pending or an earlier Ask is still open.
func (t *Text) Ask() (base, window []Token, ok bool) {
	if t.asked > 0 || t.Pending() == 0 {
		return nil, nil, false
	}
	if !t.hasBase || t.shown-t.start > windowTokens {
		t.start = max(0, t.shown-contextTokens)
		t.hasBase = false
		base = t.tokens[t.start:t.shown:t.shown]
	}
	t.asked = t.end
	return base, t.tokens[t.start:t.asked:t.asked], true
}

// Answer takes the decoded texts for the last Ask (base is ignored where Ask
// gave none) and returns what may be shown now. While the window ends inside a
// character tokens may stay pending: the next Ask wants one token less.
func (t *Text) Answer(base, window string) string {
	if t.asked == 0 {
		panic("BUG: vocab.Text: Answer without Ask")
	}
	if !t.hasBase {
		t.base = strings.TrimRight(base, replacement)
		t.hasBase = true
	}
	asked, latest := t.asked, t.end == t.asked
	t.asked, t.source = 0, 0
	if strings.HasSuffix(window, replacement) {
		if latest { // nothing came meanwhile that may complete it
			if t.end--; t.end <= t.known {
				t.known, t.end = len(t.tokens), len(t.tokens)
			}
		}
		return ""
	}
	before := len(t.base) + len(t.said)
	t.shown, t.known, t.said, t.base = asked, asked, "", window
	if latest { // those behind were found to end inside a character
		t.known = len(t.tokens)
	}
	t.end = len(t.tokens)
	return window[skip(before, window):]
}

// skip returns how much of s to skip so that n bytes that were shown are not
// shown again. A decoder that rewrites earlier text when more follows cannot
// be taken back; then the lengths decide, at a character's border.
func skip(n int, s string) int {
	for n < len(s) && !utf8.RuneStart(s[n]) {
		n++
	}
	return min(n, len(s))
}
