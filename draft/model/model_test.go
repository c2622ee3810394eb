package model

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"paceline/draft"
	"paceline/vocab"
)

// endpoint answers from a list; the last entry repeats.
type endpoint struct {
	calls   int
	answers []any // draft.Completion, error, or time.Duration to hang before an answer
}

func (e *endpoint) Complete(ctx context.Context, _ []vocab.Token, k int) (draft.Completion, error) {
	a := e.answers[min(e.calls, len(e.answers)-1)]
	e.calls++
	switch a := a.(type) {
	case error:
		return draft.Completion{}, a
	case time.Duration:
		select {
		case <-time.After(a):
		case <-ctx.Done():
			return draft.Completion{}, ctx.Err()
		}
		return draft.Completion{Tokens: []vocab.Token{1}}, nil
	}
	return a.(draft.Completion), nil
}

func TestWhatIsProposed(t *testing.T) {
	f := func(name string, o Options, prefix int, k int, answer draft.Completion, want draft.Draft, fails bool) {
		t.Helper()
		got, err := New(&endpoint{answers: []any{answer}}, o).Draft(t.Context(), make([]vocab.Token, prefix), k)
		if (err != nil) != fails {
			t.Errorf("%s: error %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	T := func(ids ...vocab.Token) []vocab.Token { return ids }
	f("as it came", Options{VocabSize: 10}, 3, 2, draft.Completion{Tokens: T(4, 9), Confidence: []float32{.9, .5}},
		draft.Draft{Tokens: T(4, 9), Confidence: []float32{.9, .5}, Source: "model"}, false)
	f("cut before an id that the target does not know", Options{VocabSize: 10}, 3, 3, draft.Completion{Tokens: T(4, 10, 5), Confidence: []float32{.9, .5, .4}},
		draft.Draft{Tokens: T(4), Confidence: []float32{.9}, Source: "model"}, false)
	f("cut before a negative id", Options{}, 3, 3, draft.Completion{Tokens: T(-1, 10, 5)}, draft.Draft{Tokens: []vocab.Token{}, Source: "model"}, false)
	f("confidence that does not fit is dropped", Options{}, 3, 2, draft.Completion{Tokens: T(4, 9), Confidence: []float32{.9}}, draft.Draft{Tokens: T(4, 9), Source: "model"}, false)
	f("more than asked for", Options{}, 3, 1, draft.Completion{Tokens: T(4, 9)}, draft.Draft{}, true)
	f("no room in the draft's context", Options{Context: 3}, 3, 4, draft.Completion{Tokens: T(4)}, draft.Draft{}, false)
}

func TestAnEndpointThatFailsIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("refused")
		e := &endpoint{answers: []any{bad, bad, bad, bad, draft.Completion{Tokens: []vocab.Token{7}}}}
		d := New(e, Options{Failures: 3, QuietMin: time.Second, QuietMax: 3 * time.Second})
		ask := func(wantCalls int, wantDown bool) {
			t.Helper()
			_, err := d.Draft(t.Context(), nil, 2)
			if e.calls != wantCalls || errors.Is(err, ErrDown) != wantDown {
				t.Errorf("%d calls, want %d; error %v", e.calls, wantCalls, err)
			}
		}
		ask(1, false)
		ask(2, false)
		ask(3, false)
		if up, err := d.Up(); up || !errors.Is(err, bad) {
			t.Errorf("up %v, %v", up, err)
		}
		ask(3, true) // no call
		time.Sleep(time.Second)
		ask(4, false) // tried again, fails: twice as long
		time.Sleep(time.Second)
		ask(4, true)
		time.Sleep(time.Second)
		ask(5, false) // it is back
		ask(6, false)
		if up, _ := d.Up(); !up {
			t.Error("not up again")
		}
	})
}

func TestOnlyALateAnswerIsTheEndpointsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{answers: []any{time.Hour}}
		d := New(e, Options{Failures: 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		stale := errors.New("stale")
		time.AfterFunc(time.Second, func() { cancel(stale) })
		if _, err := d.Draft(ctx, nil, 1); !errors.Is(err, stale) {
			t.Errorf("cancelled: %v", err)
		}
		if up, _ := d.Up(); !up {
			t.Error("a call that nobody wanted took the endpoint down")
		}
		ctx2, cancel2 := context.WithTimeout(t.Context(), time.Second)
		defer cancel2()
		if _, err := d.Draft(ctx2, nil, 1); err == nil {
			t.Error("no error from a call that ran into its deadline")
		}
		if up, _ := d.Up(); up {
			t.Error("a hanging endpoint is still up")
		}
	})
}
