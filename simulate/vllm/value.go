package vllm

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A JSON value is nil, a bool, a number, a string, a list, ints or an *object.
// Python's parser decides what is accepted: NaN and Infinity are numbers, of a
// repeated key the last one counts, a lone surrogate is a character.

// number is a JSON number as it was written (-0 as 0).
type number string

// whole tells whether it is an integer literal.
func (n number) whole() bool {
	for _, c := range []byte(n) {
		if c != '-' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// list is an array; ints is one of small whole numbers only.
type (
	list []any
	ints []int64
)

// object keeps the order of its keys.
type object struct {
	keys   []string
	values map[string]any
}

func (o *object) get(key string) any { return o.values[key] }

func (o *object) has(key string) bool { _, ok := o.values[key]; return ok }

// syntaxError is a JSON error in the words of Python's decoder.
type syntaxError struct {
	message string
	at      int // in characters
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s: char %d", e.message, e.at) }

// parse reads one JSON value and nothing after it.
func parse(text []byte) (any, *syntaxError) {
	p := &parser{text: text}
	v := p.value(0)
	if p.err == nil {
		if p.space(); p.at < len(text) {
			p.fail("Extra data", p.at)
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	return v, nil
}

type parser struct {
	text []byte
	at   int
	err  *syntaxError
}

const maxDepth = 500

func (p *parser) fail(message string, at int) {
	if p.err == nil {
		p.err = &syntaxError{message, utf8.RuneCount(p.text[:min(at, len(p.text))])}
	}
}

func (p *parser) space() {
	for p.at < len(p.text) && bytes.IndexByte([]byte(" \t\n\r"), p.text[p.at]) >= 0 {
		p.at++
	}
}

// next consumes c, after any space.
func (p *parser) next(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) value(depth int) any {
	p.space()
	if p.at >= len(p.text) || depth > maxDepth {
		p.fail("Expecting value", p.at)
		return nil
	}
	switch c := p.text[p.at]; {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		return p.str()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for _, w := range []struct {
		text  string
		value any
	}{{"null", nil}, {"true", true}, {"false", false}, {"NaN", number("NaN")}, {"Infinity", number("Infinity")}} {
		if bytes.HasPrefix(p.text[p.at:], []byte(w.text)) {
			p.at += len(w.text)
			return w.value
		}
	}
	p.fail("Expecting value", p.at)
	return nil
}

func (p *parser) object(depth int) any {
	o := &object{values: map[string]any{}}
	p.at++
	if p.next('}') {
		return o
	}
	for p.err == nil {
		if p.space(); p.at >= len(p.text) || p.text[p.at] != '"' {
			p.fail("Expecting property name enclosed in double quotes", p.at)
			break
		}
		key := p.str()
		if !p.next(':') {
			p.fail("Expecting ':' delimiter", p.at)
			break
		}
		if !o.has(key) {
			o.keys = append(o.keys, key)
		}
		o.values[key] = p.value(depth + 1)
		if p.err != nil || p.next('}') {
			break
		}
		if !p.next(',') {
			p.fail("Expecting ',' delimiter", p.at)
		}
	}
	return o
}

func (p *parser) array(depth int) any {
	if whole, ok := p.ints(); ok {
		return whole
	}
	l := list{}
	p.at++
	if p.next(']') {
		return l
	}
	for p.err == nil {
		l = append(l, p.value(depth+1))
		if p.err != nil || p.next(']') {
			break
		}
		if !p.next(',') {
			p.fail("Expecting ',' delimiter", p.at)
		}
	}
	return l
}

// ints reads an array of whole numbers without a box for each; the position
// stays if it is anything else, or empty.
func (p *parser) ints() (ints, bool) {
	start := p.at
	var whole ints
	for i := start + 1; i < len(p.text); {
		for i < len(p.text) && (p.text[i] == ' ' || p.text[i] == '\n') {
			i++
		}
		from := i
		for i < len(p.text) && (p.text[i] == '-' || p.text[i] >= '0' && p.text[i] <= '9') {
			i++
		}
		n, err := strconv.ParseInt(string(p.text[from:i]), 10, 64)
		if err != nil || i >= len(p.text) || p.text[from] == '0' && i > from+1 {
			return nil, false
		}
		whole = append(whole, n)
		for i < len(p.text) && p.text[i] == ' ' {
			i++
		}
		if i < len(p.text) && p.text[i] == ']' {
			p.at = i + 1
			return whole, true
		}
		if i >= len(p.text) || p.text[i] != ',' {
			return nil, false
		}
		i++
	}
	return nil, false
}

func (p *parser) number() any {
	start := p.at
	digits := func() int {
		from := p.at
		for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
			p.at++
		}
		return p.at - from
	}
	if p.text[p.at] == '-' {
		p.at++
		if bytes.HasPrefix(p.text[p.at:], []byte("Infinity")) {
			p.at += len("Infinity")
			return number("-Infinity")
		}
	}
	if p.at < len(p.text) && p.text[p.at] == '0' {
		p.at++
	} else if digits() == 0 {
		p.fail("Expecting value", start)
		return nil
	}
	if end := p.at; end < len(p.text) && p.text[end] == '.' {
		p.at++
		if digits() == 0 {
			p.at = end
			return written(p.text[start:end])
		}
	}
	if end := p.at; end < len(p.text) && (p.text[end] == 'e' || p.text[end] == 'E') {
		p.at++
		if p.at < len(p.text) && (p.text[p.at] == '+' || p.text[p.at] == '-') {
			p.at++
		}
		if digits() == 0 {
			p.at = end
		}
	}
	return written(p.text[start:p.at])
}

// written is a number as it was written, but for -0: a whole number has no
// sign at zero in Python.
func written(text []byte) number {
	if string(text) == "-0" {
		return "0"
	}
	return number(text)
}

// str reads a string. A lone surrogate becomes the three bytes that UTF-8
// would give it: not valid UTF-8, so it can be found later.
func (p *parser) str() string {
	start := p.at
	p.at++
	if end := bytes.IndexAny(p.text[p.at:], "\"\\"); end >= 0 && p.text[p.at+end] == '"' {
		s := p.text[p.at : p.at+end]
		if bytes.IndexFunc(s, func(r rune) bool { return r < ' ' }) < 0 {
			p.at += end + 1
			return string(s)
		}
	}
	var b []byte
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch {
		case c == '"':
			p.at++
			return string(b)
		case c == '\\':
			var ok bool
			if b, ok = p.escape(b); !ok {
				return ""
			}
		case c < ' ':
			p.fail("Invalid control character at", p.at)
			return ""
		default:
			b = append(b, c)
			p.at++
		}
	}
	p.fail("Unterminated string starting at", start)
	return ""
}

func (p *parser) escape(b []byte) ([]byte, bool) {
	if p.at+1 >= len(p.text) {
		p.at++
		return b, true // the string is unterminated
	}
	c := p.text[p.at+1]
	if i := bytes.IndexByte([]byte(`"\/bfnrt`), c); i >= 0 {
		p.at += 2
		return append(b, "\"\\/\b\f\n\r\t"[i]), true
	}
	if c != 'u' {
		p.fail("Invalid \\escape", p.at)
		return b, false
	}
	r, ok := p.hex(p.at + 2)
	if !ok {
		p.fail("Invalid \\uXXXX escape", p.at+1)
		return b, false
	}
	p.at += 6
	if utf16.IsSurrogate(r) {
		if low, ok := p.hex(p.at + 2); ok && bytes.HasPrefix(p.text[p.at:], []byte(`\u`)) {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				p.at += 6
				return utf8.AppendRune(b, both), true
			}
		}
		return append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f), true
	}
	return utf8.AppendRune(b, r), true
}

func (p *parser) hex(at int) (rune, bool) {
	if at+4 > len(p.text) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.text[at:at+4]), 16, 32)
	return rune(n), err == nil
}
