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
// DecodeStream, vLLM's incremental detokeniser): decode a window with and
// without the new tokens, show the difference, and hold it back while it ends
// in U+FFFD, because the character may still be completed.
//
// The zero Text is not usable; see NewText.
type Text struct {
	tokens []Token
	// tokens[:shown] have their text shown, but for a held-back tail.
	shown int
	// tokens[start:] is the window. base is what decoding tokens[start:shown]
	// gives, without the held-back tail; valid only if hasBase.
	start   int
	base    string
	hasBase bool
	// clean: nothing of tokens[:shown] is held back, as far as is known. Only
	// then may an engine's own text of the next tokens be taken as it is.
	clean bool
	// source is where the text of the last tokens came from, 0 if decoded.
	source int
	// asked is len(tokens) at the time of the last Ask, 0 when none is open.
	asked int
}

// NewText begins a text after a context (the tail of the prompt is enough; it
// is copied). The context itself is never shown.
func NewText(context []Token) *Text {
	if len(context) > contextTokens {
		context = context[len(context)-contextTokens:]
	}
	return &Text{tokens: append([]Token(nil), context...), shown: len(context), clean: true}
}

// Add appends tokens. source numbers where text comes from: one stream or one
// answer of the engine, whose texts add up among themselves; 0 means that the
// text is unknown. If the text can be relied on here it is returned at once
// (it may be empty: the engine holds it back, or there is none to show);
// otherwise the tokens wait for Ask.
func (t *Text) Add(tokens []Token, text string, source int) string {
	settled := t.asked == 0 && t.Pending() == 0 && source != 0 && (t.clean || source == t.source)
	t.tokens = append(t.tokens, tokens...)
	if !settled {
		return ""
	}
	t.shown = len(t.tokens)
	t.source = source
	if len(tokens) > 0 || text != "" {
		t.hasBase = false
		t.clean = text != "" && !strings.HasSuffix(text, replacement)
	}
	return text
}

// Pending counts tokens whose text is not known yet.
func (t *Text) Pending() int { return len(t.tokens) - t.shown }

// Ask returns the runs of tokens to decode so that the pending ones can be
// shown: base may be empty (then there is nothing to decode for it). The
// slices belong to the Text and stay unchanged until Answer. ok is false when
// nothing is pending or an earlier Ask is still open.
func (t *Text) Ask() (base, window []Token, ok bool) {
	if t.asked > 0 || t.Pending() == 0 {
		return nil, nil, false
	}
	if !t.hasBase || len(t.tokens)-t.start > windowTokens {
		t.start = max(0, t.shown-contextTokens)
		t.hasBase = false
		base = t.tokens[t.start:t.shown:t.shown]
	}
	t.asked = len(t.tokens)
	return base, t.tokens[t.start:t.asked:t.asked], true
}

// Answer takes the decoded texts for the last Ask (base is ignored where Ask
// gave none) and returns what may be shown now.
func (t *Text) Answer(base, window string) string {
	if t.asked == 0 {
		panic("BUG: vocab.Text: Answer without Ask")
	}
	if !t.hasBase {
		t.base = strings.TrimRight(base, replacement)
		t.hasBase = true
	}
	t.shown, t.asked = t.asked, 0
	visible := strings.TrimRight(window, replacement)
	t.clean, t.source = len(visible) == len(window), 0
	if len(visible) <= len(t.base) {
		return ""
	}
	fresh := visible[common(t.base, visible):]
	t.base = visible
	return fresh
}

// common returns how much of s to skip so that what was shown (base) is not
// shown again. A decoder that rewrites earlier text when more follows cannot
// be taken back; then the lengths decide, at a character's border.
func common(base, s string) int {
	n := len(base)
	for n < len(s) && !utf8.RuneStart(s[n]) {
		n++
	}
	return n
}
