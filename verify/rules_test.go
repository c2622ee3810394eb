package verify

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"paceline/vocab"
)

func choices(ids ...vocab.Token) []Choice {
	var cs []Choice
	for _, id := range ids {
		cs = append(cs, Choice{Token: id, Stop: id == 0})
	}
	return cs
}

func TestMatch(t *testing.T) {
	f := func(target []vocab.Token, draft []vocab.Token, want []vocab.Token, accepted, judged int) {
		t.Helper()
		v, err := Match(choices(target...), draft)
		if err != nil {
			t.Errorf("Match(%v, %v): %v", target, draft, err)
			return
		}
		if d := cmp.Diff(Verdict{Tokens: choices(want...), Accepted: accepted, Judged: judged}, v); d != "" {
			t.Errorf("Match(%v, %v) (-want +got):\n%s", target, draft, d)
		}
	}
	T := func(ids ...vocab.Token) []vocab.Token { return ids }
	f(T(7), nil, T(7), 0, 0)                 // nothing drafted: one token of the target's
	f(T(7, 8, 9), T(7, 8), T(7, 8, 9), 2, 2) // all accepted, bonus
	f(T(7, 5, 9), T(7, 8), T(7, 5), 1, 2)    // corrected; what stands behind was not judged
	f(T(5, 8, 9), T(7, 8), T(5), 0, 1)       // first rejected: 8 agrees by chance and does not count
	f(T(7, 0, 9), T(7, 0), T(7, 0), 2, 2)    // an accepted end: no bonus
	f(T(0, 8, 9), T(7, 8), T(0), 0, 1)       // a correction that ends
	f(T(7, 8, 0), T(7, 8), T(7, 8, 0), 2, 2) // a bonus that ends
	f(T(0, 0, 0, 0), T(0, 0, 0), T(0), 1, 1) // nothing after the first end
	f(T(1, 1, 1, 1), T(1, 1, 1), T(1, 1, 1, 1), 3, 3)
}

func TestJudgeRefusesEvidenceThatDoesNotFit(t *testing.T) {
	for name, p := range map[string]Pass{
		"no choices":     {Mode: FanOut},
		"a choice short": {Mode: FanOut, Choices: choices(1, 2)},
		"no rows":        {Mode: Score},
		"a row short":    {Mode: Score, Rows: []Row{{{1, 0}}}},
		"empty row":      {Mode: Score, Rows: []Row{{{1, 0}}, {}}},
		"not a number":   {Mode: Score, Rows: []Row{{{1, 0}}, {{2, math.NaN()}}}},
		"impossible":     {Mode: Score, Rows: []Row{{{1, 0}}, {{2, 3.5}}}},
	} {
		if v, err := Judge(p, []vocab.Token{1, 2}, nil); err == nil {
			t.Errorf("%s: judged as %v", name, v)
		}
	}
}

func TestGreedyTakesTheLowestIDAmongEqualMaxima(t *testing.T) {
	f := func(r Row, want vocab.Token) {
		t.Helper()
		if got, ok := r.Argmax(); !ok || got != want {
			t.Errorf("Argmax(%v) = %v, %v, want %v", r, got, ok, want)
		}
	}
	f(Row{{9, -1}, {4, -1}, {6, -1}}, 4)
	f(Row{{9, -1}, {4, -2}}, 9)
	f(Row{{4, -2}, {9, -1}}, 9)
	f(Row{{3, math.Inf(-1)}, {2, math.Inf(-1)}}, 2)
	f(Row{{3, 1e-7}}, 3) // rounding above zero
}

// A dumb oracle: the target's tokens one at a time. Whatever the draft, the
// verdict is a prefix of what the oracle writes, at least one token of it, and
// both modes say the same.
func TestRulesAgreeWithOneTokenAtATime(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		const size = 5
		draft := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) vocab.Token {
			return vocab.Token(rapid.IntRange(0, size-1).Draw(r, "id"))
		}), 0, 8).Draw(r, "draft")
		rows := make([]Row, len(draft)+1)
		for i := range rows {
			for id := range vocab.Token(size) {
				rows[i] = append(rows[i], Entry{id, -float64(rapid.IntRange(1, 4).Draw(r, "lp"))})
			}
			rows[i] = rapid.Permutation(rows[i]).Draw(r, "order")
		}
		var want []vocab.Token // the oracle
		for i := range rows {
			id, _ := rows[i].Argmax()
			want = append(want, id)
			if id == 0 || i < len(draft) && id != draft[i] {
				break
			}
		}
		var cs []Choice
		for _, row := range rows {
			id, _ := row.Argmax()
			cs = append(cs, Choice{Token: id, Stop: id == 0})
		}
		fan, err1 := Match(cs, draft)
		score, err2 := Greedy(rows[:len(draft)], cs[len(draft)], draft, []vocab.Token{0})
		if err1 != nil || err2 != nil {
			r.Fatal(err1, err2)
		}
		if d := cmp.Diff(fan, score); d != "" {
			r.Fatalf("modes differ:\n%s", d)
		}
		var got []vocab.Token
		for _, c := range fan.Tokens {
			got = append(got, c.Token)
		}
		if !slices.Equal(got, want) {
			r.Fatalf("committed %v, want %v", got, want)
		}
		if !slices.Equal(got[:fan.Accepted], draft[:fan.Accepted]) || fan.Accepted > fan.Judged {
			r.Fatalf("accepted %d of %v, committed %v", fan.Accepted, draft, got)
		}
	})
}
