package simulate

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"paceline/simulate/sampling"
	"paceline/vocab"

	"gonum.org/v1/gonum/stat/distuv"
)

// chatReference is a chat whose greedy answer the reference implementation
// wrote.
type chatReference struct {
	Messages []json.RawMessage
	Rendered string
	IDs      []vocab.Token
	Target   struct {
		Greedy []vocab.Token
		Text   string
		Gap    []float64
	}
}

func references(t testing.TB) []chatReference {
	t.Helper()
	text, err := os.ReadFile("lm/testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Chats []chatReference }
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r.Chats
}

// decode unmarshals an answer.
func decode[T any](t testing.TB, status int, answer string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(answer), &v); err != nil || status != 200 {
		t.Fatalf("%d %s: %v", status, answer, err)
	}
	return v
}

func list(ids []vocab.Token) string { return string(vocab.AppendIDs(nil, ids)) }

// answer is what the tests read of all kinds of answers.
type answer struct {
	Choices []struct {
		Index      int
		Text       string
		Message    struct{ Content string }
		TokenIDs   []vocab.Token `json:"token_ids"`
		Finish     string        `json:"finish_reason"`
		StopReason any           `json:"stop_reason"`
	}
	PromptTokenIDs []vocab.Token `json:"prompt_token_ids"`
	PromptLogprobs []map[string]struct {
		Logprob float64
		Rank    int64
	} `json:"prompt_logprobs"`
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Details    *struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

// TestReference: every chat of the reference gets its greedy answer through
// HTTP, rendered by the server, streamed and not, in ids and in text.
func TestReference(t *testing.T) {
	s := start(t, Options{})
	for i, c := range references(t) {
		messages, _ := json.Marshal(c.Messages)
		n := len(c.Target.Greedy)
		for j, gap := range c.Target.Gap {
			if gap < .01 { // another implementation may differ from here on
				n = min(n, j)
			}
		}
		if n == 0 {
			continue
		}
		body := fmt.Sprintf(`{"messages":%s,"temperature":0,"max_tokens":%d,"return_token_ids":true,"skip_special_tokens":false`, messages, n)
		status, text := post(t, s, "/v1/chat/completions", body+"}")
		a := decode[answer](t, status, text)
		if !slices.Equal(a.PromptTokenIDs, c.IDs) || !slices.Equal(a.Choices[0].TokenIDs, c.Target.Greedy[:n]) {
			t.Errorf("chat %d: prompt %v\nanswer %v\n  want %v", i, a.PromptTokenIDs, a.Choices[0].TokenIDs, c.Target.Greedy[:n])
		}
		if n == len(c.Target.Greedy) && a.Choices[0].Message.Content != strings.TrimSuffix(c.Target.Text, "<|end|>") {
			t.Errorf("chat %d: text %q, want %q", i, a.Choices[0].Message.Content, c.Target.Text)
		}
		status, text = post(t, s, "/v1/chat/completions", body+`,"stream":true}`)
		ids, streamed := readStream(t, status, text)
		if !slices.Equal(ids, c.Target.Greedy[:n]) || streamed != a.Choices[0].Message.Content {
			t.Errorf("chat %d: streamed %v %q", i, ids, streamed)
		}
	}
}

// readStream puts the chunks of a stream together.
func readStream(t testing.TB, status int, text string) (ids []vocab.Token, content string) {
	t.Helper()
	if status != 200 || !strings.HasSuffix(text, "data: [DONE]\n\n") {
		t.Fatalf("%d %s", status, text)
	}
	for _, event := range strings.Split(strings.TrimSuffix(text, "data: [DONE]\n\n"), "\n\n") {
		var chunk struct {
			Choices []struct {
				Text     string
				Delta    struct{ Content string }
				TokenIDs []vocab.Token `json:"token_ids"`
			}
		}
		if event == "" {
			continue
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(event, "data: ")), &chunk); err != nil {
			t.Fatalf("%v in %q", err, event)
		}
		for _, c := range chunk.Choices {
			ids = append(ids, c.TokenIDs...)
			content += c.Text + c.Delta.Content
		}
	}
	return ids, content
}

