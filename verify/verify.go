// Package verify holds the acceptance rules: given a draft and what the target
// said about it in one pass, which tokens the target itself would have written.
// Pure values, no I/O.
//
// Duties of a caller, in order: take the target's answer for exactly the
// committed context and exactly this draft; hand over only evidence that the
// engine really computed (a row read from uninitialised memory is the
// adapter's to refuse); commit what the verdict says and nothing else.
package verify

import "paceline/vocab"

// Entry is one listed token of a row with its log-probability at T = 1 over
// the whole vocabulary, before penalties and bias.
type Entry struct {
	Token   vocab.Token
	Logprob float64
}

// Row is the target's distribution at one slot as far as the engine lists it:
// the most likely tokens, and the drafted one wherever it ranks. The order of
// entries means nothing.
type Row []Entry

// Choice is one token that the target decided on.
type Choice struct {
	Token vocab.Token
	// Text is the token's own text in its context when the engine said it
	// (fan-out); HasText tells an empty text from an unknown one.
	Text    string
	HasText bool
	// Stop says that the engine ended the sequence with this token (end of
	// sequence or a stop token id); StopReason is the id that the engine named,
	// if it named one.
	Stop       bool
	StopReason vocab.Token
	HasReason  bool
}

// Mode is how a pass asked the target.
type Mode uint8

const (
	FanOut Mode = iota // one choice a slot, drawn by the engine with the request's own settings
	Score              // one row a draft token and the engine's own choice for the bonus
)

func (m Mode) String() string {
	if m == Score {
		return "score"
	}
	return "fan-out"
}

// Pass is the target's answer about a draft d1..dK in one round.
type Pass struct {
	Mode Mode
	// Choices has K+1 entries in fan-out mode: Choices[i] is what the target
	// writes after C+d1..di.
	Choices []Choice
	// Rows has K entries in score mode: Rows[i] is the distribution that judges
	// d(i+1). Bonus is what the target writes after the whole draft.
	Rows  []Row
	Bonus Choice

	// Fallback says why another mode than the planned one answered
	// ("over_deep", "nan_rows", "short_rows"); empty otherwise.
	Fallback string
	// Cached and Computed count prompt tokens found in the engine's prefix
	// cache and tokens of work; -1 when the engine does not say.
	Cached, Computed int
	// Calls is the number of HTTP calls that the pass took.
	Calls int
}
