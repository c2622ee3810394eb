package vocab

import "testing"

// What one stream of the engine (vLLM: DecodeStream) holds back, and what is
// lost or shown twice when another source goes on.
func TestHeldText(t *testing.T) {
	const stream, round = 1, 2
	const p, space, rest, a1, x1 = Token(1), Token(2), Token(3), Token(4), Token(5)
	bytes := map[Token]string{p: "p", space: " \xf0\x9f", rest: "\x98\x80", a1: "a\xe3", x1: "x", 6: "\xe3", 7: "\x81\x93"}
	decode := func(ids []Token) string {
		var b []Token
		for _, id := range ids {
			b = append(b, toks(bytes[id])...)
		}
		return bytesDecode(b)
	}
	resolve := func(x *Text) (shown string) {
		for {
			base, window, ok := x.Ask()
			if !ok {
				return shown
			}
			shown += x.Answer(decode(base), decode(window))
		}
	}
	T := func(ids ...Token) []Token { return ids }
	// The engine shows nothing of a token that is a space and half a character.
	x := NewText(T(p))
	got := x.Add(T(space), "", stream, false)
	got += x.Add(T(rest), "", 0, false) + resolve(x)
	if got != " 😀" {
		t.Errorf("lost: %q, want %q", got, " 😀")
	}
	// It never shows it if the answer ends there.
	x = NewText(T(p))
	x.Add(T(x1, a1), "", 0, false)
	if got := resolve(x); got != "x" {
		t.Errorf("shown %q, the engine shows %q", got, "x")
	}
	// A merged chunk: its text is not all of its tokens'. vLLM then answers a
	// prompt that ends inside a character with the whole prompt's text.
	x = NewText(T(p))
	x.Add(T(x1, 6), "x", stream, false)
	if got := x.Add(T(7), "pxこ", round, true); got != "" {
		t.Errorf("took %q for the text of a token", got)
	}
	// Text that comes behind its token, which was decoded meanwhile.
	x = NewText(T(p))
	x.Add(T(p), "", 0, false)
	x.Add(T(x1), "", stream, false)
	got = resolve(x)
	if got += x.Add(nil, "x", stream, false); got != "px" {
		t.Errorf("shown twice: %q", got)
	}
}
