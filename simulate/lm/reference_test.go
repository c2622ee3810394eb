package lm

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"paceline/vocab"
)

// reference is testdata/reference.json: what Hugging Face's implementation does
// in float32 (train/reference.py).
type reference struct {
	Vocabulary int
	Tokenize   []struct {
		Text string
		IDs  []vocab.Token
	}
	Chats []struct {
		Messages []Message
		Rendered string
		IDs      []vocab.Token
		Target   continuation
		Draft    continuation
		Agree    []int // 1, 2: the target's token is the draft's first, second choice
	}
}

// continuation is what a model says greedily, up to 96 tokens.
type continuation struct {
	Greedy []vocab.Token
	Text   string
	Gap    []float64       // log-probability of the first choice less that of the second
	Top5   [][5][2]float64 // id and log-probability at the first 12 positions
}

// nearTie is the gap below which another implementation may differ.
const nearTie = .01

func readReference(t testing.TB) *reference {
	t.Helper()
	data, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var r reference
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Tokenize) < 14 || len(r.Chats) < 21 {
		t.Fatalf("only %d texts and %d chats", len(r.Tokenize), len(r.Chats))
	}
	return &r
}

func load(t testing.TB, open func() (*Model, error)) *Model {
	t.Helper()
	m, err := open()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReferenceTokens(t *testing.T) {
	r := readReference(t)
	tokenizer := load(t, Target).Tokenizer()
	if tokenizer.Size() != r.Vocabulary {
		t.Errorf("size %d, want %d", tokenizer.Size(), r.Vocabulary)
	}
	for _, c := range r.Tokenize {
		if got := tokenizer.Encode(c.Text, true); !slices.Equal(got, c.IDs) {
			t.Errorf("%q: got %v, want %v", c.Text, got, c.IDs)
		}
		if got := tokenizer.Decode(c.IDs, false); got != c.Text {
			t.Errorf("%v: got %q, want %q", c.IDs, got, c.Text)
		}
	}
}

func TestReferenceChats(t *testing.T) {
	tokenizer := load(t, Draft).Tokenizer()
	for _, c := range readReference(t).Chats {
		if got := Render(c.Messages, nil, true); got != c.Rendered {
			t.Errorf("got %q, want %q", got, c.Rendered)
		}
		if got := tokenizer.Encode(c.Rendered, true); !slices.Equal(got, c.IDs) {
			t.Errorf("%q: got %v, want %v", c.Rendered, got, c.IDs)
		}
		for _, said := range []continuation{c.Target, c.Draft} {
			if got := tokenizer.Decode(said.Greedy, false); got != said.Text {
				t.Errorf("%v: got %q, want %q", said.Greedy, got, said.Text)
			}
		}
	}
}

// TestReferenceGreedy demands Hugging Face's own tokens: 982 of the target and
// 1,365 of the draft. From a near tie on a chat may differ; none does.
func TestReferenceGreedy(t *testing.T) {
	r := readReference(t)
	models := []struct {
		name string
		open func() (*Model, error)
		want func(i int) continuation
	}{
		{"target", Target, func(i int) continuation { return r.Chats[i].Target }},
		{"draft", Draft, func(i int) continuation { return r.Chats[i].Draft }},
	}
	for _, model := range models {
		t.Run(model.name, func(t *testing.T) {
			m := load(t, model.open)
			tokens, differ, worst := 0, 0, 0.
			for i, chat := range r.Chats {
				want := model.want(i)
				rows := teacherForced(m, chat.IDs, want.Greedy)
				for j, row := range rows {
					got := logSoftmax(row)
					first, second := topTwo(got)
					gap := got[first] - got[second]
					if vocab.Token(first) != want.Greedy[j] {
						if want.Gap[j] >= nearTie {
							t.Errorf("chat %d, position %d: got %d, want %d with gap %v", i, j, first, want.Greedy[j], want.Gap[j])
						}
						differ++
						break
					}
					if math.Abs(gap-want.Gap[j]) > 6e-4 {
						t.Errorf("chat %d, position %d: gap %.4f, want %.3f", i, j, gap, want.Gap[j])
					}
					tokens++
				}
				for j, top := range want.Top5 {
					got := logSoftmax(rows[j])
					for _, pair := range top {
						worst = max(worst, math.Abs(got[int(pair[0])]-pair[1]))
					}
				}
			}
			if worst > 1e-4 {
				t.Errorf("log-probabilities differ by up to %.5f", worst)
			}
			if differ > 0 {
				t.Errorf("%d chats differ from a near tie on", differ)
			}
			t.Logf("%d tokens agree; log-probabilities within %.6f", tokens, worst)
		})
	}
}

// TestReferenceDecode generates as an engine does, one token at a time.
func TestReferenceDecode(t *testing.T) {
	m := load(t, Target)
	for i, chat := range readReference(t).Chats {
		cache := m.NewCache()
		next := chat.IDs
		var got []vocab.Token
		for len(got) < 96 && (len(got) == 0 || got[len(got)-1] != m.Config().EOS[0]) {
			row := m.Forward([]Span{{cache, next, 1}})[0][0]
			first, _ := topTwo(logSoftmax(row))
			next = []vocab.Token{vocab.Token(first)}
			got = append(got, next...)
		}
		if !slices.Equal(got, chat.Target.Greedy) {
			t.Errorf("chat %d: got %v, want %v", i, got, chat.Target.Greedy)
		}
	}
}

// TestReferenceAgreement reads the target's text with the draft.
func TestReferenceAgreement(t *testing.T) {
	m := load(t, Draft)
	for i, chat := range readReference(t).Chats {
		for j, row := range teacherForced(m, chat.IDs, chat.Target.Greedy) {
			first, second := topTwo(logSoftmax(row))
			got := 0
			switch chat.Target.Greedy[j] {
			case vocab.Token(first):
				got = 1
			case vocab.Token(second):
				got = 2
			}
			if got != chat.Agree[j] {
				t.Errorf("chat %d, position %d: got %d, want %d", i, j, got, chat.Agree[j])
			}
		}
	}
}

// teacherForced returns the logits from which each token of said was, or would
// have been, chosen.
func teacherForced(m *Model, prompt, said []vocab.Token) [][]float32 {
	tokens := slices.Concat(prompt, said[:len(said)-1])
	return m.Forward([]Span{{m.NewCache(), tokens, len(said)}})[0]
}

func logSoftmax(logits []float32) []float64 {
	top := float64(slices.Max(logits))
	sum := 0.
	for _, v := range logits {
		sum += math.Exp(float64(v) - top)
	}
	out := make([]float64, len(logits))
	for i, v := range logits {
		out[i] = float64(v) - top - math.Log(sum)
	}
	return out
}

// topTwo returns the indices of the two largest values.
func topTwo(values []float64) (first, second int) {
	first, second = 0, 1
	if values[1] > values[0] {
		first, second = 1, 0
	}
	for i := 2; i < len(values); i++ {
		switch {
		case values[i] > values[first]:
			first, second = i, first
		case values[i] > values[second]:
			second = i
		}
	}
	return first, second
}
