package vllm

import (
	"math"
	"strconv"
	"strings"
)

// dump writes a value back as JSON, keys in their order.
func dump(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case number:
		return append(dst, v...)
	case string:
		return append(dst, Marshal(v)...)
	case ints:
		dst = append(dst, '[')
		for i, n := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(dst, n, 10)
		}
		return append(dst, ']')
	case list:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = dump(dst, e)
		}
		return append(dst, ']')
	case *object:
		dst = append(dst, '{')
		for i, key := range v.keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = dump(dst, key)
			dst = append(dst, ':')
			dst = dump(dst, v.values[key])
		}
		return append(dst, '}')
	}
	panic("BUG: not a JSON value")
}

// shown is how vLLM shows a refused value in a message: Python's repr of its
// text, shortened; of lists and objects the size only.
func shown(v any) string {
	switch v := v.(type) {
	case list:
		return repr("<list of " + strconv.Itoa(len(v)) + " items>")
	case ints:
		return repr("<list of " + strconv.Itoa(len(v)) + " items>")
	case *object:
		return repr("<dict of " + strconv.Itoa(len(v.keys)) + " items>")
	case string:
		if r := []rune(v); len(r) > 200 {
			return repr(string(r[:200]) + "...[truncated]")
		}
		return repr(v)
	}
	return repr(plain(v))
}

// plain is Python's str of a scalar.
func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case number:
		if v.whole() {
			return string(v)
		}
		f, _ := parseFloat(string(v))
		return pyFloat(f)
	case string:
		return v
	}
	return string(dump(nil, v))
}

// repr is Python's repr of a string.
func repr(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b := []byte{quote}
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r < ' ' || r == 0x7f:
			b = append(b, `\x`...)
			b = append(b, "0123456789abcdef"[r>>4], "0123456789abcdef"[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return string(append(b, quote))
}

// pyFloat is Python's str of a float.
func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// parseFloat reads a number as Python's float does.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) || strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	return f, true
}

// Float is a number that is written with a decimal point, as Python writes
// its floats.
type Float float64

// MarshalJSON implements json.Marshaler.
func (f Float) MarshalJSON() ([]byte, error) { return []byte(pyFloat(float64(f))), nil }
