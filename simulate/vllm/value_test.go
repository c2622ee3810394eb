package vllm

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse: what encoding/json takes is taken and written back with the same
// meaning, and nothing makes the parser panic.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `[1,2,-3]`, `[1,2.5]`, `[01]`, `[1,]`, `{"a":{"b":[true,false,null]},"a":1}`, `"\u00e9\ud83d\udc4b\ud83d"`,
		`1e5`, `-0`, `[-0]`, `{"a":[-0,-0.0]}`, `-0.5E-3`, `NaN`, `[NaN,-Infinity]`, ` { "x" : "y\n" } `, `{"a"`, `"\x"`, "\"\t\"", `[[1],[2],["x"]]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parse([]byte(text))
		var want any
		if json.Unmarshal([]byte(text), &want) != nil || !utf8.ValidString(text) {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var have any
		if err := json.Unmarshal(dump(nil, v), &have); err != nil {
			t.Fatalf("%q written back as %q: %v", text, dump(nil, v), err)
		}
		a, _ := json.Marshal(have)
		b, _ := json.Marshal(pythonZero(want, text))
		if string(a) != string(b) && !strings.Contains(text, `\ud`) && !strings.Contains(text, `\uD`) {
			t.Fatalf("%q: have %s, want %s", text, a, b)
		}
	})
}

// pythonZero is want with each integer -0 of text as Python reads it: 0.
func pythonZero(want any, text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var literal any
	if d.Decode(&literal) != nil {
		return want
	}
	var walk func(v, literal any) any
	walk = func(v, literal any) any {
		switch l := literal.(type) {
		case json.Number:
			if l == "-0" {
				return 0.0
			}
		case []any:
			for i := range l {
				v.([]any)[i] = walk(v.([]any)[i], l[i])
			}
		case map[string]any:
			for k := range l {
				v.(map[string]any)[k] = walk(v.(map[string]any)[k], l[k])
			}
		}
		return v
	}
	return walk(want, literal)
}

// TestSyntaxErrors has Python's words and places.
func TestSyntaxErrors(t *testing.T) {
	f := func(text, message string, at int) {
		t.Helper()
		_, err := parse([]byte(text))
		if err == nil || err.message != message || err.at != at {
			t.Errorf("%q: %v, want %q at %d", text, err, message, at)
		}
	}
	f(`{"a": `, "Expecting value", 6)
	f(`{"a" 1}`, "Expecting ':' delimiter", 5)
	f(`{"a": 1 "b"`, "Expecting ',' delimiter", 8)
	f(`{a: 1}`, "Expecting property name enclosed in double quotes", 1)
	f(`[1 2]`, "Expecting ',' delimiter", 3)
	f(`"é`, "Unterminated string starting at", 0)
	f(`{} x`, "Extra data", 3)
	f(`é`, "Expecting value", 0)
	f(`["é", x]`, "Expecting value", 6)
	f("\"a\nb\"", "Invalid control character at", 2)
	f(strings.Repeat("[", 1000), "Expecting value", 501)
}

func TestRepr(t *testing.T) {
	for in, want := range map[string]string{"a": `'a'`, "it's": `"it's"`, `"'`: `'"\''`, "a\n\\": `'a\n\\'`, "\x01é": `'\x01é'`} {
		if have := repr(in); have != want {
			t.Errorf("repr(%q) = %s, want %s", in, have, want)
		}
	}
}

func TestPyFloat(t *testing.T) {
	for in, want := range map[float64]string{
		1: "1.0", 0: "0.0", -2.5: "-2.5", 1e16: "1e+16", 1e15: "1000000000000000.0", 5e-5: "5e-05", 1e-4: "0.0001",
		1.961817850054744e-44: "1.961817850054744e-44", math.Inf(1): "inf",
	} {
		if have := pyFloat(in); have != want {
			t.Errorf("pyFloat(%g) = %s, want %s", in, have, want)
		}
	}
	if Marshal(Float(math.NaN())) != nil {
		t.Error("a NaN can be written")
	}
}
