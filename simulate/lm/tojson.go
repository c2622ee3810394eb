package lm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// toJSON reformats a JSON value as the tojson filter of Hugging Face's chat
// templates does, json.dumps(x, ensure_ascii=False): ", " and ": " between
// items, keys in their order, numbers as Python prints them. No value at all is
// null; malformed JSON is returned as it is.
func toJSON(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "null"
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var b strings.Builder
	if !json.Valid(raw) || dump(&b, d) != nil {
		return string(raw)
	}
	return b.String()
}

// dump writes the decoder's next value.
func dump(b *strings.Builder, d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch v := token.(type) {
	case json.Delim:
		if v == '{' {
			return dumpObject(b, d)
		}
		return dumpArray(b, d)
	case string:
		dumpString(b, v)
	case json.Number:
		b.WriteString(pythonNumber(string(v)))
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case nil:
		b.WriteString("null")
	}
	return nil
}

// dumpArray writes the rest of an array whose bracket has been read.
func dumpArray(b *strings.Builder, d *json.Decoder) error {
	b.WriteByte('[')
	for i := 0; d.More(); i++ {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := dump(b, d); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	_, err := d.Token()
	return err
}

// dumpObject writes the rest of an object whose brace has been read. A key that
// comes twice keeps its first place and its last value, as in a Python dict.
func dumpObject(b *strings.Builder, d *json.Decoder) error {
	var keys []string
	values := map[string]string{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		var value strings.Builder
		if err := dump(&value, d); err != nil {
			return err
		}
		name := key.(string) // the decoder refuses other keys
		if _, again := values[name]; !again {
			keys = append(keys, name)
		}
		values[name] = value.String()
	}
	b.WriteByte('{')
	for i, key := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		dumpString(b, key)
		b.WriteString(": " + values[key])
	}
	b.WriteByte('}')
	_, err := d.Token()
	return err
}

// dumpString writes a string with only those escapes that JSON demands.
func dumpString(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		default:
			if r < 0x20 {
				fmt.Fprintf(b, `\u%04x`, r)
				continue
			}
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

// pythonNumber writes a JSON number as Python prints what it reads: integers
// digit by digit (-0 is 0), everything else as a double, with an exponent below
// 1e-4 and from 1e16 on.
func pythonNumber(number string) string {
	if !strings.ContainsAny(number, ".eE") {
		if number == "-0" {
			return "0"
		}
		return number
	}
	v, _ := strconv.ParseFloat(number, 64) // out of range is ±Inf, as in Python
	if math.IsInf(v, 0) {
		return strings.TrimPrefix(strconv.FormatFloat(v, 'g', -1, 64), "+") + "inity"
	}
	scientific := strconv.FormatFloat(v, 'e', -1, 64)
	_, exponent, _ := strings.Cut(scientific, "e")
	if n, _ := strconv.Atoi(exponent); v != 0 && (n < -4 || n >= 16) {
		return scientific
	}
	plain := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	return plain
}
