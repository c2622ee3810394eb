package vllm

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"paceline/engine"
)

func TestEffective(t *testing.T) {
	caps := recorded()
	server := json.RawMessage(strings.Replace(gjson.Get(real(t, "defaults_chat_render"), "sampling_params").Raw, `"max_tokens":2042,`, "", 1)) // temperature .7, repetition_penalty 1.05, …
	shaped := recorded()
	shaped.Defaults = &server
	unknown := recorded()
	unknown.Defaults = nil
	limited := recorded()
	limited.MaxTokens = 50

	f := func(caps engine.Capabilities, chat bool, body string, want engine.Settings) {
		t.Helper()
		fields := `"messages":[]`
		if !chat {
			fields = `"prompt":"x"`
			if want.MaxTokens == 0 {
				want.MaxTokens = 16
			}
		}
		if body != "" {
			fields += "," + body
		}
		want.EOS = ids(0)
		want.SkipSpecial = !strings.Contains(body, `"skip_special_tokens":false`)
		got, err := Effective(&caps, chat, gjson.Parse("{"+fields+"}"))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", body, got, err, want)
		}
	}
	type S = engine.Settings
	f(caps, true, ``, S{Temperature: 1, Known: true})
	f(caps, true, `"temperature":0`, S{Known: true})
	f(caps, true, `"temperature":null,"top_p":0.5,"max_tokens":null`, S{Temperature: 1, Known: true})
	f(caps, true, `"temperature":0.000009`, S{Known: true})
	f(caps, true, `"temperature":0.005`, S{Temperature: 0.01, Known: true})
	f(caps, true, `"temperature":0,"repetition_penalty":1.2`, S{Known: true}) // the table makes that one fan-out
	f(shaped, true, ``, S{Temperature: 0.7})
	f(shaped, true, `"temperature":0`, S{}) // the server's penalty stays
	f(shaped, true, `"temperature":0,"repetition_penalty":1`, S{Known: true})
	f(unknown, true, ``, S{Temperature: 1})
	f(unknown, true, `"temperature":0`, S{})
	f(unknown, true, `"temperature":0,"repetition_penalty":1.0`, S{Known: true})
	f(unknown, true, `"temperature":0.5,"repetition_penalty":1`, S{Temperature: 0.5})
	f(unknown, true, `"temperature":0.5,"repetition_penalty":1,"top_p":1,"top_k":0,"min_p":0`, S{Temperature: 0.5, Known: true})

	f(caps, true, `"max_tokens":5,"max_completion_tokens":7`, S{Temperature: 1, Known: true, MaxTokens: 7})
	f(caps, false, `"max_completion_tokens":7`, S{Temperature: 1, Known: true})
	f(caps, false, `"max_tokens":7,"min_tokens":3`, S{Temperature: 1, Known: true, MaxTokens: 7, MinTokens: 3})
	f(limited, true, ``, S{Temperature: 1, Known: true, MaxTokens: 50})
	f(limited, true, `"max_tokens":60`, S{Temperature: 1, Known: true, MaxTokens: 50})
	f(limited, true, `"max_tokens":40`, S{Temperature: 1, Known: true, MaxTokens: 40})

	f(caps, true, `"stop":"a"`, S{Temperature: 1, Known: true, Stop: []string{"a"}})
	f(caps, true, `"stop":["a","\u00e9"],"include_stop_str_in_output":true`, S{Temperature: 1, Known: true, Stop: []string{"a", "é"}, IncludeStop: true})
	f(caps, true, `"stop":[],"stop_token_ids":[7,2047],"ignore_eos":true`, S{Temperature: 1, Known: true, StopTokenIDs: ids(7, 2047), IgnoreEOS: true})
	f(caps, true, `"skip_special_tokens":false`, S{Temperature: 1, Known: true})
	own := json.RawMessage(strings.Replace(gjson.Get(real(t, "defaults_chat_render_stop_ids"), "sampling_params").Raw, "2042", "300", 1))
	stops := recorded()
	stops.Defaults = &own // with a stop token id and a default of max_tokens
	f(stops, true, `"stop_token_ids":[5],"repetition_penalty":1`, S{Temperature: 0.7, Known: true, StopTokenIDs: ids(5, 7), MaxTokens: 300})
	f(stops, true, `"max_tokens":500,"repetition_penalty":1`, S{Temperature: 0.7, Known: true, StopTokenIDs: ids(7), MaxTokens: 500})
}

