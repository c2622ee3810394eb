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
// of a character, 12 without any text, and words.
func tokenizer(list []gjson.Result, skip bool) string {
	var s string
	for _, v := range list {
		switch id := v.Int(); {
		case id < 4 && skip:
		case id < 4:
			s += fmt.Sprintf("<|%d|>", id)
		case id == 10 || id == 11:
			s += "\uFFFD"
		case id == 12:
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
	fk.on(pathDerender, func(body gjson.Result) (int, string) {
		var out []string
		for i, c := range body.Get("generate_responses.0.choices").Array() {
			text := strings.TrimRight(tokenizer(c.Get("token_ids").Array(), true), "\uFFFD")
			out = append(out, fmt.Sprintf(`{"index":%d,"text":%s}`, i, quoted(text)))
		}
		return 200, `{"choices":[` + strings.Join(out, ",") + `]}`
	})
	fk.on(pathCompletions, func(body gjson.Result) (int, string) {
		one := body.Get("allowed_token_ids")
		text := strings.TrimRight(tokenizer(one.Array(), true), "\uFFFD")
		return 200, `{"choices":[{"index":0,"finish_reason":"length","token_ids":` + one.Raw + `,"text":` + string(quoted(text)) + `}]}`
	})
}

func TestDecode(t *testing.T) {
	for _, scaleOut := range []bool{true, false} {
		fk := newFake(t)
		onText(fk)
		caps := recorded()
		caps.ScaleOut = scaleOut
		e := fk.endpoint(caps)
		f := func(skip bool, tokens []vocab.Token, want string) {
			t.Helper()
			g := e.Generate(Request{Body: []byte(`{}`), Settings: engine.Settings{SkipSpecial: skip}})
			if got, err := g.Decode(t.Context(), tokens); err != nil || got != want {
				t.Errorf("%v: %q, %v; want %q", tokens, got, err, want)
			}
		}
		f(false, ids(5, 1, 6, 0), " w5<|1|> w6<|0|>")
		f(true, ids(5, 1, 6, 0), " w5 w6")
		f(true, ids(0), "")
		f(true, nil, "")
		f(true, ids(5, 10, 12), " w5\uFFFD")
		f(true, ids(10, 11, 2, 2, 7), "\uFFFD\uFFFD w7")
		asked := len(fk.calls)
		f(true, ids(5, 1, 6, 0, 10), " w5 w6\uFFFD")
		if n := len(fk.calls) - asked; n != 1 {
			t.Errorf("%d calls for ids that were seen before", n)
		}
		g := e.Generate(Request{Body: []byte(`{}`)})
		if _, err := g.Decode(t.Context(), ids(5, 2048)); err == nil {
			t.Error("an id beyond the vocabulary was decoded")
		}
	}
}

// Thousands of ids are looked up in a few calls.
func TestLearnMany(t *testing.T) {
	fk := newFake(t)
	onText(fk)
	e := fk.endpoint(recorded())
	var all []vocab.Token
	for id := range 2048 {
		all = append(all, vocab.Token(id))
	}
	if err := e.learn(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if n := len(fk.asked(pathDerender)); n != 2 {
		t.Errorf("%d calls", n)
	}
	for id, want := range map[vocab.Token]kind{0: special, 3: special, 4: ordinary, 10: ordinary, 12: ordinary, 2047: ordinary} {
		if got := e.specials.Load().get(id); got != want {
			t.Errorf("token %d is of kind %d, want %d", id, got, want)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	f := func(derender, detokenize string) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathDerender, says(200, derender))
		fk.on(pathDetokenize, says(200, detokenize))
		g := fk.endpoint(recorded()).Generate(Request{Body: []byte(`{}`), Settings: engine.Settings{SkipSpecial: true}})
		if text, err := g.Decode(t.Context(), ids(5)); !errors.Is(err, errAnswer) {
			t.Errorf("%s %s: %q, %v", derender, detokenize, text, err)
		}
	}
	good := `{"choices":[{"index":0,"text":"a"}]}`
	f(`{"choices":[]}`, `{"prompt":"a"}`)
	f(`{"choices":[{"index":0}]}`, `{"prompt":"a"}`)
	f(`{"choices":[{"index":1,"text":"a"}]}`, `{"prompt":"a"}`)
	f(good, `{}`)
	f(good, `{"prompt":1}`)
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
