package speculate

import (
	"time"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// Event is something that happened to a generation. The loop hands each to
// Session.Step in the order in which it happened.
type Event interface{ event() }

type (
	// Delivered is a chunk of the plain stream.
	Delivered struct{ Chunk Chunk }
	// Ended says that the plain stream is over: nothing more will be delivered.
	// Err is nil if it was cut or said its finish.
	Ended struct{ Err error }
	// Drafted answers Ready.Draft. Err: nothing came of it.
	Drafted struct {
		Draft   draft.Draft
		Elapsed time.Duration
		Err     error
	}
	// Verified answers Ready.Verify. Err: the call failed, nothing is known.
	Verified struct {
		Pass    verify.Pass
		Elapsed time.Duration
		Err     error
	}
	// StopFound says that the text of the first Tokens tokens of the answer
	// contains a stop string: what follows them is not part of it.
	StopFound struct{ Tokens int }
)

func (Delivered) event() {}
func (Ended) event()     {}
func (Drafted) event()   {}
func (Verified) event()  {}
func (StopFound) event() {}

// Commit is a run of tokens that became part of the answer at once. Text is
// the engine's own, Source where it came from (vocab.Text.Add; 0: unknown).
// Hidden counts tokens at the end that do not show (the one that ended the
// answer).
type Commit struct {
	Tokens []vocab.Token
	Text   string
	Source int
	Hidden int
	Whole  bool // Text is all of these tokens' (vocab.Text.Add)
}

// Ready says what to start now. Each demand is made once.
type Ready struct {
	Commits []Commit // new tokens of the answer, oldest first
	Stream  bool     // open a plain stream after the answer so far
	Limit   int      // of that stream, in tokens; 0: the answer's own
	Cut     bool     // close the plain stream; deliver what it still holds, then Ended
	Draft   int      // ask for a draft of that many tokens after the answer so far
	Bounded bool     // the target waits for this draft: give it little time
	Drop    bool     // the draft that is out has become useless: cancel it and forget its answer
	// Verify asks the target about the draft Pass (empty: one token is wanted).
	Verify bool
	Pass   []vocab.Token
	Done   bool // the answer is complete, or Err says why it cannot be
}