// TestVerification: after every prefix of an answer, the choices of a fan-out
// and the rows of a score call say what plain decoding wrote there, whatever
// the block size and whatever the cache holds.
func TestVerification(t *testing.T) {
	for _, block := range []int{1, 16, 32} {
		s := start(t, Options{BlockSize: block, Garbage: Garbage{NaN: -1}})
		for _, c := range references(t)[:5] {
			answer := c.Target.Greedy
			for at := 0; at+4 < min(60, len(answer)); at += 7 {
				context := append(slices.Clone(c.IDs), answer[:at]...)
				verify(t, s, context, answer[at:at+4], answer[at+4])
			}
		}
	}
}

// verify checks one round with a draft that is right.
func verify(t *testing.T, s *Server, context, draft []vocab.Token, bonus vocab.Token) {
	t.Helper()
	prompts := make([]string, len(draft)+1)
	for k := range prompts {
		prompts[k] = "[" + list(append(slices.Clone(context), draft[:k]...)) + "]"
	}
	status, text := post(t, s, "/v1/completions", `{"prompt":[`+strings.Join(prompts, ",")+`],"max_tokens":1,"temperature":0,"return_token_ids":true}`)
	for k, choice := range decode[answer](t, status, text).Choices {
		if want := append(slices.Clone(draft), bonus)[k]; choice.Index != k || choice.TokenIDs[0] != want {
			t.Errorf("fan-out after %d tokens: choice %d is %v, want %d", len(context), k, choice.TokenIDs, want)
		}
	}
	status, text = post(t, s, "/inference/v1/generate", `{"token_ids":[`+list(append(slices.Clone(context), draft...))+
		`],"sampling_params":{"max_tokens":1,"temperature":0,"prompt_logprobs":2,"skip_reading_prefix_cache":false,"detokenize":false}}`)
	a := decode[answer](t, status, text)
	if a.Choices[0].TokenIDs[0] != bonus {
		t.Errorf("score after %d tokens: bonus %v, want %d", len(context), a.Choices[0].TokenIDs, bonus)
	}
	if a.Usage.Details.Cached > len(context)-1 {
		return // over-deep: the rows are garbage
	}
	rows := a.PromptLogprobs[len(a.PromptLogprobs)-len(draft):]
	for i, row := range rows {
		if e := row[fmt.Sprint(draft[i])]; e.Rank != 1 || e.Logprob > 0 {
			t.Errorf("score after %d tokens: row %d is %v, want %d first", len(context), i, row, draft[i])
		}
	}
}

// TestDraws: what a fan-out draws at a temperature has the exact distribution
// of the settings, and the memo changes nothing about it but the time.
func TestDraws(t *testing.T) {
	s := start(t, Options{Memo: 64})
	prompt := references(t)[3].IDs
	const draws, batch = 20000, 1000
	counts := map[vocab.Token]float64{}
	one := "[" + list(prompt) + "]"
	body := `{"prompt":[` + one + strings.Repeat(","+one, batch-1) + `],"max_tokens":1,"temperature":1.3,"top_p":0.97,"top_k":40,"return_token_ids":true}`
	for range draws / batch {
		status, text := post(t, s, "/v1/completions", body)
		for _, c := range decode[answer](t, status, text).Choices {
			counts[c.TokenIDs[0]]++
		}
	}
	m := s.o.Model
	logits := m.Forward(spanOf(m, prompt))[0][0]
	p := sampling.Neutral()
	p.Temperature, p.TopP, p.TopK = 1.3, .97, 40
	chi, cells, rest := 0.0, 0, draws*1.0
	restSeen := draws * 1.0
	for id, q := range sampling.Distribution(logits, p, prompt, nil) {
		if want := q * draws; want >= 5 {
			chi += math.Pow(counts[vocab.Token(id)]-want, 2) / want
			cells++
			rest -= want
			restSeen -= counts[vocab.Token(id)]
		} else if q == 0 && counts[vocab.Token(id)] > 0 {
			t.Errorf("drew %d, which has no probability", id)
		}
	}
	if rest > 5 {
		chi += (restSeen - rest) * (restSeen - rest) / rest
		cells++
	}
	if limit := (distuv.ChiSquared{K: float64(cells - 1)}).Quantile(.9999); chi > limit {
		t.Errorf("χ² = %.1f over %d cells, more than %.1f", chi, cells, limit)
	}
}
