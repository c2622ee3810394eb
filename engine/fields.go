package engine

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"
)

// NeutralAt tells whether the field has no effect at a value: null, or one of
// its neutral values, numbers by value and everything else by its compact JSON.
func (f *Field) NeutralAt(v gjson.Result) bool {
	switch v.Type {
	case gjson.Null:
		return true
	case gjson.Number:
		return slices.ContainsFunc(f.Neutral, func(n string) bool {
			w := gjson.Parse(n)
			return w.Type == gjson.Number && w.Num == v.Num
		})
	case gjson.JSON:
		var b bytes.Buffer
		if len(f.Neutral) == 0 || json.Compact(&b, []byte(v.Raw)) != nil {
			return false
		}
		return slices.Contains(f.Neutral, b.String())
	}
	return slices.Contains(f.Neutral, v.Raw)
}

// FieldError is a field that cannot be understood here. The target may
// understand it (vLLM takes numbers in strings), or refuse it in its own words:
// such a request is to be passed through, not refused.
type FieldError struct{ Field, Why string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Why }
