package vllm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/vocab"
)

// tokenizer is a vocabulary for fakes: special tokens 0–3, the parts 10 and 11
// of a character (11 with markup before it), 12 without any text, 13 a tag that
// is not special, and words.
func tokenizer(list []gjson.Result, skip bool) string {
	var s string
	for _, v := range list {
		switch id := v.Int(); {
		case id < 4 && skip:
		case id < 4:
			s += fmt.Sprintf("<|%d|>", id)
		case id == 10:
			s += "\uFFFD"
		case id == 11:
			s += "[\uFFFD"
		case id == 12:
		case id == 13:
			s += "<think>"
		default:
			s += fmt.Sprintf(" w%d", id)
		}
	}
	return s
}

// onText gives a fake the calls of a tokenizer.
func onText(fk *fake) {
	fk.on(pathDetokenize, func(body gjson.Result) (int, string) {
		return 200, `{"prompt":` + string(quoted(tokenizer(body.Get("tokens").Array(), false))) + `}`
	})
	fk.on(pathCompletions, func(body gjson.Result) (int, string) {
		one := body.Get("allowed_token_ids")
		text := tokenizer(one.Array(), body.Get("skip_special_tokens").Bool())
		if strings.HasSuffix(text, "\uFFFD") {
			text = ""
		}
		return 200, `{"choices":[{"index":0,"finish_reason":"length","token_ids":` + one.Raw + `,"text":` + string(quoted(text)) + `}]}`
	})
}

func TestDecode(t *testing.T) {
	fk := newFake(t)
	onText(fk)
	e := fk.endpoint(recorded())
	f := func(skip bool, tokens []vocab.Token, want string, wantCalls, wantSteps int) {
		t.Helper()
		calls, steps := len(fk.calls), len(fk.asked(pathCompletions))
		g := e.Generate(Request{Body: []byte(`{}`), Settings: engine.Settings{SkipSpecial: skip}})
		if got, err := g.Decode(t.Context(), tokens); err != nil || got != want {
			t.Errorf("%v: %q, %v; want %q", tokens, got, err, want)
		}
		if calls, steps = len(fk.calls)-calls, len(fk.asked(pathCompletions))-steps; calls != wantCalls || steps != wantSteps {
			t.Errorf("%v: %d calls, %d of them steps", tokens, calls, steps)
		}
	}
	f(false, ids(5, 1, 6, 0), " w5<|1|> w6<|0|>", 1, 0)
	f(true, nil, "", 0, 0)
	f(true, ids(5, 6, 10, 12), " w5 w6\uFFFD", 1, 0)
	f(true, ids(5, 1, 7, 0), " w5 w7", 1+3+2+1, 2) // 5 is known; 1, 7 and 0 are looked at, two of them by a step
	f(true, ids(0), "", 0, 0)
	f(true, ids(13, 5), "<think> w5", 1+1+1, 1)
	f(true, ids(11, 2, 2, 8), "[\uFFFD w8", 1+3+1+1, 1)
	f(true, ids(5, 1, 6, 0, 13, 2, 11), " w5 w6<think>[\uFFFD", 1, 0)
	g := e.Generate(Request{Body: []byte(`{}`)})
	if _, err := g.Decode(t.Context(), ids(5, 2048)); err == nil {
		t.Error("an id beyond the vocabulary was decoded")
	}
}

