package vocab

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// bytesDecode is a byte-level vocabulary: token i is byte i, ids from 256 on
// are special tokens without text.
func bytesDecode(ids []Token) string {
	var b []byte
	for _, id := range ids {
		if id < 256 {
			b = append(b, byte(id))
		}
	}
	// one U+FFFD for each maximal invalid run start, as decoders do
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			// an incomplete but so far valid tail is one U+FFFD
			if !utf8.FullRune(b) {
				out.WriteString(replacement)
				break
			}
			out.WriteString(replacement)
			b = b[1:]
			continue
		}
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}

func toks(s string) []Token {
	var ids []Token
	for i := range len(s) {
		ids = append(ids, Token(s[i]))
	}
	return ids
}

func resolve(t *Text) string {
	base, window, ok := t.Ask()
	if !ok {
		return ""
	}
	return t.Answer(bytesDecode(base), bytesDecode(window))
}

func TestTextHoldsBackIncompleteCharacters(t *testing.T) {
	f := func(steps []string, want []string) {
		t.Helper()
		x := NewText(toks("prompt "))
		for i, s := range steps {
			x.Add(toks(s), "", false)
			if got := resolve(x); got != want[i] {
				t.Errorf("steps %q: step %d shows %q, want %q", steps, i, got, want[i])
			}
		}
	}
	f([]string{"a", "b"}, []string{"a", "b"})
	f([]string{"\xe3", "\x81", "\x93x"}, []string{"", "", "こx"})
	f([]string{"a\xf0\x9f", "\x98\x80"}, []string{"a", "😀"})
	f([]string{"\xe3", "A"}, []string{"", replacement + "A"}) // it never was a character: shown when that is sure
	f([]string{"", "x"}, []string{"", "x"})
}

func TestTextTakesTheEnginesOwnTextOnlyWhenNothingIsHeld(t *testing.T) {
	x := NewText(nil)
	if got := x.Add(toks("ab"), "ab", true); got != "ab" || !x.Clean() {
		t.Fatalf("known text: %q, clean %v", got, x.Clean())
	}
	if got := x.Add(toks("\xe3"), "", true); got != "" || x.Clean() {
		t.Fatalf("held text: %q, clean %v", got, x.Clean())
	}
	if got := x.Add(toks("\x81\x93"), "?", true); got != "" || x.Pending() != 2 {
		t.Fatalf("text after a held character was taken: %q, %d pending", got, x.Pending())
	}
	if got := resolve(x); got != "こ" || !x.Clean() {
		t.Fatalf("resolved %q", got)
	}
	if got := x.Add(nil, "tail", true); got != "tail" {
		t.Fatalf("text without tokens: %q", got)
	}
}

// However a text is cut into tokens, groups and sources, what is shown adds up
// to the decoding of all tokens, but for an incomplete tail.
func TestTextAddsUp(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		whole := rapid.SliceOfN(rapid.OneOf(
			rapid.Map(rapid.StringN(1, 4, 12), toks),
			rapid.Map(rapid.SliceOfN(rapid.Int32Range(0, 260), 1, 3), func(v []int32) []Token {
				ids := make([]Token, len(v))
				for i := range v {
					ids[i] = Token(v[i])
				}
				return ids
			}),
		), 0, 60).Draw(r, "groups")
		x, all, shown := NewText(toks("ctx")), []Token(nil), ""
		for i, g := range whole {
			known := rapid.Bool().Draw(r, "known") && x.Clean() && utf8.ValidString(bytesDecode(g)) && !strings.Contains(bytesDecode(g), replacement)
			all = append(all, g...)
			shown += x.Add(g, bytesDecode(g), known)
			if rapid.Bool().Draw(r, "resolve") || i == len(whole)-1 {
				shown += resolve(x)
			}
		}
		want := strings.TrimRight(bytesDecode(all), replacement)
		if got := shown; got != want {
			r.Fatalf("shown %q, want %q", got, want)
		}
	})
}

func TestAppendIDs(t *testing.T) {
	for _, c := range []struct {
		ids  []Token
		want string
	}{{nil, ""}, {[]Token{7}, "7"}, {[]Token{0, 12, 2047}, "0,12,2047"}} {
		if got := string(AppendIDs(nil, c.ids)); got != c.want {
			t.Errorf("AppendIDs(%v) = %q, want %q", c.ids, got, c.want)
		}
	}
}
