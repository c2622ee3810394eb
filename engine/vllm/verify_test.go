package vllm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

// begun returns a generation whose prompt is known.
func begun(f *fake, caps engine.Capabilities, r Request, prompt []vocab.Token) *Generation {
	if r.Body == nil {
		r.Body = []byte(`{"messages":[]}`)
	}
	g := f.endpoint(caps).Generate(r)
	g.learn(prompt)
	return g
}

var question = ids(1, 203, 487, 320, 954, 519, 761, 35, 203, 2, 203) // "What is 12 plus 7?"

var greedy = engine.Settings{Known: true, SkipSpecial: true}

// known makes an endpoint know the ids of the recorded answers.
func known(g *Generation) *Generation {
	for _, id := range ids(1223, 519, 761, 320, 24, 1113) {
		g.e.specials.Load().set(id, ordinary)
	}
	return g
}

func TestFanOut(t *testing.T) {
	fk := newFake(t)
	fk.on(pathCompletions, says(200, real(t, "fanout")))
	g := begun(fk, recorded(), Request{Settings: engine.Settings{MinTokens: 3}, Header: [][2]string{{"X-Request-Id", "r"}},
		Body: []byte(`{"messages":[],"temperature":0.9,"top_k":null,"seed":5,"stop":["x"],"max_tokens":50,"cache_salt":"s","skip_special_tokens":false}`)}, question)
	pass, err := g.Verify(t.Context(), nil, ids(1223, 519, 761))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"model":"target","temperature":0.9,"cache_salt":"s","skip_special_tokens":false,"max_tokens":1,"stream":false,"return_token_ids":true,"min_tokens":1,"prompt":` +
		strings.ReplaceAll(request(t, "fanout").Get("prompt").Raw, " ", "") + `}`
	if got := fk.asked(pathCompletions)[0].Raw; got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	if fk.calls[0].id != "r" {
		t.Error("the request's id was not sent along")
	}
	if got := fmt.Sprint(pass.Mode, len(pass.Choices), pass.Cached, pass.Computed, pass.Calls, pass.Fallback); got != "fan-out 4 0 -1 1" {
		t.Errorf("pass %s", got)
	}
	v, err := verify.Judge(pass, ids(1223, 519, 761), nil)
	if err != nil || v.Accepted != 3 || v.Tokens[3].Token != 320 || v.Tokens[3].Text != " is" {
		t.Errorf("%+v, %v", v, err)
	}
}

// min_tokens is sent as what is left of it, and nothing once it is reached.
func TestFanOutGrows(t *testing.T) {
	fk := newFake(t)
	fk.on(pathCompletions, func(body gjson.Result) (int, string) {
		var out []string
		for i := range body.Get("prompt").Array() {
			out = append(out, fmt.Sprintf(`{"index":%d,"text":"","finish_reason":"length","stop_reason":null,"token_ids":[7],"prompt_token_ids":%s}`, i, body.Get(fmt.Sprint("prompt.", i)).Raw))
		}
		return 200, `{"choices":[` + strings.Join(out, ",") + `]}`
	})
	g := begun(fk, recorded(), Request{Settings: engine.Settings{MinTokens: 2}}, ids(1, 2))
	f := func(after, draft []vocab.Token, want string, wantMin int64) {
		t.Helper()
		if _, err := g.Verify(t.Context(), after, draft); err != nil {
			t.Fatal(err)
		}
		all := fk.asked(pathCompletions)
		last := all[len(all)-1]
		if last.Get("prompt").Raw != want || last.Get("min_tokens").Int() != wantMin {
			t.Errorf("after %v: sent %s, min_tokens %s", after, last.Get("prompt").Raw, last.Get("min_tokens").Raw)
		}
	}
	f(nil, nil, "[[1,2]]", 1)
	f(ids(3), ids(4, 5), "[[1,2,3],[1,2,3,4],[1,2,3,4,5]]", 1)
	f(ids(3, 4, 9), ids(8), "[[1,2,3,4,9],[1,2,3,4,9,8]]", 0)
	f(ids(3), nil, "[[1,2,3]]", 1)
}

// An id that no engine knows is not sent; what was verified before it counts.
func TestBadDraft(t *testing.T) {
	for _, bad := range []vocab.Token{-1, 2048, 1 << 30} {
		fk := newFake(t)
		fk.on(pathCompletions, says(200, real(t, "fanout")))
		g := begun(fk, recorded(), Request{Mode: verify.Score, Settings: greedy}, question)
		draft := ids(1223, 519, 761, int(bad), 5, 6)
		pass, err := g.Verify(t.Context(), nil, draft)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fk.asked(pathCompletions)[0].Raw, fmt.Sprint(bad)) {
			t.Errorf("%d was sent", bad)
		}
		v, err := verify.Judge(pass, draft, nil)
		if err != nil || v.Accepted != 3 || v.Judged != 4 || v.Tokens[3].Token != 320 || len(v.Tokens) != 4 {
			t.Errorf("%+v, %v", v, err)
		}
	}
}

func TestScore(t *testing.T) {
	fk := newFake(t)
	fk.on(pathGenerate, says(200, real(t, "score")))
	g := known(begun(fk, recorded(), Request{Mode: verify.Score, Settings: engine.Settings{Known: true, StopTokenIDs: ids(9), MaxTokens: 50},
		Body: []byte(`{"messages":[],"temperature":0,"stop_token_ids":[9],"cache_salt":"s","top_p":0.5}`)}, question))
	draft := ids(1223, 519, 761, 320)
	pass, err := g.Verify(t.Context(), nil, draft)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"model":"target","token_ids":[1,203,487,320,954,519,761,35,203,2,203,1223,519,761,320],"stream":false,"cache_salt":"s","sampling_params":` +
		`{"n":1,"max_tokens":1,"min_tokens":0,"temperature":0,"top_p":1,"top_k":0,"min_p":0,"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,` +
		`"detokenize":false,"skip_reading_prefix_cache":false,"prompt_logprobs":3,"stop_token_ids":[9]}}`
	if got := fk.asked(pathGenerate)[0].Raw; got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	if got := fmt.Sprint(pass.Mode, len(pass.Rows), pass.Cached, pass.Computed, pass.Calls, pass.Fallback, pass.Bonus); got != "score 4 0 15 1{1113  false false 0 false}" {
		t.Errorf("pass %s", got)
	}
	v, err := verify.Judge(pass, draft, ids(0))
	if err != nil || v.Accepted != 4 || v.Tokens[4].Token != 1113 {
		t.Errorf("%+v, %v", v, err)
	}
}

