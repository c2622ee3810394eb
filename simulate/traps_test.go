package simulate

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"paceline/simulate/vllm"
	"paceline/vocab"
)

// score is the body of a score call over |C| = at tokens of a prompt of n.
func score(prompt []vocab.Token, more string) string {
	return `{"token_ids":[` + list(prompt) + `],"sampling_params":{"max_tokens":1,"temperature":0,"prompt_logprobs":2,"skip_reading_prefix_cache":false` + more + `}}`
}

const scorePath = "/inference/v1/generate"

// rowOf decodes a row with its keys as they are.
type rawRows struct {
	Rows  []map[string]struct{ Logprob float64 } `json:"prompt_logprobs"`
	Usage struct {
		Details struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

// TestOverDeepV1: the second call of a kind hits the cache past its context.
// The list has full length; rows of cached tokens are rubbish or plausible and
// wrong, and the others are right.
func TestOverDeepV1(t *testing.T) {
	s := start(t, Options{BlockSize: 32, Garbage: Garbage{NaN: -1}})
	prompt := longPrompt(70)
	body := score(prompt, `,"detokenize":false`)
	status, text := post(t, s, scorePath, body)
	clean := decode[rawRows](t, status, text)
	status, text = post(t, s, scorePath, body)
	dirty := decode[rawRows](t, status, text)
	if clean.Usage.Details.Cached != 0 || dirty.Usage.Details.Cached != 64 {
		t.Fatalf("cached %d and %d, want 0 and 64", clean.Usage.Details.Cached, dirty.Usage.Details.Cached)
	}
	if len(dirty.Rows) != 70 || dirty.Rows[0] != nil {
		t.Fatalf("%d rows, want 70 of which the first is null", len(dirty.Rows))
	}
	same, outside, plausible := 0, 0, 0
	for i := 1; i <= 64; i++ {
		if fmt.Sprint(dirty.Rows[i]) == fmt.Sprint(clean.Rows[i]) {
			same++
		}
		id := fmt.Sprint(prompt[i])
		if e, ok := dirty.Rows[i][id]; ok && e.Logprob <= 0 && e.Logprob > -1 {
			plausible++
		}
		for key := range dirty.Rows[i] {
			var n int64
			fmt.Sscan(key, &n)
			if n < 0 || n >= 2048 {
				outside++
				break
			}
		}
	}
	if same > 0 || outside < 10 || plausible < 10 {
		t.Errorf("of 64 rows %d are right, %d name impossible tokens, %d look as if the draft were right", same, outside, plausible)
	}
	for i := 65; i < 70; i++ {
		if fmt.Sprint(dirty.Rows[i]) != fmt.Sprint(clean.Rows[i]) {
			t.Errorf("row %d is %v, want %v", i, dirty.Rows[i], clean.Rows[i])
		}
	}
}

// TestOverDeepV2: there the list is short and aligned at its end.
func TestOverDeepV2(t *testing.T) {
	s := start(t, Options{BlockSize: 32, Runner: V2})
	body := score(longPrompt(70), `,"detokenize":true`)
	status, text := post(t, s, scorePath, body)
	clean := decode[rawRows](t, status, text)
	status, text = post(t, s, scorePath, body)
	short := decode[rawRows](t, status, text)
	if len(clean.Rows) != 70 || len(short.Rows) != 1+5 {
		t.Fatalf("%d and %d rows, want 70 and 6", len(clean.Rows), len(short.Rows))
	}
	for i := 1; i < 6; i++ {
		if fmt.Sprint(short.Rows[i]) != fmt.Sprint(clean.Rows[64+i]) {
			t.Errorf("row %d is %v, want %v", i, short.Rows[i], clean.Rows[64+i])
		}
	}
}

// TestNaN: rows that hold a NaN cannot be written.
func TestNaN(t *testing.T) {
	s := start(t, Options{BlockSize: 32, Garbage: Garbage{NaN: 1}})
	body := score(longPrompt(70), `,"detokenize":false`)
	if status, text := post(t, s, scorePath, body); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	status, text := post(t, s, scorePath, body)
	if want := string(read(t, "score_over_deep_nan.resp.json")); status != 400 || text != want {
		t.Errorf("%d %s, want 400 %s", status, text, want)
	}
}

// TestDetokenizingRubbishKills: the real server dies when it has to detokenise
// an id from uninitialised memory; so does this one.
func TestDetokenizingRubbishKills(t *testing.T) {
	s := start(t, Options{BlockSize: 32, Garbage: Garbage{Plausible: -1, NaN: -1}})
	body := score(longPrompt(70), `,"detokenize":true`)
	if status, text := post(t, s, scorePath, body); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	want := string(read(t, "score_over_deep_500_detokenize.resp.json"))
	for _, path := range []string{scorePath, scorePath, "/v1/completions"} {
		if status, text := post(t, s, path, body); status != 500 || text != want {
			t.Errorf("%s: %d %s, want 500 %s", path, status, text, want)
		}
	}
	if status, _, _ := call(t, s, http.MethodGet, "/health", nil, nil); status != 503 {
		t.Errorf("health of a dead engine is %d, want 503", status)
	}
}

// TestScaleOutOff: without the flag the endpoints do not exist.
func TestScaleOutOff(t *testing.T) {
	s := start(t, Options{NoScaleOut: true})
	for _, path := range []string{scorePath, "/v1/chat/completions/render", "/v1/completions/render", "/v1/chat/completions/derender", "/inference/v1/abort_requests"} {
		if status, text := post(t, s, path, "{}"); status != 404 || text != `{"detail":"Not Found"}` {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}

// TestPromptLogprobIDs: on V2 given ids are scored, as an array of NumPy's;
// nothing comes of it when the cache was hit past the first row.
func TestPromptLogprobIDs(t *testing.T) {
	s := start(t, Options{BlockSize: 32, Runner: V2})
	prompt := longPrompt(70)
	more := `,"prompt_logprobs":null,"prompt_logprob_start":66,"prompt_logprob_token_ids":[[5,6,7],[8,-1,9],[10,11,12]]`
	call := func(body string) *string {
		t.Helper()
		status, text := post(t, s, scorePath, body)
		var a struct {
			Scores *string `json:"prompt_token_id_logprobs"`
		}
		if err := json.Unmarshal([]byte(text), &a); err != nil || status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		return a.Scores
	}
	for range 2 { // cached or not: the hit ends at 64
		encoded := call(score(prompt, more))
		if encoded == nil {
			t.Fatal("no scores")
		}
		npy, err := base64.StdEncoding.DecodeString(*encoded)
		if err != nil || string(npy[:6]) != "\x93NUMPY" || !strings.Contains(string(npy), "'shape': (3, 3)") {
			t.Fatalf("%q", npy)
		}
		data := npy[10+int(binary.LittleEndian.Uint16(npy[8:])):]
		at := func(i int) float64 {
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		}
		if len(data) != 36 || len(npy)%4 != 0 || !math.IsInf(at(4), -1) || at(0) >= 0 || math.IsInf(at(8), 0) {
			t.Errorf("scores %v … %v … %v of %d bytes", at(0), at(4), at(8), len(data))
		}
	}
	deep := strings.Replace(more, `"prompt_logprob_start":66,"prompt_logprob_token_ids":[`, `"prompt_logprob_start":63,"prompt_logprob_token_ids":[[1],[2],[3],`, 1)
	if scores := call(score(prompt, deep)); scores != nil {
		t.Error("scores in spite of a hit past the first row")
	}
}

// TestDefaults: the server's own sampling parameters hold where a client gives
// none, but for /inference/v1/generate.
func TestDefaults(t *testing.T) {
	zero, penalty := 0.0, 2.0
	plain := start(t, Options{Seed: 3})
	greedy := start(t, Options{Defaults: vllm.Defaults{Temperature: &zero}})
	strict := start(t, Options{Defaults: vllm.Defaults{Temperature: &zero, RepetitionPenalty: &penalty}})
	prompt := references(t)[6].IDs
	complete := func(s *Server, more string) string {
		t.Helper()
		status, text := post(t, s, "/v1/completions", `{"prompt":[`+list(prompt)+`],"max_tokens":24,"return_token_ids":true`+more+`}`)
		return list(decode[answer](t, status, text).Choices[0].TokenIDs)
	}
	want := complete(plain, `,"temperature":0`)
	if have := complete(greedy, ""); have != want {
		t.Errorf("default temperature 0 writes %s, want %s", have, want)
	}
	if have := complete(greedy, `,"temperature":null`); have != want {
		t.Errorf("null is not the default: %s", have)
	}
	if complete(strict, "") == want {
		t.Error("a default repetition penalty of 2 changes nothing")
	}
	if have := complete(strict, `,"repetition_penalty":1`); have != want {
		t.Errorf("an explicit penalty of 1 writes %s, want %s", have, want)
	}
	if have, other := complete(strict, ""), complete(plain, `,"temperature":0,"repetition_penalty":2`); have != other {
		t.Errorf("default penalty writes %s, the same given by the client %s", have, other)
	}
	status, text := post(t, strict, scorePath, `{"token_ids":[`+list(prompt)+`],"sampling_params":{"max_tokens":24,"temperature":0}}`)
	if have := list(decode[answer](t, status, text).Choices[0].TokenIDs); have != want {
		t.Errorf("/inference/v1/generate takes the default penalty: %s, want %s", have, want)
	}
}

// TestSeeds: a seed repeats an answer. On V1 the noise follows the request, so
// a fan-out draws the same everywhere; on V2 it follows the position, so the
// choices of a fan-out are those of a plain answer.
func TestSeeds(t *testing.T) {
	for _, runner := range []Runner{V1, V2} {
		s := start(t, Options{Runner: runner})
		prompt := references(t)[7].IDs
		const settings = `,"temperature":1.6,"seed":11,"return_token_ids":true,"ignore_eos":true}`
		complete := func(prompts string, n int) [][]vocab.Token {
			t.Helper()
			status, text := post(t, s, "/v1/completions", fmt.Sprintf(`{"prompt":[%s],"max_tokens":%d%s`, prompts, n, settings))
			var out [][]vocab.Token
			for _, c := range decode[answer](t, status, text).Choices {
				out = append(out, c.TokenIDs)
			}
			return out
		}
		plain := complete(list(prompt), 12)[0]
		if again := complete(list(prompt), 12)[0]; list(again) != list(plain) {
			t.Errorf("V%d: the same seed writes %v and %v", runner+1, plain, again)
		}
		var prompts []string
		for k := range plain {
			prompts = append(prompts, "["+list(append(append([]vocab.Token(nil), prompt...), plain[:k]...))+"]")
		}
		equal := 0
		for k, choice := range complete(strings.Join(prompts, ","), 1) {
			if choice[0] == plain[k] {
				equal++
			}
		}
		if runner == V2 && equal != len(plain) || runner == V1 && equal == len(plain) {
			t.Errorf("V%d: %d of %d choices of a seeded fan-out are the plain answer's", runner+1, equal, len(plain))
		}
	}
}
