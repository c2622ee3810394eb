package simulate

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"paceline/simulate/lm"
	"paceline/simulate/vllm"
	"paceline/vocab"

	"pgregory.net/rapid"
)

func tokenizer(t testing.TB) *lm.Tokenizer {
	t.Helper()
	m, err := lm.Target()
	if err != nil {
		t.Fatal(err)
	}
	return m.Tokenizer()
}

// TestDecoder: token by token, the text is that of all tokens at once, less an
// unfinished character at its end.
func TestDecoder(t *testing.T) {
	tok := tokenizer(t)
	rapid.Check(t, func(t *rapid.T) {
		prompt := tok.Encode(rapid.StringMatching(`[a-zäé👋 ]{0,12}`).Draw(t, "prompt"), true)
		written := tok.Encode(rapid.String().Draw(t, "text"), rapid.Bool().Draw(t, "special"))
		skip := rapid.Bool().Draw(t, "skip")
		d := newDecoder(tok, prompt, skip)
		var b strings.Builder
		for _, id := range written {
			b.WriteString(d.step(id))
		}
		if have, want := b.String(), tok.Decode(written, skip); have != want && !strings.Contains(want, replacement) {
			t.Fatalf("after %v, %v: have %q, want %q", prompt, written, have, want)
		}
	})
}

// TestDecoderAnyTokens: any tokens at all give valid UTF-8, and no token's
// text comes twice.
func TestDecoderAnyTokens(t *testing.T) {
	tok := tokenizer(t)
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) vocab.Token {
			return vocab.Token(rapid.IntRange(0, 2047).Draw(t, "id"))
		}), 0, 30).Draw(t, "ids")
		d := newDecoder(tok, nil, false)
		var b strings.Builder
		for _, id := range ids {
			b.WriteString(d.step(id))
		}
		if !utf8.ValidString(b.String()) {
			t.Fatalf("%v: %q", ids, b.String())
		}
		whole := tok.Decode(ids, false)
		if !strings.HasPrefix(whole, strings.TrimRight(b.String(), replacement)) && !strings.Contains(whole, replacement) {
			t.Fatalf("%v: %q is not the beginning of %q", ids, b.String(), whole)
		}
	})
}

// TestStopStrings checks where an answer stops against looking for the stop
// strings anew after every token, and that what is shown never has to be taken
// back.
func TestStopStrings(t *testing.T) {
	tok := tokenizer(t)
	letters := []string{"a", "b", "ab", "ba", "aab", "é", "👋", " a", "b\n"}
	rapid.Check(t, func(t *rapid.T) {
		var ids []vocab.Token
		for _, s := range rapid.SliceOfN(rapid.SampledFrom(letters), 1, 20).Draw(t, "text") {
			ids = append(ids, tok.Encode(s, false)...)
		}
		s := &vllm.Sampling{
			Stop:        rapid.SliceOfN(rapid.SampledFrom([]string{"ab", "ba", "aa", "éa", "👋", "b a", "aba", "abab", " "}), 0, 3).Draw(t, "stop"),
			IncludeStop: rapid.Bool().Draw(t, "include"), MinTokens: rapid.IntRange(0, 5).Draw(t, "min"),
			Detokenize: true, SkipSpecial: true,
		}
		x := newText(tok, nil, s)
		d := newDecoder(tok, nil, true)
		shown, all := "", ""
		for i, id := range ids {
			fresh := d.step(id)
			all += fresh
			stop, found := x.add(id, false)
			wantStop, end := oracleStop(all, len(all)-len(fresh), s.Stop)
			if i+1 <= s.MinTokens || fresh == "" {
				wantStop = ""
			}
			if found != (wantStop != "") || stop != wantStop {
				t.Fatalf("after %q: stops with %q, want %q", all, stop, wantStop)
			}
			shown += x.next(found || i == len(ids)-1)
			if !strings.HasPrefix(all, shown) {
				t.Fatalf("showed %q of %q", shown, all)
			}
			if found {
				want := all[:end]
				if !s.IncludeStop {
					want = all[:end-len(stop)]
				}
				if shown != want {
					t.Fatalf("stopped with %q, want %q", shown, want)
				}
				return
			}
			held := max(0, longest(s)-1)
			if i < len(ids)-1 && utf8.RuneCountInString(shown) != max(0, utf8.RuneCountInString(all)-held) {
				t.Fatalf("showed %q of %q, holding %d", shown, all, held)
			}
		}
		if shown != all {
			t.Fatalf("ended with %q, want %q", shown, all)
		}
	})
}

func longest(s *vllm.Sampling) int {
	n := 0
	if !s.IncludeStop {
		for _, stop := range s.Stop {
			n = max(n, utf8.RuneCountInString(stop))
		}
	}
	return n
}

// oracleStop looks at every end after `from`, the earliest first.
func oracleStop(all string, from int, stops []string) (string, int) {
	for end := from + 1; end <= len(all); end++ {
		if i := slices.IndexFunc(stops, func(s string) bool { return strings.HasSuffix(all[:end], s) }); i >= 0 {
			return stops[i], end
		}
	}
	return "", 0
}
