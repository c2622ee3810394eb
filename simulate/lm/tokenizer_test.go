package lm

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"paceline/vocab"
)

// TestEncode lists what Hugging Face's tokenizers 0.22 returns.
func TestEncode(t *testing.T) {
	tokenizer := load(t, Target).Tokenizer()
	for _, c := range []struct {
		text string
		want []vocab.Token
	}{
		{"", nil},
		{"'s", []vocab.Token{11, 87}},
		{"'share", []vocab.Token{11, 87, 76, 647}},
		{"I'll've", []vocab.Token{45, 11, 289, 11, 346}},
		{"  two  spaces", []vocab.Token{225, 1025, 225, 268, 84, 384, 294}},
		{"x \n\n y", []vocab.Token{92, 225, 1258, 439}},
		{"tab\t\tx", []vocab.Token{88, 832, 202, 202, 92}},
		{"\u00a0nbsp\u2003em", []vocab.Token{131, 259, 82, 70, 87, 84, 163, 227, 230, 481}},
		{"\u0085nel x", []vocab.Token{131, 232, 390, 80, 420}},
		{"Ⅷ²x½", []vocab.Token{163, 232, 105, 131, 115, 92, 131, 126}},
		{"don''t !?'s 3rd", []vocab.Token{72, 278, 11, 11, 88, 225, 5, 35, 11, 87, 365, 86, 72}},
		{"हिन्दी ไทย", []vocab.Token{161, 102, 122, 161, 102, 128, 161, 102, 106, 161, 103, 240, 161, 102, 104, 161, 103, 227, 225, 161, 122, 231, 161, 121, 250, 161, 121, 100}},
		{"\u200bzw", []vocab.Token{163, 227, 238, 94, 91}},
		{"end  ", []vocab.Token{305, 467}},
		{"\r\n\r\n", []vocab.Token{206, 203, 206, 203}},
		{"123abc456", []vocab.Token{1223, 23, 832, 71, 24, 25, 26}},
		{"ABC'LL'll", []vocab.Token{37, 38, 39, 11, 48, 48, 11, 289}},
		{"\x1c\x1dx", []vocab.Token{221, 222, 92}},
		{"١٢٣ 四五", []vocab.Token{154, 99, 154, 100, 154, 101, 225, 166, 254, 254, 165, 123, 247}},
		{"a<|end|>b", []vocab.Token{69, 0, 70}},
		{"<|end|><|user|>", []vocab.Token{0, 1}},
		{"<|en<|end|>", []vocab.Token{270, 285, 0}},
	} {
		if got := tokenizer.Encode(c.text, true); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}

func TestEncodeSpecialAsText(t *testing.T) {
	tokenizer := load(t, Target).Tokenizer()
	ids := tokenizer.Encode("a<|end|>b", false)
	if slices.ContainsFunc(ids, tokenizer.Special) {
		t.Errorf("got %v, want no special token", ids)
	}
	if got := tokenizer.Decode(ids, true); got != "a<|end|>b" {
		t.Errorf("got %q, want the text", got)
	}
}

// TestDecode lists what Python's decode("utf8", "replace") makes of bytes.
func TestDecode(t *testing.T) {
	tokenizer := load(t, Target).Tokenizer()
	for _, c := range []struct{ bytes, want string }{
		{"", ""},
		{"こ👋", "こ👋"},
		{"\uFFFD", "\uFFFD"},
		{"\xe3\x81", "\uFFFD"},
		{"\xe3\x81a", "\uFFFDa"},
		{"\xe3\x81\xe3\x81\x82", "\uFFFDあ"},
		{"\xf0\x9f\x91", "\uFFFD"},
		{"\xf0\x9f\xff", "\uFFFD\uFFFD"},
		{"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},
		{"\xc0\xaf", "\uFFFD\uFFFD"},
		{"\xff", "\uFFFD"},
		{"\x80\x80", "\uFFFD\uFFFD"},
		{"\xe0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
		{"\xf0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
		{"\xf4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
		{"a\xf0\x90\x80b\xc3", "a\uFFFDb\uFFFD"},
		{"\xc3(", "\uFFFD("},
	} {
		if got := tokenizer.Decode(tokenizer.Encode(c.bytes, false), false); got != c.want {
			t.Errorf("%q: got %q, want %q", c.bytes, got, c.want)
		}
	}
}

func TestDecodeSpecialAndUnknown(t *testing.T) {
	tokenizer := load(t, Target).Tokenizer()
	ids := []vocab.Token{1, -1, 69, 2048, 0, 1 << 30}
	for _, c := range []struct {
		skipSpecial bool
		want        string
	}{{false, "<|user|>a<|end|>"}, {true, "a"}} {
		if got := tokenizer.Decode(ids, c.skipSpecial); got != c.want {
			t.Errorf("skip %v: got %q, want %q", c.skipSpecial, got, c.want)
		}
	}
	for id, want := range map[vocab.Token]bool{-1: false, 0: true, 4: true, 5: false, 2048: false} {
		if got := tokenizer.Special(id); got != want {
			t.Errorf("Special(%d) = %v, want %v", id, got, want)
		}
	}
	if tokenizer.Bytes(-1) != nil || tokenizer.Bytes(2048) != nil || string(tokenizer.Bytes(0)) != "<|end|>" {
		t.Error("Bytes of an unknown or a special token")
	}
}

// TestPartSize compares with the definition: the maximal subpart is the longest
// start of any character's encoding.
func TestPartSize(t *testing.T) {
	starts := map[string]bool{}
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		encoded := string(r)
		for n := 1; n < len(encoded); n++ {
			starts[encoded[:n]] = true
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		lead := rapid.OneOf(rapid.ByteRange(0x80, 0xff), rapid.SampledFrom([]byte("\xe0\xed\xf0\xf4"))).Draw(t, "lead")
		rest := rapid.SliceOfN(rapid.SampledFrom([]byte("\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0")), 0, 4).Draw(t, "rest")
		text := append([]byte{lead}, rest...)
		if _, size := utf8.DecodeRune(text); size > 1 {
			return
		}
		want := 1
		for n := 2; n <= len(text) && starts[string(text[:n])]; n++ {
			want = n
		}
		if got := partSize(text); got != want {
			t.Fatalf("%q: got %d, want %d", text, got, want)
		}
	})
}

// TestNextWord compares with Go's regexp, which lacks only the look-ahead.
func TestNextWord(t *testing.T) {
	const blank = `[\p{Z}\t-\r\x{85}]`
	words := regexp.MustCompile(`^('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{Z}\t-\r\x{85}\p{L}\p{N}]+)`)
	blanks := regexp.MustCompile(`^` + blank + `+`)
	piece := rapid.SampledFrom([]string{
		" ", " ", "\t", "\n", "\r", "\v", "\u0085", "\u00a0", "\u2003", "\u3000", "\u180e", "\u200b", "\x1c",
		"a", "b", "Z", "é", "こ", "ª", "ǅ", "0", "9", "٣", "Ⅷ", "½", "'", "'s", "'re", "'VE", "'ll", "!", "_", "👋", "\u0301", "\ufffd", "\xff", "\xe3\x81",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(piece, 1, 12).Draw(t, "text"), "")
		want := len(words.FindString(text))
		if want == 0 {
			run := blanks.FindString(text)
			want = len(run)
			if _, last := utf8.DecodeLastRuneInString(run); want < len(text) && last < want {
				want -= last
			}
		}
		if got := nextWord(text); got != want || got == 0 {
			t.Fatalf("%q: got %d, want %d", text, got, want)
		}
	})
}

// TestMerges compares with the definition: look through all pairs, merge the
// first of the lowest rank, repeat.
func TestMerges(t *testing.T) {
	tokenizer := load(t, Target).Tokenizer()
	naive := func(ids []vocab.Token) []vocab.Token {
		for {
			best, at := merge{rank: noMerge}, 0
			for i := range len(ids) - 1 {
				if m, ok := tokenizer.merges[[2]vocab.Token{ids[i], ids[i+1]}]; ok && m.rank < best.rank {
					best, at = m, i
				}
			}
			if best.rank == noMerge {
				return ids
			}
			ids = slices.Replace(ids, at, at+2, best.to)
		}
	}
	letter := rapid.SampledFrom([]rune("aeiouthersndlweg<|> Ġ"))
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOfN(letter, 1, 40).Draw(t, "text"))
		var bytes []vocab.Token
		for i := range len(text) {
			bytes = append(bytes, tokenizer.bytes[text[i]])
		}
		m := merger{pairs: tokenizer.merges}
		got := m.word(nil, bytes)
		if want := naive(slices.Clone(bytes)); !slices.Equal(got, want) {
			t.Fatalf("%q: got %v, want %v", text, got, want)
		}
	})
}

