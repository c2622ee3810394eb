package engine

import (
	"testing"

	"github.com/tidwall/gjson"
)

func TestNeutralAt(t *testing.T) {
	f := func(value string, want bool, neutral ...string) {
		t.Helper()
		field := Field{Neutral: neutral}
		if got := field.NeutralAt(gjson.Parse(value)); got != want {
			t.Errorf("%s of %v: %v", value, neutral, got)
		}
	}
	f("null", true)
	f("1", false)
	f("1.0", true, "1")
	f("1e0", true, "0", "1")
	f("1.05", false, "1")
	f(`"1"`, false, "1")
	f("false", true, "false")
	f("true", false, "false")
	f(`"none"`, true, `"none"`)
	f(`{ "type" : "text" }`, true, `{"type":"text"}`)
	f(`{"type":"json_object"}`, false, `{"type":"text"}`)
	f("[ ]", true, "[]")
	f("[1]", false)
}
