package vllm

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"github.com/valyala/fastjson"

	"paceline/verify"
	"paceline/vocab"
)

func TestPrune(t *testing.T) {
	f := func(body string, rows int, want string) {
		t.Helper()
		if got := string(prune(nil, []byte(body), rows)); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	f(`{}`, 2, `{}`)
	f(`{"a":1,"prompt_token_ids":[1,2,3],"b":[{"prompt_token_ids":[],"prompt_token_ids":null}]}`, 0,
		`{"a":1,"prompt_token_ids":[],"b":[{"prompt_token_ids":[],"prompt_token_ids":null}]}`)
	f(`{"text":"\"prompt_token_ids\":[1,2]","prompt_token_ids":[1,2]}`, 0, `{"text":"\"prompt_token_ids\":[1,2]","prompt_token_ids":[]}`)
	f(`{"prompt_token_ids":[[1],[2]]}`, 0, `{"prompt_token_ids":[[1],[2]]}`)
	f(`{"prompt_token_ids":[1,2`, 0, `{"prompt_token_ids":[1,2`)
	rows := `{"prompt_logprobs":[null,{"1":{"logprob":-1}},{"2":{"logprob":-2},"3":{"logprob":-3}},{"4":{"logprob":-4}}],"prompt_token_ids":[7]}`
	f(rows, 0, `{"prompt_logprobs":[],"prompt_token_ids":[]}`)
	f(rows, 1, `{"prompt_logprobs":[{"4":{"logprob":-4}}],"prompt_token_ids":[]}`)
	f(rows, 2, `{"prompt_logprobs":[{"2":{"logprob":-2},"3":{"logprob":-3}},{"4":{"logprob":-4}}],"prompt_token_ids":[]}`)
	f(rows, 3, strings.Replace(rows, "[7]", "[]", 1)) // the first row has no border before it: the whole list
	f(rows, 4, strings.Replace(rows, "[7]", "[]", 1))
	f(`{"prompt_logprobs":null}`, 3, `{"prompt_logprobs":null}`)
	f(`{"prompt_logprobs":[]}`, 3, `{"prompt_logprobs":[]}`)
	f(`{"prompt_text":null,"prompt_logprobs":[{"1":{"logprob":0}} , {"2":{"logprob":0}}]}`, 1, `{"prompt_text":null,"prompt_logprobs":[{"1":{"logprob":0}} , {"2":{"logprob":0}}]}`)
}

func TestCountRows(t *testing.T) {
	f := func(name string, want int) {
		t.Helper()
		if n, ok := countRows([]byte(real(t, name))); n != want || !ok {
			t.Errorf("%s: %d rows, want %d", name, n, want)
		}
	}
	f("score", 15)
	f("score_first", 34)
	f("score_over_deep", 34)
	if _, ok := countRows([]byte(real(t, "generate_plain"))); ok {
		t.Error("rows where there are none")
	}
}

// The rows of recorded answers, from the end, against a plain reading.
func TestRealRows(t *testing.T) {
	f := func(name string, draft []vocab.Token, top int, want error) {
		t.Helper()
		body := real(t, name)
		v, err := fastjson.ParseBytes(prune(nil, []byte(body), len(draft)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := rows(v.GetArray("prompt_logprobs"), draft, 2048, top)
		if !errors.Is(err, want) {
			t.Fatalf("%s: error %v, want %v", name, err, want)
		}
		if err != nil {
			return
		}
		all := gjson.Get(body, "prompt_logprobs").Array()
		all = all[len(all)-len(draft):]
		for i, r := range got {
			n := 0
			all[i].ForEach(func(key, e gjson.Result) bool {
				if r[n].Token != vocab.Token(key.Int()) || r[n].Logprob != e.Get("logprob").Num {
					t.Errorf("%s: row %d entry %d is %v", name, i, n, r[n])
				}
				n++
				return true
			})
			if n != len(r) {
				t.Errorf("%s: row %d has %d entries, want %d", name, i, len(r), n)
			}
		}
	}
	f("score", ids(1223, 519, 761, 320), 2, nil)
	f("score", ids(1223, 519, 24, 320), 2, wrongRows)
	f("score_rejected", ids(1223, 519, 24, 320), 2, nil)
	f("score_n1", ids(1223, 24), 1, tiedRows) // with one entry asked for nothing tells a tie
	f("score_n1", ids(1223, 24), 2, nil)
	f("score_over_deep", ids(318, 1368, 16, 1232, 30, 870), 1, wrongRows)
	f("generate_plain", ids(1), 1, shortRows)
}

func TestCheckRow(t *testing.T) {
	f := func(top int, want error, logprobs ...float64) {
		t.Helper()
		var r verify.Row
		for i, p := range logprobs {
			r = append(r, verify.Entry{Token: vocab.Token(i), Logprob: p})
		}
		if err := checkRow(r, top); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", logprobs, err, want)
		}
	}
	f(3, nil, -0.1, -3, -4)
	f(3, nil, -1, -1, -4)
	f(3, tiedRows, -2, -2, -2)
	f(3, tiedRows, -9, -2, -2, -2)
	f(2, nil, -9999, -9999, -0.01)
	f(3, wrongRows, 0.5, -1)
	f(3, wrongRows, -0.1, -0.1, -3) // more than 1 together
	f(3, wrongRows, math.NaN(), math.NaN())
}

func TestRealChoices(t *testing.T) {
	f := func(name string, want ...verify.Choice) {
		t.Helper()
		v, err := fastjson.ParseBytes(prune(nil, []byte(real(t, name)), 0))
		if err != nil {
			t.Fatal(err)
		}
		got, err := choices(v, len(want), 2048)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: choice %d is %+v, want %+v", name, i, got[i], want[i])
			}
		}
	}
	word := func(id vocab.Token, text string) verify.Choice {
		return verify.Choice{Token: id, Text: text, HasText: true}
	}
	end := func(id vocab.Token) verify.Choice { return verify.Choice{Token: id, HasText: true, Stop: true} }
	named := func(id vocab.Token, text string) verify.Choice {
		return verify.Choice{Token: id, Text: text, HasText: true, Stop: true, StopReason: id, HasReason: true}
	}
	f("fanout", word(1223, "12"), word(519, " plus"), word(761, " 7"), word(320, " is"))
	// The second begins with the whole prompt: only a caller that knows that
	// the context ended inside a character can tell.
	f("fanout_eos", word(2022, "こんにちは"), word(238, "<|user|>\nSay hello in Japanese.\n<|assistant|>\nこんにちは! 👋"), end(0))
	f("completions_first_byte", word(1463, ""))
	f("completions_forced_eos", end(0))
	f("defaults_forced_eos_3", named(3, ""))
	f("defaults_forced_eos_3_ignore", word(3, "<|system|>"))
}

