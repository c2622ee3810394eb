package vllm

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"paceline/vocab"
)

// reader reads the fields of an object as pydantic's lax mode does, and keeps
// what is wrong with them, in the order of reading.
type reader struct {
	*schemaErrors
	at string // location of the object
	o  *object
}

// body parses a request's body, which has to be an object.
func body(text []byte) (*reader, *Error) {
	if !utf8.Valid(text) {
		return nil, ErrBadBody
	}
	s := &schemaErrors{}
	if len(text) == 0 {
		s.add("missing", "body", "Field required", nil, "")
		return nil, s.err()
	}
	v, wrong := parse(text)
	if wrong != nil {
		s.add("json_invalid", fmt.Sprintf("body.%d", wrong.at), "JSON decode error", &object{}, "'error': "+repr(wrong.message))
		return nil, s.err()
	}
	o, ok := v.(*object)
	if !ok {
		s.add("model_attributes_type", "body", "Input should be a valid dictionary or object to extract fields from", v, "")
		return nil, s.err()
	}
	return &reader{s, "body", o}, nil
}

func (r *reader) loc(key string) string { return r.at + "." + key }

// required notes a missing field.
func (r *reader) required(key string) bool {
	if r.o.has(key) {
		return true
	}
	r.add("missing", r.loc(key), "Field required", r.o, "")
	return false
}

// present tells whether there is anything to read; null is nothing where the
// field may be null.
func (r *reader) present(key string, nullable bool) bool {
	v, ok := r.o.values[key]
	return ok && (v != nil || !nullable)
}

func (r *reader) integer(loc string, v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return n, true
		}
		f, _ := parseFloat(string(v))
		switch {
		case math.IsNaN(f) || math.IsInf(f, 0):
			r.add("finite_number", loc, "Input should be a finite number", v, "")
		case f != math.Trunc(f):
			r.add("int_from_float", loc, "Input should be a valid integer, got a number with a fractional part", v, "")
		case math.Abs(f) < 1<<62:
			return int64(f), true
		default:
			return int64(math.Copysign(math.MaxInt64, f)), true // Python's integers have no end
		}
		return 0, false
	case string:
		if f, ok := parseFloat(v); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 && !strings.ContainsAny(v, "eE") {
			return int64(f), true
		}
		r.add("int_parsing", loc, "Input should be a valid integer, unable to parse string as an integer", v, "")
		return 0, false
	}
	r.add("int_type", loc, "Input should be a valid integer", v, "")
	return 0, false
}

// int returns an integer field, or nil.
func (r *reader) int(key string, nullable bool) *int64 {
	if !r.present(key, nullable) {
		return nil
	}
	if n, ok := r.integer(r.loc(key), r.o.get(key)); ok {
		return &n
	}
	return nil
}

func (r *reader) float(key string) *float64 {
	if !r.present(key, true) {
		return nil
	}
	f, ok := r.decimal(r.loc(key), r.o.get(key))
	if !ok {
		return nil
	}
	return &f
}

func (r *reader) decimal(loc string, v any) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case number:
		f, _ := parseFloat(string(v))
		return f, true
	case string:
		if f, ok := parseFloat(v); ok {
			return f, true
		}
		r.add("float_parsing", loc, "Input should be a valid number, unable to parse string as a number", v, "")
		return 0, false
	}
	r.add("float_type", loc, "Input should be a valid number", v, "")
	return 0, false
}

func (r *reader) bool(key string, nullable, def bool) bool {
	if !r.present(key, nullable) {
		return def
	}
	switch v := r.o.get(key).(type) {
	case bool:
		return v
	case string:
		switch strings.ToLower(v) {
		case "true", "t", "yes", "y", "on", "1":
			return true
		case "false", "f", "no", "n", "off", "0":
			return false
		}
		r.add("bool_parsing", r.loc(key), "Input should be a valid boolean, unable to interpret input", v, "")
	case number:
		if f, _ := parseFloat(string(v)); f == 0 || f == 1 {
			return f == 1
		}
		r.add("bool_parsing", r.loc(key), "Input should be a valid boolean, unable to interpret input", v, "")
	default:
		r.add("bool_type", r.loc(key), "Input should be a valid boolean", v, "")
	}
	return def
}

