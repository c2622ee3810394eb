package plan

import (
	"errors"
	"testing"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/proxy/wire"
	"paceline/verify"
	"paceline/vocab"
)

// table is a dialect with a row of every kind; the real ones are the engines'.
var table = engine.Fields{
	"model": {Rule: engine.Handled}, "messages": {Rule: engine.Handled}, "prompt": {Rule: engine.Handled},
	"stream": {Rule: engine.Handled}, "stream_options": {Rule: engine.Handled}, "max_tokens": {Rule: engine.Handled},
	"temperature": {Rule: engine.Carried}, "user": {Rule: engine.Harmless},
	"logit_bias":            {Rule: engine.Sampled, Neutral: []string{"{}"}},
	"n":                     {Rule: engine.Unsupported, Reason: "n_gt_1", Neutral: []string{"1"}},
	"response_format":       {Rule: engine.Unsupported, Reason: "structured_output", Neutral: []string{`{"type":"text"}`}},
	"tools":                 {Rule: engine.Unsupported, Reason: "tools_unparsed", Neutral: []string{"[]"}},
	"presence_penalty":      {Rule: engine.Unsupported, Reason: "penalties", Neutral: []string{"0"}},
	"logprobs":              {Rule: engine.Unsupported, Reason: "logprobs", Neutral: []string{"false"}},
	"seed":                  {Rule: engine.Unsupported, Reason: "seed"},
	"thinking_token_budget": {Rule: engine.Unsupported, Reason: "thinking_budget"},
	"bad_words":             {Rule: engine.Unsupported, Reason: "bad_words", Neutral: []string{"[]"}},
}

// effective is greedy unless a temperature is given; "unknown" as a user makes
// the defaults unknown.
func effective(_ *engine.Capabilities, _ bool, body gjson.Result) (engine.Settings, error) {
	t := body.Get("temperature")
	if t.Type == gjson.JSON {
		return engine.Settings{}, &engine.FieldError{Field: "temperature", Why: "not a number"}
	}
	if t.Type == gjson.String {
		return engine.Settings{}, wire.Invalid("temperature", "temperature must be a number")
	}
	return engine.Settings{Temperature: t.Num, Known: body.Get("user").Str != "unknown", MaxTokens: 9}, nil
}

var both = []engine.ModeStatus{{Mode: "score", OK: true}, {Mode: "fan-out", OK: true}}

// ready is an input of which every part allows speculation.
func ready(chat bool, body string) Input {
	r, err := wire.Decode(chat, []byte(body))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return Input{
		Request: r, Draft: DraftReady, Policy: Policy{Rounds: true}, Fields: table, Effective: effective,
		Target: engine.Capabilities{TokenPrompts: true, ChatTokens: true, Detokenize: true, EOS: []vocab.Token{0}, Modes: both},
	}
}

const (
	chat = `{"model":"m","messages":[{"role":"user","content":"hi"}]`
	text = `{"model":"m","prompt":"hi"`
)

// reasons collects what the tests reached, for TestReasons.
var reached = map[Reason]bool{}

func TestPassThrough(t *testing.T) {
	f := func(want Reason, in Input) {
		t.Helper()
		d, err := Decide(in)
		if err != nil || d.Reason != want || d.Speculate() {
			t.Errorf("%+v, %v, want %q", d, err, want)
		}
		reached[d.Reason] = true
	}
	with := func(change func(in *Input)) Input {
		in := ready(true, chat+`}`)
		change(&in)
		return in
	}
	f(Endpoint, with(func(in *Input) { in.Request = nil }))
	f(ClientOff, with(func(in *Input) { in.Off = true }))
	f(ClientOff, with(func(in *Input) { in.Policy.Off = true }))
	f(Metered, with(func(in *Input) { in.Policy.Rounds = false }))
	f(NoDraft, with(func(in *Input) { in.Draft = DraftNone }))
	f(DraftDown, with(func(in *Input) { in.Draft = DraftFailing }))
	f(VocabMismatch, with(func(in *Input) { in.Draft = DraftMismatch }))

	f(EngineCannotVerify, with(func(in *Input) { in.Target = engine.Capabilities{} }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.TokenPrompts = false }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.Detokenize = false }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.ChatTokens = false }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.Modes = nil }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.Modes, in.Policy.Verify = both[:1], OnlyFanOut }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.Modes, in.Policy.Verify = both[1:], OnlyScoring }))
	f(EngineCannotVerify, with(func(in *Input) { in.Target.Modes, in.Target.EOS = both[:1], nil }))

	sampled := ready(true, chat+`,"temperature":0.7}`)
	sampled.Target.Modes = both[:1]
	f(EngineCannotVerify, sampled)
	unknown := ready(true, chat+`,"user":"unknown"}`)
	unknown.Target.Modes = both[:1]
	f(UnknownDefaults, unknown)

	f(ToolsUnparsed, with(func(in *Input) { in.Opaque = true }))
	f(Multimodal, ready(true, `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`))
	f(NGt1, ready(false, `{"prompt":["a","b"]}`))
	f(NGt1, ready(true, chat+`,"n":2}`))
	f(StructuredOutput, ready(true, chat+`,"response_format":{"type":"json_object"}}`))
	f(ToolsUnparsed, ready(true, chat+`,"tools":[{}]}`))
	f(Penalties, ready(true, chat+`,"presence_penalty":0.1}`))
	f(Logprobs, ready(true, chat+`,"logprobs":true}`))
	f(Seed, ready(true, chat+`,"seed":1,"temperature":1}`))
	f(Seed, ready(true, chat+`,"seed":1,"user":"unknown"}`))
	f(ThinkingBudget, ready(true, chat+`,"thinking_token_budget":5}`))
	f(BadWords, ready(true, chat+`,"bad_words":["a"]}`))
	f(UnknownField, ready(true, chat+`,"new_field":1}`))
	f(UnknownField, ready(true, chat+`,"new_field":null}`))
	f(UnknownField, ready(true, chat+`,"stream":true,"stream_options":{"continuous_usage_stats":true}}`))

	f(UnknownField, ready(true, chat+`,"temperature":[1]}`))

	f(TooLong, with(func(in *Input) { in.Policy.MaxPrompt = 5 }))
	ids := ready(false, `{"prompt":[1,2,3]}`)
	ids.Policy.MaxPrompt = 2
	f(TooLong, ids)
	f(Overload, with(func(in *Input) { in.Overloaded = true }))
	f(BreakEven, with(func(in *Input) { in.Losing = true }))

	// The first in order wins: the fields before the settings, in their order.
	f(NGt1, ready(true, chat+`,"n":2,"new_field":1}`))
	f(UnknownField, ready(true, chat+`,"new_field":1,"n":2}`))
}