func TestBadChoices(t *testing.T) {
	f := func(body string) {
		t.Helper()
		v := fastjson.MustParse(body)
		if got, err := choices(v, 2, 100); !errors.Is(err, errAnswer) {
			t.Errorf("%s: %v, %v", body, got, err)
		}
	}
	one := `{"index":0,"text":"a","finish_reason":"length","stop_reason":null,"token_ids":[1]}`
	f(`{}`)
	f(`{"choices":[` + one + `]}`)
	f(`{"choices":[` + one + `,` + one + `]}`)
	f(`{"choices":[` + one + `,` + strings.Replace(one, `"index":0`, `"index":2`, 1) + `]}`)
	f(`{"choices":[` + one + `,` + strings.Replace(one, `"index":0`, `"index":"1"`, 1) + `]}`)
	second := strings.Replace(one, `"index":0`, `"index":1`, 1)
	for _, ids := range []string{`[]`, `null`, `[1,2]`, `[100]`, `[-1]`, `["1"]`, `[1.5]`, `[99999999999]`} {
		f(`{"choices":[` + one + `,` + strings.Replace(second, `[1]`, ids, 1) + `]}`)
	}
	for _, finish := range []string{`"abort"`, `null`, `"tool_calls"`} {
		f(`{"choices":[` + one + `,` + strings.Replace(second, `"length"`, finish, 1) + `]}`)
	}
}

func FuzzPrune(f *testing.F) {
	f.Add(`{"prompt_logprobs":[null,{"1":{"logprob":-1}},{"2":{"logprob":-2}}],"prompt_token_ids":[7]}`, 1)
	f.Add(`{"choices":[{"text":"\"prompt_token_ids\":[","prompt_token_ids":[1,2]}]}`, 0)
	f.Fuzz(func(t *testing.T, body string, n int) {
		if n < 0 || n > 9 || fastjson.Validate(body) != nil || strings.Count(body, `"prompt_logprobs"`) > 1 {
			return
		}
		slim := prune(nil, []byte(body), n)
		want := gjson.Get(body, "prompt_logprobs")
		// Only lists of rows of numbers are what the server sends there.
		if want.IsArray() && strings.ContainsAny(strings.Trim(want.Raw, "[]"), "[]") {
			return
		}
		if err := fastjson.ValidateBytes(slim); err != nil {
			t.Fatalf("%s became %s: %v", body, slim, err)
		}
		got := gjson.GetBytes(slim, "prompt_logprobs")
		a, b := got.Array(), want.Array()
		if n > 0 && want.IsArray() && len(b) >= n && len(a) >= n {
			for i := range n {
				if a[len(a)-1-i].Raw != b[len(b)-1-i].Raw {
					t.Fatalf("row %d of %s is %s", i, body, a[len(a)-1-i].Raw)
				}
			}
		}
	})
}