func (r *reader) str(key string, nullable bool) *string {
	if !r.present(key, nullable) {
		return nil
	}
	if s, ok := r.o.get(key).(string); ok {
		return &s
	}
	r.add("string_type", r.loc(key), "Input should be a valid string", r.o.get(key), "")
	return nil
}

// elements returns the elements of a list field.
func (r *reader) elements(loc string, v any) ([]any, bool) {
	switch v := v.(type) {
	case list:
		return v, true
	case ints:
		l := make([]any, len(v))
		for i, n := range v {
			l[i] = number(strconv.FormatInt(n, 10))
		}
		return l, true
	}
	r.add("list_type", loc, "Input should be a valid list", v, "")
	return nil, false
}

// integers reads a list of integers; nil for null or nothing.
func (r *reader) integers(key string, nullable bool) []int64 {
	if !r.present(key, nullable) {
		return nil
	}
	return r.integerList(r.loc(key), r.o.get(key))
}

func (r *reader) integerList(loc string, v any) []int64 {
	if whole, ok := v.(ints); ok {
		return whole
	}
	elements, _ := r.elements(loc, v)
	l := make([]int64, 0, len(elements))
	for i, e := range elements {
		if n, ok := r.integer(fmt.Sprintf("%s.%d", loc, i), e); ok {
			l = append(l, n)
		}
	}
	return l
}

func (r *reader) strings(key string, nullable bool) []string {
	if !r.present(key, nullable) {
		return nil
	}
	elements, _ := r.elements(r.loc(key), r.o.get(key))
	l := make([]string, 0, len(elements))
	for i, e := range elements {
		if s, ok := e.(string); ok {
			l = append(l, s)
			continue
		}
		r.add("string_type", fmt.Sprintf("%s.%d", r.loc(key), i), "Input should be a valid string", e, "")
	}
	return l
}

// stop reads a string, a list of strings, or null.
func (r *reader) stop() []string {
	if !r.present("stop", true) {
		return nil
	}
	v := r.o.get("stop")
	if s, ok := v.(string); ok {
		return []string{s}
	}
	switch v.(type) {
	case list, ints:
		before := len(r.lines)
		l := r.strings("stop", true)
		if len(r.lines) > before { // the other branch of the union comes first
			rest := append([]string(nil), r.lines[before:]...)
			r.lines = r.lines[:before]
			r.add("string_type", r.loc("stop"), "Input should be a valid string", v, "")
			r.lines = append(r.lines, rest...)
		}
		return l
	}
	r.add("string_type", r.loc("stop"), "Input should be a valid string", v, "")
	r.add("list_type", r.loc("stop"), "Input should be a valid list", v, "")
	return nil
}

// floats reads an object of numbers; keys stay strings.
func (r *reader) floats(key string) map[string]float64 {
	if !r.present(key, true) {
		return nil
	}
	o, ok := r.o.get(key).(*object)
	if !ok {
		r.add("dict_type", r.loc(key), "Input should be a valid dictionary", r.o.get(key), "")
		return nil
	}
	m := make(map[string]float64, len(o.keys))
	for _, k := range o.keys {
		if f, ok := r.decimal(r.loc(key)+"."+k, o.get(k)); ok {
			m[k] = f
		}
	}
	return m
}

// child returns a reader of an object field, or nil.
func (r *reader) child(key string, nullable bool) *reader {
	if !r.present(key, nullable) {
		return nil
	}
	o, ok := r.o.get(key).(*object)
	if !ok {
		r.add("model_attributes_type", r.loc(key), "Input should be a valid dictionary or object to extract fields from", r.o.get(key), "")
		return nil
	}
	return &reader{r.schemaErrors, r.loc(key), o}
}

// intOr is *p, or def.
func intOr(p *int64, def int) int {
	if p == nil {
		return def
	}
	return clampInt(*p)
}

func clampInt(n int64) int { return int(max(math.MinInt32, min(math.MaxInt32, n))) }

func floatOr(p *float64, def float64) float64 {
	if p == nil {
		return def
	}
	return *p
}

func strOr(p *string, def string) string {
	if p == nil {
		return def
	}
	return *p
}

// tokens turns ids into tokens; what does not fit one stays out of any
// vocabulary.
func tokens(ids []int64) []vocab.Token {
	t := make([]vocab.Token, len(ids))
	for i, id := range ids {
		t[i] = vocab.Token(max(math.MinInt32, min(math.MaxInt32, id)))
	}
	return t
}