// cached rewrites how deep a recorded score hit the cache.
func cached(answer string, n string) string {
	return strings.Replace(answer, `"cached_tokens":0`, `"cached_tokens":`+n, 1)
}

// Whenever rows cannot be trusted, fan-out answers in the same call.
func TestFallback(t *testing.T) {
	draft := ids(1223, 519, 761)
	score := real(t, "score") // for C of 12 tokens below: question and 1223
	f := func(name, answer string, status int, wantFallback string) {
		t.Helper()
		fk := newFake(t)
		fk.on(pathGenerate, says(status, answer))
		fk.on(pathCompletions, says(200, real(t, "fanout")))
		g := known(begun(fk, recorded(), Request{Mode: verify.Score, Settings: greedy}, question))
		if wantFallback == "" {
			pass, err := g.Verify(t.Context(), ids(1223), ids(519, 761, 320))
			if err != nil || pass.Mode != verify.Score || pass.Calls != 1 || pass.Fallback != "" {
				t.Errorf("%s: %+v, %v", name, pass, err)
			}
			return
		}
		pass, err := g.Verify(t.Context(), nil, draft)
		if err != nil || pass.Mode != verify.FanOut || pass.Calls != 2 || pass.Fallback != wantFallback || len(pass.Choices) != 4 {
			t.Errorf("%s: %+v, %v", name, pass, err)
		}
	}
	f("just deep enough", cached(score, "11"), 200, "")
	short := func(rows int) string { // a V2 runner sends null and the computed rows
		v := gjson.Parse(score).Get("prompt_logprobs").Array()
		raw := "[null"
		for _, r := range v[len(v)-rows:] {
			raw += "," + r.Raw
		}
		return strings.Replace(score, gjson.Parse(score).Get("prompt_logprobs").Raw, raw+"]", 1)
	}
	f("short list with enough rows, depth unknown", strings.Replace(short(3), `"cached_tokens":0`, `"cached_tokens":null`, 1), 200, "")
	// The rows of these are of four drafted tokens; asked for three.
	three := strings.Replace(score, `,{"320":{"logprob":-1.7762025890988298e-05,"rank":1,"decoded_token":null},"638":{"logprob":-13.569314002990723,"rank":2,"decoded_token":null}}]`, "]", 1)
	f("over-deep", cached(three, "11"), 200, "over_deep")
	f("far over-deep", cached(three, "13"), 200, "over_deep")
	f("depth unknown, whole list", strings.Replace(three, `"cached_tokens":0`, `"cached_tokens":null`, 1), 200, "over_deep")
	f("no details", strings.Replace(three, `"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":null,"multimodal_tokens":null}`, `"prompt_tokens_details":null`, 1), 200, "over_deep")
	f("short list", cached(short(2), "13"), 200, "short_rows")
	f("no list", strings.Replace(three, gjson.Parse(three).Get("prompt_logprobs").Raw, "null", 1), 200, "short_rows")
	f("NaN", real(t, "score_over_deep_nan"), 400, "nan_rows")
	f("rows of another draft", score, 200, "wrong_rows")
	f("tie beyond the list", strings.NewReplacer(
		`"1223":{"logprob":-0.008725610561668873,"rank":1,"decoded_token":null},"24":{"logprob":-6.870943069458008,`,
		`"1223":{"logprob":-1.5,"rank":1,"decoded_token":null},"25":{"logprob":-1.5,"rank":1,"decoded_token":null},"24":{"logprob":-1.5,`).Replace(three), 200, "tied_rows")
}

