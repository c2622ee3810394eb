package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"paceline/simulate/vllm"
)

// realDir holds what a real vLLM 0.32 answered with the built-in target.
const realDir = "../engine/vllm/testdata/real"

type realCase struct {
	Method, Path, Request, Response string
	Status                          int
	ContentType                     string            `json:"content_type"`
	Headers                         map[string]string `json:"request_headers"`
}

// realRequests are the requests that are not kept beside their answers.
var realRequests = map[string]string{
	"error_prompt_exact_length":      `{"model":"target","max_tokens":1,"prompt":[203` + strings.Repeat(",203", 2047) + `]}`,
	"error_prompt_too_long":          `{"model":"target","max_tokens":1,"prompt":"` + strings.Repeat(`Hello\n`, 2100) + `"}`,
	"error_prompt_too_long_generate": `{"model":"target","sampling_params":{"max_tokens":1},"token_ids":[203` + strings.Repeat(",203", 2047) + `]}`,
	"error_too_many_prompts":         `{"model":"target","prompt":[[203]` + strings.Repeat(",[203]", 1024) + `]}`,
}

// realDeparts are the cases in which the simulated engine departs from the
// real one, and why.
var realDeparts = map[string]string{
	"score_over_deep_500_detokenize": "needs an over-deep hit; see TestDetokenizingRubbishKills",
	"score_over_deep_nan":            "happens now and then; see TestNaN",
	"completions_stream_aborted":     "only its tail is kept; see TestAbortRequests",
	"metrics":                        "values and labels of the machine; see TestMetrics",
}

// TestReal replays everything that was recorded of the real server: same
// status, same keys in the same order, same types, same tokens and texts, and
// numbers equal up to rounding. Only ids, times and hashes may differ.
func TestReal(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(realDir, "index.json"))
	if err != nil {
		t.Skipf("cannot read the recordings: %v", err)
	}
	var cases map[string]realCase
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	plain := start(t, Options{BlockSize: 32, MaxRunning: 64, Root: "/work/main/simulate/lm/models/target", Garbage: Garbage{NaN: -1}})
	seven, eight, twenty, penalty := .7, .8, 20, 1.05
	defaults := start(t, Options{BlockSize: 32, EOS: tokensOf(0, 3), Defaults: vllm.Defaults{
		Temperature: &seven, TopP: &eight, TopK: &twenty, RepetitionPenalty: &penalty,
	}})
	joined := start(t, Options{BlockSize: 32, JoinLists: true})
	names := make([]string, 0, len(cases))
	for name := range cases {
		names = append(names, name)
	}
	sort.Strings(names) // score_first comes before score_over_deep
	for _, name := range names {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			if why := realDeparts[name]; why != "" {
				t.Skip(why)
			}
			s := plain
			switch {
			case strings.HasPrefix(name, "defaults_"):
				s = defaults
			case name == "completions_stream_prompts2": // the two were lucky
				s = joined
			}
			replay(t, s, name, c)
		})
	}
}

func replay(t *testing.T, s *Server, name string, c realCase) {
	var body []byte
	if c.Request != "" {
		body = read(t, c.Request)
	} else if text, ok := realRequests[name]; ok {
		body = []byte(text)
	}
	headers := map[string]string{"Content-Type": "application/json"}
	for k, v := range c.Headers {
		headers[k] = v
	}
	status, contentType, have := call(t, s, c.Method, c.Path, body, headers)
	if status != c.Status || contentType != c.ContentType {
		t.Errorf("answers %d %q, the real one %d %q", status, contentType, c.Status, c.ContentType)
	}
	want := read(t, c.Response)
	if name == "score_over_deep" {
		have, want = withoutDirt(t, have), withoutDirt(t, want)
	}
	if strings.HasPrefix(contentType, "text/event-stream") {
		compareStreams(t, have, want)
		return
	}
	if diff := compareJSON(have, want); diff != "" {
		t.Errorf("%s\nhave %.1500s\nwant %.1500s", diff, have, want)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(realDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compareStreams(t *testing.T, have, want []byte) {
	a, b := strings.Split(string(have), "\n\n"), strings.Split(string(want), "\n\n")
	if len(a) != len(b) {
		t.Errorf("%d events, the real one sends %d\nhave %s\nwant %s", len(a), len(b), have, want)
		return
	}
	for i := range a {
		x, okX := strings.CutPrefix(a[i], "data: ")
		y, okY := strings.CutPrefix(b[i], "data: ")
		if okX != okY || y == "[DONE]" && x != y {
			t.Errorf("event %d: have %q, want %q", i, a[i], b[i])
			continue
		}
		if y == "[DONE]" || !okY {
			continue
		}
		if diff := compareJSON([]byte(x), []byte(y)); diff != "" {
			t.Errorf("event %d: %s\nhave %s\nwant %s", i, diff, x, y)
		}
	}
}

// withoutDirt drops the first 33 rows of the prompt's log-probabilities.
func withoutDirt(t *testing.T, body []byte) []byte {
	var v map[string]json.RawMessage
	var rows []json.RawMessage
	if json.Unmarshal(body, &v) != nil || json.Unmarshal(v["prompt_logprobs"], &rows) != nil {
		t.Fatalf("no rows in %s", body)
	}
	old := v["prompt_logprobs"]
	fresh, _ := json.Marshal(rows[33:])
	return bytes.Replace(body, old, fresh, 1)
}

var (
	isID   = regexp.MustCompile(`^(cmpl-|chatcmpl-|generate-tokens-|modelperm-)?[0-9a-f]{16}(-\d+)?$`)
	isHash = regexp.MustCompile(`^vllm-0\.32\.0-[0-9a-f]{8}$`)
)

// compareJSON says how two JSON texts differ: keys, their order, types, or
// values. Numbers may differ by rounding, ids and times at all.
func compareJSON(have, want []byte) string {
	a, b := json.NewDecoder(bytes.NewReader(have)), json.NewDecoder(bytes.NewReader(want))
	a.UseNumber()
	b.UseNumber()
	last := ""
	for i := 0; ; i++ {
		x, errX := a.Token()
		y, errY := b.Token()
		if errX != nil || errY != nil {
			if fmt.Sprint(errX) != fmt.Sprint(errY) {
				return fmt.Sprintf("after %q: %v, want %v", last, errX, errY)
			}
			return ""
		}
		if !sameToken(x, y) {
			return fmt.Sprintf("token %d after %q: have %#v, want %#v", i, last, x, y)
		}
		if s, ok := x.(string); ok {
			last = s
		}
	}
}

func sameToken(x, y json.Token) bool {
	if x == y {
		return true
	}
	switch y := y.(type) {
	case json.Number:
		x, ok := x.(json.Number)
		if !ok || strings.ContainsAny(string(y), ".e") != strings.ContainsAny(string(x), ".e") {
			return false
		}
		f, _ := x.Float64()
		g, _ := y.Float64()
		if g > 1.7e9 && f > 1.7e9 { // a time
			return true
		}
		return strings.ContainsAny(string(y), ".e") && math.Abs(f-g) <= 1e-4*(1+math.Abs(g))
	case string:
		x, ok := x.(string)
		return ok && (isID.MatchString(x) && isID.MatchString(y) && strings.Count(x, "-") == strings.Count(y, "-") || isHash.MatchString(x) && isHash.MatchString(y))
	}
	return false
}