func TestEffectiveErrors(t *testing.T) {
	caps := recorded()
	f := func(chat bool, body, want string) {
		t.Helper()
		var fe *engine.FieldError
		if got, err := Effective(&caps, chat, gjson.Parse(body)); !errors.As(err, &fe) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %s", body, got, err, want)
		}
	}
	for _, field := range []string{`"temperature":"0"`, `"max_tokens":"5"`, `"max_tokens":1.5`, `"max_tokens":0`, `"max_tokens":-1`, `"min_tokens":-1`,
		`"stop":5`, `"stop":[5]`, `"stop":[""]`, `"stop":""`, `"stop_token_ids":5`, `"stop_token_ids":["5"]`, `"stop_token_ids":[2048]`, `"stop_token_ids":[-1]`,
		`"ignore_eos":1`, `"skip_special_tokens":"false"`, `"include_stop_str_in_output":0`, `"repetition_penalty":"1"`, `"top_p":{}`} {
		name, _, _ := strings.Cut(field[1:], `"`)
		f(true, `{"messages":[],`+field+`}`, name)
	}
	f(true, `{"messages":[],"temperature":0,"top_k":5,"temperature":1}`, "temperature: given twice")
	f(true, `{"messages":[],"temperature":0,"temp\u0065rature":1}`, "temperature: given twice")
	f(true, `{"messages":[],"max_tokens":5,"min_tokens":6}`, "min_tokens")
	f(true, `{}`, "messages")
	f(true, `{"messages":"x"}`, "messages")
	f(true, `[]`, "object")
	f(false, `{}`, "prompt")
	f(false, `{"prompt":5}`, "prompt")
	f(false, `{"prompt":["a","b"]}`, "prompt")
	f(false, `{"prompt":["a"]}`, "prompt")
	f(false, `{"prompt":[[1,2]]}`, "prompt")
	f(false, `{"prompt":[1,2048]}`, "prompt")
	odd := json.RawMessage(`{"presence_penalty":0.5}`)
	caps.Defaults = &odd
	f(true, `{"messages":[]}`, "presence_penalty")
}

// Every field that vLLM 0.32.0 has is in the tables: nothing is let through by
// accident, nothing passes through for want of a row.
func TestFieldsAreKnown(t *testing.T) {
	b, err := os.ReadFile("testdata/fields-0.32.0.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		kind, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || kind == "#" {
			continue
		}
		n++
		table := map[string]engine.Fields{"chat": ChatFields, "completion": CompletionFields}[kind]
		row, known := table[name]
		switch {
		case !known:
			t.Errorf("%s: %s has no row", kind, name)
		case row.Rule == engine.Unsupported && row.Reason == "":
			t.Errorf("%s: %s has no reason", kind, name)
		}
	}
	if n != 68+55 {
		t.Errorf("%d fields, want those of vLLM 0.32.0", n)
	}
	for _, table := range []engine.Fields{ChatFields, CompletionFields} {
		for name, row := range table {
			if (row.Rule == engine.Unsupported) != (row.Reason != "") {
				t.Errorf("%s: rule %d with reason %q", name, row.Rule, row.Reason)
			}
			for _, n := range row.Neutral {
				if !json.Valid([]byte(n)) {
					t.Errorf("%s: neutral value %s", name, n)
				}
			}
		}
	}
}

// What changes tokens and is exact in some mode reaches the engine in every
// round; what is the proxy's never does.
func TestFieldsReachRounds(t *testing.T) {
	values := map[string]string{"logit_bias": `{"5":1}`, "stop_token_ids": `[5]`, "allowed_token_ids": `[5]`, "repetition_penalty": "1.2", "cache_salt": `"s"`, "session_id": `"s"`,
		"ignore_eos": "true", "skip_special_tokens": "false", "include_stop_str_in_output": "true"}
	// Carried fields that shape the prompt, or name round 0.
	prompt := []string{"messages", "prompt", "reasoning_effort", "add_generation_prompt", "continue_final_message", "documents", "chat_template",
		"chat_template_kwargs", "truncate_prompt_tokens", "truncation_side", "add_special_tokens", "request_id"}
	for chat, table := range map[bool]engine.Fields{true: ChatFields, false: CompletionFields} {
		for name, row := range table {
			value := values[name]
			if value == "" {
				value = "1"
			}
			fk := newFake(t)
			g := fk.endpoint(recorded()).Generate(Request{Chat: chat, Body: []byte(`{"` + name + `":` + value + `}`)})
			first, later := len(g.first) > 0, len(g.later) > 0
			shapes := false
			for _, p := range prompt {
				shapes = shapes || p == name
			}
			switch row.Rule {
			case engine.Handled:
				if first || later {
					t.Errorf("%s: handled here, but sent", name)
				}
			case engine.Carried, engine.Sampled:
				if !first || later == shapes {
					t.Errorf("%s: in round 0 %v, in later rounds %v", name, first, later)
				}
			}
			if g.rowsBlind != (row.Rule == engine.Sampled) {
				t.Errorf("%s: rows are blind %v", name, g.rowsBlind)
			}
			g.e.c.Close()
		}
	}
}