// A repeated score may have met its own first half in the cache.
func TestRepeatedScore(t *testing.T) {
	fk := newFake(t)
	fk.on(pathGenerate, says(200, real(t, "score")))
	fk.on(pathCompletions, says(200, real(t, "fanout")))
	g := known(begun(fk, recorded(), Request{Mode: verify.Score, Settings: greedy}, question[:10]))
	w := g.e.take()
	w.answer = []byte(real(t, "score"))
	if _, err := g.readScore(w, 11, ids(1223, 519, 761, 320), false); err != nil {
		t.Errorf("error %v", err)
	}
	if _, err := g.readScore(w, 11, ids(1223, 519, 761, 320), true); !errors.Is(err, overDeep) {
		t.Errorf("error %v", err)
	}
}

// Score is used where rows say all, and only there.
func TestRowsJudge(t *testing.T) {
	f := func(want bool, mode verify.Mode, s engine.Settings, body string, after int, change func(*engine.Capabilities)) {
		t.Helper()
		fk := newFake(t)
		caps := recorded()
		if change != nil {
			change(&caps)
		}
		g := begun(fk, caps, Request{Chat: true, Mode: mode, Settings: s, Body: []byte(body)}, question)
		if got := g.rowsJudge(after); got != want {
			t.Errorf("%s %+v after %d: %v", body, s, after, got)
		}
	}
	f(true, verify.Score, engine.Settings{Known: true}, `{}`, 0, nil)
	f(true, verify.Score, engine.Settings{Known: true, MinTokens: 3}, `{"logit_bias":null}`, 3, nil)
	f(false, verify.FanOut, engine.Settings{Known: true}, `{}`, 0, nil)
	f(false, verify.Score, engine.Settings{}, `{}`, 0, nil)
	f(false, verify.Score, engine.Settings{Known: true, Temperature: 1}, `{}`, 0, nil)
	f(false, verify.Score, engine.Settings{Known: true, MinTokens: 3}, `{}`, 2, nil)
	f(false, verify.Score, engine.Settings{Known: true}, `{"logit_bias":{"5":1}}`, 0, nil)
	f(false, verify.Score, engine.Settings{Known: true}, `{"allowed_token_ids":[5]}`, 0, nil)
	f(false, verify.Score, engine.Settings{Known: true}, `{}`, 0, func(c *engine.Capabilities) { c.Modes[0].OK = false })
}

