package speculate

import (
	"errors"
	"time"

	"paceline/verify"
)

// ErrUnfinished says that the target's stream ended without a finish reason
// and could not be taken up again.
var ErrUnfinished = errors.New("the target's stream ended before its answer was finished")

// ErrOpaque says that the target's chat endpoint turned the answer into more
// than text (reasoning, tool calls) before anything of it was emitted: the
// request has to be passed through.
var ErrOpaque = errors.New("the target's answer holds more than text")

// Round is one verification and what came of it.
type Round struct {
	At       int         // length of the answer when it began, in tokens
	Mode     verify.Mode // how the target was asked
	Source   string      // the drafter
	Fallback string      // why not in the planned mode; empty if it was
	Drafted  int         // tokens sent to be judged
	Judged   int         // tokens that the target really decided on
	Accepted int         // tokens that it agreed with
	Emitted  int         // tokens committed: accepted ones and the target's own

	DraftTime  time.Duration // that the target waited for the draft; 0 if it was made beside plain streaming
	VerifyTime time.Duration // from sending the verification to its answer

	Cached, Computed int // prompt tokens from the prefix cache and tokens of work; -1 unknown
	Calls            int // HTTP calls
}

// Trace records what a generation did.
type Trace struct {
	Rounds []Round
	Plain  int // tokens that came from plain streaming

	Drafted, Judged, Accepted int // sums over Rounds

	Switches       int // changes from plain streaming to rounds
	StaleDrafts    int // drafts that came too late to be of use
	DraftFailures  int // drafts that failed or took too long
	VerifyFailures int // verifications that failed
	StreamBreaks   int // plain streams that broke and were taken up again
	// LastVerifyError explains VerifyFailures.
	LastVerifyError error

	FirstToken, Total time.Duration // since the generation began
}

func (t *Trace) add(r Round) {
	t.Rounds = append(t.Rounds, r)
	t.Drafted += r.Drafted
	t.Judged += r.Judged
	t.Accepted += r.Accepted
}

// trim takes back what turned out to stand behind the end of an answer of n
// tokens: a stop string was found in what had been committed.
func (t *Trace) trim(n, committed int) {
	for i := len(t.Rounds) - 1; i >= 0 && t.Rounds[i].At+t.Rounds[i].Emitted > n; i-- {
		r := &t.Rounds[i]
		left := max(0, n-r.At)
		committed -= r.Emitted - left
		accepted := min(r.Accepted, left)
		t.Accepted -= r.Accepted - accepted
		r.Emitted, r.Accepted = left, accepted
	}
	t.Plain -= max(0, committed-n)
}

// Passes counts the target's decoding passes: one a round and one a token of
// plain streaming.
func (t *Trace) Passes() int { return len(t.Rounds) + t.Plain }

// Survival returns, for position i = 1, 2, …, the share of rounds that drafted
// at least i tokens in which the first i were all accepted.
func (t *Trace) Survival() []float64 {
	var drafted, accepted []int
	for _, r := range t.Rounds {
		for len(drafted) < r.Drafted {
			drafted, accepted = append(drafted, 0), append(accepted, 0)
		}
		for i := range r.Drafted {
			drafted[i]++
			if i < r.Accepted {
				accepted[i]++
			}
		}
	}
	s := make([]float64, len(drafted))
	for i := range s {
		s[i] = float64(accepted[i]) / float64(drafted[i])
	}
	return s
}
