package model

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"paceline/draft"
	"paceline/vocab"
)

type completer func(ctx context.Context) (draft.Completion, error)

func (f completer) Complete(ctx context.Context, _ []vocab.Token, _ int) (draft.Completion, error) {
	return f(ctx)
}

// A panic in the trial call must not leave the endpoint down for ever.
func TestAPanicInTheTrialDoesNotEndTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		d := New(completer(func(context.Context) (draft.Completion, error) {
			switch n++; n {
			case 1:
				return draft.Completion{}, errors.New("refused")
			case 2:
				panic("bad answer")
			}
			return draft.Completion{Tokens: []vocab.Token{1}}, nil
		}), Options{Failures: 1})
		d.Draft(t.Context(), nil, 1)
		time.Sleep(2 * time.Second)
		func() { defer func() { recover() }(); d.Draft(t.Context(), nil, 1) }()
		time.Sleep(time.Hour)
		if _, err := d.Draft(t.Context(), nil, 1); err != nil {
			t.Error("an hour later: ", err)
		}
	})
}

// Ten generations hit by one short outage: it is one failure, not ten doublings.
func TestOneOutageIsOneQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var good atomic.Bool
		d := New(completer(func(context.Context) (draft.Completion, error) {
			time.Sleep(100 * time.Millisecond)
			if !good.Load() {
				return draft.Completion{}, errors.New("reset")
			}
			return draft.Completion{Tokens: []vocab.Token{1}}, nil
		}), Options{})
		for range 10 {
			go d.Draft(t.Context(), nil, 1)
		}
		time.Sleep(200 * time.Millisecond)
		good.Store(true)
		time.Sleep(1100 * time.Millisecond)
		if _, err := d.Draft(t.Context(), nil, 1); err != nil {
			t.Error("left alone for more than QuietMin after one outage: ", err)
		}
	})
}

// While the endpoint is down one trial is out at most.
func TestOneTrialAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang, out, most := false, 0, 0
		d := New(completer(func(ctx context.Context) (draft.Completion, error) {
			if hang {
				out++
				most = max(most, out)
				defer func() { out-- }()
			}
			<-ctx.Done()
			return draft.Completion{}, ctx.Err()
		}), Options{Failures: 1})
		old, leave := context.WithCancel(t.Context())
		go d.Draft(old, nil, 1) // admitted while all was well
		synctest.Wait()
		short, c := context.WithTimeout(t.Context(), time.Millisecond)
		defer c()
		d.Draft(short, nil, 1) // down
		time.Sleep(2 * time.Second)
		hang = true
		go d.Draft(t.Context(), nil, 1) // the trial
		synctest.Wait()
		leave() // says nothing about the trial
		synctest.Wait()
		go d.Draft(t.Context(), nil, 1)
		synctest.Wait()
		if most > 1 {
			t.Errorf("%d trials at once", most)
		}
	})
}