// A row whose maximum is an end that nobody knew of is not used, and the next
// generation knows.
func TestUnknownEnd(t *testing.T) {
	fk := newFake(t)
	answer := real(t, "score") // the fourth row's maximum is 320: here it ends answers
	fk.on(pathGenerate, says(200, answer))
	fk.on(pathDetokenize, says(200, `{"prompt":"<|stop|>"}`))
	e := fk.endpoint(recorded())
	draft := ids(1223, 519, 761, 320)
	for round := range 2 {
		settings := greedy
		settings.EOS = e.Capabilities().EOS
		g := e.Generate(Request{Mode: verify.Score, Settings: settings, Body: []byte(`{}`)})
		g.learn(question)
		fk.on(pathCompletions, func(body gjson.Result) (int, string) {
			if body.Get("allowed_token_ids").Exists() {
				id, finish := body.Get("allowed_token_ids.0").Int(), "length"
				if id == 320 && !body.Get("ignore_eos").Bool() {
					finish = "stop"
				}
				text := map[bool]string{true: "x"}[id != 320]
				return 200, fmt.Sprintf(`{"choices":[{"index":0,"text":%q,"finish_reason":%q,"stop_reason":null,"token_ids":[%d]}]}`, text, finish, id)
			}
			var out []string
			for i := range body.Get("prompt").Array() {
				out = append(out, fmt.Sprintf(`{"index":%d,"text":"","finish_reason":"length","stop_reason":null,"token_ids":[7]}`, i))
			}
			return 200, `{"choices":[` + strings.Join(out, ",") + `]}`
		})
		pass, err := g.Verify(t.Context(), nil, draft)
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"unknown_end", ""}[round]; pass.Fallback != want {
			t.Errorf("round %d: fallback %q, want %q", round, pass.Fallback, want)
		}
	}
	if got := fmt.Sprint(e.Capabilities().EOS); got != "[0 320]" {
		t.Errorf("ends %s", got)
	}
	g := e.Generate(Request{Mode: verify.Score, Settings: engine.Settings{Known: true, IgnoreEOS: true}, Body: []byte(`{}`)})
	g.learn(question)
	if pass, err := g.Verify(t.Context(), nil, draft); err != nil || pass.Fallback != "" {
		t.Errorf("%+v, %v", pass, err)
	}
}

func TestVerifyErrors(t *testing.T) {
	fk := newFake(t)
	fk.on(pathCompletions, says(200, `{"choices":[]}`))
	fk.on(pathGenerate, says(500, `{"error":{"message":"EngineDead"}}`))
	g := begun(fk, recorded(), Request{Settings: greedy}, question)
	if _, err := g.Verify(t.Context(), nil, ids(5)); !errors.Is(err, errAnswer) {
		t.Errorf("error %v", err)
	}
	if _, err := g.Verify(t.Context(), ids(4096), ids(5)); err == nil {
		t.Error("an id beyond the vocabulary was sent")
	}
	if _, err := g.Verify(t.Context(), make([]vocab.Token, 2030), ids(1, 2, 3, 4, 5, 6, 7)); err == nil {
		t.Error("more than the context was sent")
	}
	g = begun(fk, recorded(), Request{Mode: verify.Score, Settings: greedy}, question)
	var se *engine.StatusError
	if _, err := g.Verify(t.Context(), nil, ids(5)); !errors.As(err, &se) || se.Status != 500 {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Verify(ctx, nil, ids(5)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := fk.endpoint(recorded()).Generate(Request{Body: []byte(`{}`)}).Verify(t.Context(), nil, ids(5)); err == nil {
		t.Error("a round without a prompt")
	}
}
