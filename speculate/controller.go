package speculate

import "time"

// Costs are what the calls of a generation take, as far as is known; 0 is
// unknown.
type Costs struct {
	Token time.Duration // between two tokens of plain streaming
	Pass  time.Duration // one verification
	Draft time.Duration // one draft of the usual length, in rounds
	// FirstDraft is the draft that is made beside round 0: it includes the
	// draft model's own prefill.
	FirstDraft time.Duration
}

// View is what a controller may look at when it chooses a draft length.
type View struct {
	Prompt, Answer int  // tokens
	Left           int  // tokens that the answer may still have
	Plain          bool // a plain stream is running
	Costs          Costs
}

// Controller chooses the draft length of a generation. It is used from one
// goroutine, has no clock, and learns from the rounds.
type Controller interface {
	// Length returns how many tokens to draft next; 0 means plain streaming.
	// It is asked once for each length of the answer.
	Length(View) int
	// Observe takes the result of a round.
	Observe(Round)
}

// Fixed drafts k tokens in every round. Unless Forced, it measures the plain
// pace first, and steps back to plain streaming for a while when its rounds
// turn out slower than that.
type Fixed struct {
	K      int
	Forced bool

	rounds  int
	emitted float64 // tokens a round, and its time, as moving averages
	elapsed float64
	quietTo int // plain until the answer has this many tokens
	quiet   int // how long the last quiet was
}

// When Fixed gives up and comes back: after minRounds rounds whose pace is
// below leave times the plain pace, for quietTokens tokens, doubled each time.
const (
	minRounds     = 4
	leave         = 0.97
	quietTokens   = 64
	plainToknow   = 3 // tokens of plain streaming that tell its pace
	averageWeight = 0.25
)

// NewFixed returns a Fixed of length k.
func NewFixed(k int, forced bool) *Fixed { return &Fixed{K: k, Forced: forced} }

// Length implements Controller.
func (f *Fixed) Length(v View) int {
	if f.Forced {
		return f.K
	}
	if v.Answer < f.quietTo || v.Costs.Token == 0 && v.Answer < plainToknow {
		return 0
	}
	if f.rounds >= minRounds && v.Costs.Token > 0 && f.emitted*float64(v.Costs.Token) < leave*f.elapsed {
		f.quiet = max(quietTokens, 2*f.quiet)
		f.quietTo = v.Answer + f.quiet
		f.rounds = 0
		return 0
	}
	return f.K
}

// Observe implements Controller.
func (f *Fixed) Observe(r Round) {
	f.rounds++
	w := averageWeight
	if f.rounds == 1 {
		w = 1
	}
	f.emitted += w * (float64(r.Emitted) - f.emitted)
	f.elapsed += w * (float64(r.DraftTime+r.VerifyTime) - f.elapsed)
}
