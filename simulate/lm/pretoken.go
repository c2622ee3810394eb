package lm

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// nextWord returns the length in bytes of the first piece into which GPT-2's
// pre-tokeniser cuts a text that is not empty. Merges never cross pieces. It is
// this expression, written as a scanner since Go's regexp has no look-ahead:
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// A byte that is not UTF-8 counts as a character that is none of these classes.
func nextWord(text string) int {
	for _, suffix := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if strings.HasPrefix(text, suffix) {
			return len(suffix)
		}
	}
	start := 0
	if text[0] == ' ' {
		start = 1
	}
	if start < len(text) {
		if class, _ := classify(text[start:]); class != space {
			return start + run(text[start:], class)
		}
	}
	n := run(text, space)
	if n == len(text) {
		return n
	}
	// \s+(?!\S): the last space goes with the word after it, unless it is alone.
	_, last := utf8.DecodeLastRuneInString(text[:n])
	if last == n {
		return n
	}
	return n - last
}

// class is what the pre-tokeniser distinguishes.
type class uint8

const (
	other class = iota
	space
	letter
	number
)

// classify returns the class of the first character and its length in bytes.
func classify(text string) (class, int) {
	r, size := utf8.DecodeRuneInString(text)
	switch {
	case unicode.IsLetter(r):
		return letter, size
	case unicode.IsNumber(r):
		return number, size
	case unicode.IsSpace(r):
		return space, size
	}
	return other, size
}

// run returns the length of the characters of one class with which text begins.
func run(text string, want class) int {
	n := 0
	for n < len(text) {
		got, size := classify(text[n:])
		if got != want {
			break
		}
		n += size
	}
	return n
}
