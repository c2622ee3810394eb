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
	var shown string
	for {
		base, window, ok := t.Ask()
		if !ok {
			return shown
		}
		shown += t.Answer(bytesDecode(base), bytesDecode(window))
	}
}

func TestTextHoldsBackIncompleteCharacters(t *testing.T) {
	f := func(steps []string, want []string) {
		t.Helper()
		x := NewText(toks("prompt "))
		for i, s := range steps {
			x.Add(toks(s), "", 0, false)
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

func TestTextTakesTheEnginesOwnTextOnlyWhereItContinues(t *testing.T) {
	const first, second = 1, 2
	x := NewText(nil)
	f := func(tokens, text string, source int, want string, pending int) {
		t.Helper()
		if got := x.Add(toks(tokens), text, source, false); got != want || x.Pending() != pending {
			t.Fatalf("Add(%q, %q, %d) shows %q with %d pending, want %q with %d", tokens, text, source, got, x.Pending(), want, pending)
		}
	}
	f("ab", "ab", first, "ab", 0)
	f("\xe3", "", first, "", 0)
	f("\x81\x93", "こ", first, "こ", 0) // the same stream knows what it held
	f("\xe3", "", first, "", 0)
	f("\x81\x93", "?", second, "", 2) // another one does not
	if got := resolve(x); got != "こ" {
		t.Fatalf("resolved %q", got)
	}
	f("c", "c", second, "c", 0)
	f("", "tail", second, "tail", 0)
	f("d", "", 0, "", 1)
	f("e", "e", second, "", 2) // something else waits before it
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
			source, text := 0, bytesDecode(g)
			if rapid.Bool().Draw(r, "known") && !strings.Contains(text, replacement) {
				source = i + 1
			}
			all = append(all, g...)
			shown += x.Add(g, text, source, !strings.Contains(text, replacement))
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