func TestSpeculate(t *testing.T) {
	f := func(want verify.Mode, in Input) {
		t.Helper()
		d, err := Decide(in)
		if err != nil || !d.Speculate() || d.Verify != want || d.Settings.MaxTokens != 9 {
			t.Errorf("%+v, %v, want %v", d, err, want)
		}
	}
	with := func(body string, change func(in *Input)) Input {
		in := ready(true, body)
		change(&in)
		return in
	}
	f(verify.Score, ready(true, chat+`}`))
	f(verify.Score, ready(false, text+`}`))
	f(verify.Score, ready(false, `{"prompt":["a"]}`))
	f(verify.Score, ready(false, `{"prompt":[[1,2]]}`))
	f(verify.Score, ready(true, chat+`,"temperature":0,"seed":1,"user":"u"}`))
	f(verify.Score, ready(true, chat+`,"n":1.0,"response_format":{ "type": "text" },"tools":[ ],"presence_penalty":0e5,"logprobs":false,"bad_words":null}`))
	f(verify.Score, ready(true, chat+`,"logit_bias":{}}`))
	f(verify.FanOut, ready(true, chat+`,"logit_bias":{"5":-100}}`))
	f(verify.FanOut, ready(true, chat+`,"temperature":0.7}`))
	f(verify.FanOut, ready(true, chat+`,"user":"unknown"}`))
	f(verify.FanOut, with(chat+`}`, func(in *Input) { in.Policy.Verify = OnlyFanOut }))
	f(verify.FanOut, with(chat+`}`, func(in *Input) { in.Target.EOS = nil }))
	f(verify.FanOut, with(chat+`}`, func(in *Input) { in.Target.Modes = both[1:] }))
	f(verify.Score, with(chat+`}`, func(in *Input) { in.Policy.Verify = OnlyScoring }))
	f(verify.Score, with(chat+`}`, func(in *Input) { in.Target.ChatTokens, in.Target.RenderChat = false, true }))
	f(verify.Score, with(chat+`}`, func(in *Input) { in.Policy.MaxPrompt = 1000 }))
	opaque := ready(false, text+`}`)
	opaque.Opaque = true
	f(verify.Score, opaque)
}

func TestClientsError(t *testing.T) {
	_, err := Decide(ready(true, chat+`,"temperature":"hot"}`))
	var e *wire.Error
	if !errors.As(err, &e) || e.Param != "temperature" {
		t.Errorf("%v", err)
	}
}

// TestReasons keeps the list as it is written in the documentation, and every
// reason reachable. It runs after TestPassThrough.
func TestReasons(t *testing.T) {
	want := []Reason{
		"no_draft", "draft_down", "vocab_mismatch", "engine_cannot_verify", "structured_output", "tools_unparsed", "penalties", "logprobs",
		"n_gt_1", "seed", "unknown_field", "unknown_defaults", "metered", "multimodal", "thinking_budget", "bad_words", "too_long", "break_even",
		"overload", "client_off", "endpoint",
	}
	known := map[Reason]bool{}
	for _, r := range Reasons {
		known[r] = true
	}
	for _, r := range want {
		if !known[r] {
			t.Errorf("%s is not listed", r)
		}
		if !reached[r] {
			t.Errorf("%s was not reached", r)
		}
	}
	if len(Reasons) != len(want) || len(known) != len(want) {
		t.Errorf("%d reasons, %d different, want %d", len(Reasons), len(known), len(want))
	}
}

func BenchmarkDecide(b *testing.B) {
	in := ready(true, chat+`,"temperature":0,"max_tokens":20,"stream":true,"stream_options":{"include_usage":true}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decide(in); err != nil {
			b.Fatal(err)
		}
	}
}