// What streams and fan-outs show is not asked about.
func TestNote(t *testing.T) {
	fk := newFake(t)
	fk.on(pathChat, says(200, real(t, "chat_stream")))
	fk.on(pathCompletions, says(200, real(t, "fanout")))
	g := fk.endpoint(recorded()).Generate(Request{Chat: true, Body: []byte(`{}`), Settings: greedy})
	s, err := g.Stream(t.Context(), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	told(t, s)
	s.Close()
	if _, err := g.Verify(t.Context(), nil, ids(1223, 519, 761)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.e.specials.Load().unknown(ids(2022, 5, 1463, 244, 238, 0, 1223, 519, 761, 320))); got != "[1463 244 0]" {
		t.Errorf("unknown: %s", got)
	}
}

func TestDecodeErrors(t *testing.T) {
	f := func(detokenize, completions string) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathDetokenize, says(200, detokenize))
		fk.on(pathCompletions, says(200, completions))
		g := fk.endpoint(recorded()).Generate(Request{Body: []byte(`{}`), Settings: engine.Settings{SkipSpecial: true}})
		if text, err := g.Decode(t.Context(), ids(5)); !errors.Is(err, errAnswer) {
			t.Errorf("%s: %q, %v", detokenize, text, err)
		}
	}
	f(`{}`, ``)
	f(`{"prompt":1}`, ``)
	f(`{"prompt":"<a>"}`, `{"choices":[]}`)
	f(`{"prompt":"<a>"}`, `{"choices":[{"index":0,"finish_reason":"length","token_ids":[6],"text":""}]}`) // not what was forced
}

func TestComplete(t *testing.T) {
	fk := newFake(t)
	e := fk.endpoint(recorded())
	answer := func(ids, logprobs, finish string) {
		fk.on(pathCompletions, says(200, `{"choices":[{"index":0,"text":"x","logprobs":{"token_logprobs":`+logprobs+`},"finish_reason":"`+finish+`","token_ids":`+ids+`,"prompt_token_ids":[1,2]}]}`))
	}
	answer("[5,6,7]", "[0,-0.6931472,-9999]", "length")
	c, err := e.Complete(t.Context(), ids(1, 2), 3)
	if err != nil || fmt.Sprint(c.Tokens) != "[5 6 7]" || fmt.Sprint(c.Confidence) != "[1 0.5 1e-45]" {
		t.Errorf("%+v, %v", c, err)
	}
	want := `{"model":"target","prompt":[1,2],"max_tokens":3,"temperature":0,"top_p":1,"top_k":0,"min_p":0,"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,"stream":false,"return_token_ids":true,"logprobs":1}`
	if got := fk.calls[0].body.Raw; got != want {
		t.Errorf("sent %s", got)
	}
	good := func(ids, logprobs, finish, wantTokens, wantConfidence string) {
		t.Helper()
		answer(ids, logprobs, finish)
		if c, err := e.Complete(t.Context(), []vocab.Token{1, 2}, 3); err != nil || fmt.Sprint(c.Tokens) != wantTokens || fmt.Sprint(c.Confidence) != wantConfidence {
			t.Errorf("%s: %+v, %v", ids, c, err)
		}
	}
	good("[5,0]", "[-0.6931472,0]", "stop", "[5 0]", "[0.5 1]")
	good("[5,6,7]", "null", "length", "[5 6 7]", "[]")
	good("[5,6,7]", "[0,0]", "length", "[5 6 7]", "[]")
	good("[5,6,7]", "[0,null,0]", "length", "[5 6 7]", "[]")
	good("[5,6,7]", "[0,3,0]", "length", "[5 6 7]", "[]")
	bad := func(ids, finish string) {
		t.Helper()
		answer(ids, "null", finish)
		if c, err := e.Complete(t.Context(), []vocab.Token{1, 2}, 3); !errors.Is(err, errAnswer) {
			t.Errorf("%s: %+v, %v", ids, c, err)
		}
	}
	bad("null", "length")
	bad("[]", "stop")
	bad("[5,6,7,8]", "length")
	bad("[5,6]", "length")
	bad("[5,6,2048]", "length")
	bad("[5,6,-7]", "length")
	bad("[5,6,7.5]", "length")
	bad(`["5",6,7]`, "length")
	bad("[5,6,7]", "abort")
	n := len(fk.calls)
	if c, err := e.Complete(t.Context(), make([]vocab.Token, 2048), 3); err != nil || len(c.Tokens) != 0 || len(fk.calls) != n {
		t.Errorf("a full context: %+v, %v", c, err)
	}
}