// TestEncodeLong has one word of a megabyte: quadratic merging would take
// minutes.
func TestEncodeLong(t *testing.T) {
	tokenizer := load(t, Target).Tokenizer()
	for _, text := range []string{strings.Repeat("the", 350_000), strings.Repeat(" ", 1_000_000), strings.Repeat("<|en", 250_000)} {
		if got := tokenizer.Decode(tokenizer.Encode(text, true), false); got != text {
			t.Errorf("%.10q…: does not come back", text)
		}
	}
}

func FuzzTokenizer(f *testing.F) {
	for _, text := range []string{"", "Hello world", " <|end|>\n<|user|>", "こんにちは 👋\xff\xe3\x81", "it's  42\r\n", "\u0085\u3000'll"} {
		f.Add(text)
	}
	tokenizer := load(f, Target).Tokenizer()
	f.Fuzz(func(t *testing.T, text string) {
		for _, parseSpecial := range []bool{false, true} {
			ids := tokenizer.Encode(text, parseSpecial)
			var bytes []byte
			for _, id := range ids {
				bytes = append(bytes, tokenizer.Bytes(id)...)
			}
			if string(bytes) != text {
				t.Errorf("%q: the tokens' bytes are %q", text, bytes)
			}
			decoded := tokenizer.Decode(ids, false)
			if !utf8.ValidString(decoded) || utf8.ValidString(text) && decoded != text {
				t.Errorf("%q: decoded as %q", text, decoded)
			}
		}
	})
}
