package speculate

import (
	"fmt"
	"slices"
	"time"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// Limits are the ends of an answer that the proxy has to see to.
type Limits struct {
	// MaxTokens bounds the answer in tokens; 0: only Context does.
	MaxTokens int
	// MinTokens is the length below which the engine does not let the answer
	// end. A round never straddles it.
	MinTokens int
	// Context bounds prompt and answer together, in tokens; 0 is unknown.
	Context int
	// Ends are the ids that end an answer (end of sequence and stop token ids;
	// none with ignore_eos). Used where the engine does not say, on rows.
	Ends []vocab.Token
	// Named are those among Ends that the engine names as the reason for which
	// it stopped (vLLM: all but the tokenizer's own end of sequence).
	Named []vocab.Token
	// AnyPrompt says that the prompt came as token ids and may end inside a
	// character. What an engine shows then belongs to its own stream alone
	// (vLLM 0.32 puts the whole prompt's text in front), so round 0 is not left
	// before it has shown a text that is known to be all that there is so far:
	// one that came with a single token.
	AnyPrompt bool
	// Stop are the strings at which the text ends; IncludeStop keeps the string
	// in the text.
	Stop        []string
	IncludeStop bool
}

type phase uint8

const (
	phaseStart  phase = iota // nothing was asked yet
	phasePlain               // a plain stream is open
	phaseCut                 // its end was asked for, it may still deliver
	phaseRounds              // no stream is open: draft, verify, draft, …
	phaseDone
)

// draftBackoff is how many tokens pass before a drafter that failed is asked
// again: doubled with each failure in a row up to the maximum.
const (
	draftBackoffMin = 4
	draftBackoffMax = 64
)

// entryMax is the longest stream that is ended rather than cut for the first
// round: a slower draft may as well be waited for.
const entryMax = 4

// verifyFailuresMax is after how many failed verifications an answer stays in
// plain streaming; streamFailuresMax how many streams may break in a row
// without having delivered a token.
const (
	verifyFailuresMax = 3
	streamFailuresMax = 2
)

// Session is the state of one generation. It is used from one goroutine.
type Session struct {
	limits  Limits
	control Controller
	eager   bool
	drafter bool

	phase  phase
	err    error
	finish string
	stop   verify.Choice // the token that ended the answer, if one did

	spoken  bool          // a stream has shown a token's whole text
	prompt  []vocab.Token // known from the first chunk of round 0 on; nil: no rounds
	answer  []vocab.Token // the committed tokens; only commit appends to it
	limit   int           // tokens that the answer may have; set with the prompt
	commits []Commit      // not handed out by Next yet

	// want is the draft length that the controller chose at this length of the
	// answer; decided says that it was asked here.
	want    int
	decided bool
	// hand is a draft that continues the answer as it stands.
	hand   draft.Draft
	inHand bool
	// drafting: a draft is out, asked at length draftFrom. verifying: a
	// verification of hand is out. streaming: a stream was asked for and has
	// not Ended.
	drafting, verifying, streaming bool
	draftFrom, draftLength         int
	warm                           bool          // a draft has come
	draftWaited                    bool          // the target waits for the draft that is out
	draftTime                      time.Duration // that it has waited since the last round, in vain or not
	verifyTime                     time.Duration // that failed verifications have taken since then
	// After a failure no draft is asked for before the answer has draftAgain
	// tokens.
	draftAgain, draftBackoff int
	verifyFailures           int
	streamFailures           int
	streamTokens             int  // delivered by the stream that is open
	streamLimit              int  // that it may deliver; 0: the answer's own limit
	streamOver               bool // it delivered them all and said so
	source                   int  // numbers the origins of text: streams and rounds

	costs Costs
	trace Trace
}

// NewSession returns the state of a generation that has not begun. drafter
// says whether there is one; eager leaves plain streaming as soon as the
// controller wants to draft, without waiting for a draft to be ready.
func NewSession(l Limits, c Controller, drafter, eager bool) *Session {
	return &Session{limits: l, control: c, drafter: drafter, eager: eager, draftBackoff: draftBackoffMin}
}

// Answer returns the committed tokens. The slice may only be read; what it
// holds now never changes.
func (s *Session) Answer() []vocab.Token { return s.answer[:len(s.answer):len(s.answer)] }

// Prompt returns the rendered prompt, nil until it is known.
func (s *Session) Prompt() []vocab.Token { return s.prompt }

// Err says why the answer could not be completed.
func (s *Session) Err() error { return s.err }

// SetCosts tells the session what the calls of this generation take.
func (s *Session) SetCosts(c Costs) { s.costs = c }

// Next says what to start now. Call it after every Step, and first of all.
func (s *Session) Next() Ready {
	var r Ready
	if s.phase == phaseStart {
		s.openStream(&r)
		return r
	}
	r.Commits, s.commits = s.commits, nil
	if s.phase == phaseDone {
		r.Done, r.Cut, r.Drop = true, s.streaming, s.drafting
		return r
	}
	if s.stale() {
		r.Drop, s.drafting = true, false
		s.trace.StaleDrafts++
	}
	switch s.phase {
	case phasePlain:
		s.nextPlain(&r)
	case phaseRounds:
		s.nextRound(&r)
	}
	return r
}

// nextPlain decides, while a stream is open, whether to draft beside it and
// whether to cut it.
func (s *Session) nextPlain(r *Ready) {
	if len(s.answer) == 0 || s.atEnd() || !s.mayRound() || s.length() == 0 {
		return
	}
	switch {
	case s.streamOver, s.streamTokens < s.streamLimit: // it ends by itself
		if !s.drafting && !s.inHand {
			s.ask(r, s.eager)
		}
	case s.eager, s.inHand && 2*len(s.hand.Tokens) >= s.length():
		s.phase, r.Cut = phaseCut, true
		s.trace.Switches++
	case !s.drafting && s.draftFrom < len(s.answer): // once at each length
		s.ask(r, false)
	}
}

// nextRound decides what follows when no stream is open.
func (s *Session) nextRound(r *Ready) {
	if s.verifying {
		return
	}
	k := s.length()
	switch {
	case !s.mayRound() || s.want == 0:
		s.openStream(r)
	case k == 0: // the answer's end is one token away, or the end of min_tokens is
		s.inHand, s.hand = true, draft.Draft{}
		s.verify(r, 0)
	case s.inHand:
		s.verify(r, k)
	case s.drafting && s.draftWaited:
		// wait for it
	default:
		r.Drop = r.Drop || s.drafting // made beside the stream: it may take too long
		s.ask(r, true)
	}
}

func (s *Session) ask(r *Ready, bounded bool) {
	s.drafting, s.draftFrom, s.draftLength, s.draftWaited = true, len(s.answer), s.length(), bounded
	r.Draft, r.Bounded = s.draftLength, bounded
}

func (s *Session) verify(r *Ready, k int) {
	if len(s.hand.Tokens) > k {
		s.hand.Tokens = s.hand.Tokens[:k:k]
	}
	s.verifying = true
	r.Verify, r.Pass = true, s.hand.Tokens
	if s.drafting {
		r.Drop, s.drafting = true, false
	}
}

func (s *Session) openStream(r *Ready) {
	s.streamLimit = s.entry()
	s.phase, s.streaming, s.streamTokens, s.streamOver = phasePlain, true, 0, false
	s.inHand, s.hand = false, draft.Draft{}
	s.source++
	r.Stream, r.Limit = true, s.streamLimit
}

// entry is how many tokens round 0 should make: as many as the target makes
// while the first draft is made beside it. An engine starts its next step
// before the last token is read, so a cut wastes a step; a stream that ends by
// itself does not. An eager session wants the first token only. 0: no limit,
// because the draft's time is unknown or rounds are not wanted.
func (s *Session) entry() int {
	if s.phase != phaseStart || !s.drafter || s.limits.MinTokens > 0 || s.limits.AnyPrompt {
		return 0
	}
	if s.control.Length(View{Left: s.limits.MaxTokens, Plain: true, Costs: s.costs}) == 0 {
		return 0
	}
	if s.eager {
		return 1
	}
	if s.costs.Token == 0 || s.costs.FirstDraft == 0 {
		return 0
	}
	n := 1 + int((s.costs.FirstDraft*5/4+s.costs.Token-1)/s.costs.Token)
	if n > entryMax {
		return 0
	}
	return n
}

// mayRound tells whether rounds are possible here at all.
func (s *Session) mayRound() bool {
	return s.drafter && s.prompt != nil && (s.spoken || !s.limits.AnyPrompt) && len(s.answer) >= s.draftAgain && s.verifyFailures < verifyFailuresMax
}

// length is the draft length for the next round at this length of the answer:
// what the controller wants, clipped to what the answer can still take.
func (s *Session) length() int {
	if !s.decided {
		s.decided = true
		s.want = max(0, s.control.Length(View{
			Prompt: len(s.prompt), Answer: len(s.answer), Left: s.limit - len(s.answer),
			Plain: s.phase == phasePlain, Costs: s.costs,
		}))
	}
	return s.clip(s.want)
}

// clip bounds a draft length: a round yields up to k+1 tokens, which have to
// fit the answer's limit and may not straddle the end of min_tokens.
func (s *Session) clip(k int) int {
	k = min(k, s.limit-len(s.answer)-1)
	if short := s.limits.MinTokens - len(s.answer); short > 0 {
		k = min(k, short-1)
	}
	return max(k, 0)
}

// stale tells whether the draft that is out can no longer be of use: the
// answer has grown past what it could propose. The first one is of use all the
// same: the drafter reads the prompt for it, and would have to begin anew.
func (s *Session) stale() bool {
	return s.warm && s.drafting && len(s.answer)-s.draftFrom >= s.draftLength
}

// Step takes an event. Events that come after the end are ignored, but for a
// stop string in what was committed before it.
func (s *Session) Step(e Event) {
	if e, ok := e.(StopFound); ok && s.err == nil {
		s.trace.trim(e.Tokens, len(s.answer))
		s.answer = s.answer[:e.Tokens:e.Tokens]
		s.commits, s.stop = nil, verify.Choice{}
		s.done("stop")
		return
	}
	if s.phase == phaseDone {
		return
	}
	switch e := e.(type) {
	case Delivered:
		s.delivered(e.Chunk)
	case Ended:
		s.ended(e.Err)
	case Drafted:
		s.drafted(e)
	case Verified:
		s.verified(e)
	default:
		panic(fmt.Sprintf("BUG: speculate: unknown event %T", e))
	}
}

func (s *Session) delivered(c Chunk) {
	if !s.streaming {
		panic("BUG: speculate: Delivered without a stream")
	}
	if c.Prompt != nil && s.prompt == nil {
		s.begin(c.Prompt)
	}
	// The text of several tokens need not be that of all of them.
	s.spoken = s.spoken || c.Text != "" && len(c.Tokens) == 1
	if len(c.Tokens) > 0 || c.Text != "" {
		commit := Commit{Tokens: c.Tokens, Text: c.Text, Source: s.source}
		if c.Finish == "stop" && !s.limits.IncludeStop {
			commit.Hidden = min(1, len(c.Tokens))
		}
		s.commit(commit)
		s.trace.Plain += len(c.Tokens)
		s.streamTokens += len(c.Tokens)
		if len(c.Tokens) > 0 {
			s.streamFailures = 0
		}
	}
	switch {
	case c.Finish == "length" && s.streamLimit > 0 && s.prompt == nil:
		// The stream's end or the answer's? Nothing can be taken up after it.
		s.fail(ErrUnfinished)
	case c.Finish == "length" && s.streamLimit > 0 && s.streamTokens >= s.streamLimit && len(s.answer) < s.limit:
		s.streamOver = true // not the answer's end but this stream's: Ended follows
	case c.Finish != "":
		if c.HasReason {
			s.stop = verify.Choice{Token: c.StopReason, Stop: true, HasReason: true, StopReason: c.StopReason}
		}
		s.done(c.Finish)
	case s.limit > 0 && len(s.answer) >= s.limit && !s.atEnd(): // else the finish chunk is behind
		s.done("length")
	}
}

// atEnd tells whether the last token is one that ends an answer: an engine may
// say so in a chunk of its own, behind it.
func (s *Session) atEnd() bool {
	n := len(s.answer)
	return n > s.limits.MinTokens && slices.Contains(s.limits.Ends, s.answer[n-1])
}

// begin learns the prompt, and with it how long the answer may become.
func (s *Session) begin(prompt []vocab.Token) {
	s.prompt = prompt
	s.limit = s.limits.MaxTokens
	if left := s.limits.Context - len(prompt); left > 0 && (s.limit == 0 || left < s.limit) {
		s.limit = left
	}
	if s.limit <= 0 {
		s.limit = int(^uint(0) >> 1)
	}
}

func (s *Session) ended(err error) {
	if !s.streaming {
		panic("BUG: speculate: Ended without a stream")
	}
	s.streaming = false
	switch {
	case s.atEnd():
		s.done("stop")
	case s.phase == phaseCut:
		s.phase = phaseRounds // whatever the cut did to the connection
	case s.streamOver:
		s.phase = phaseRounds
		if s.drafting && !s.eager { // not ready after all: the target does not wait for it
			s.want, s.decided = 0, true
			return
		}
		s.trace.Switches++
	case len(s.answer) == 0, s.prompt == nil:
		s.fail(endError(err))
	default:
		if s.streamTokens == 0 {
			s.streamFailures++
		}
		s.trace.StreamBreaks++
		if s.streamFailures >= streamFailuresMax {
			s.fail(endError(err))
			return
		}
		s.phase, s.want, s.decided = phaseRounds, 0, true // reopen
	}
}

func endError(err error) error {
	if err == nil {
		return ErrUnfinished
	}
	return err
}

func (s *Session) commit(c Commit) {
	s.answer = append(s.answer, c.Tokens...)
	s.commits = append(s.commits, c)
	if len(c.Tokens) == 0 {
		return
	}
	s.decided = false
	if s.inHand { // keep it in step with what the stream delivered
		s.hand, s.inHand = continues(s.hand, c.Tokens)
	}
}

func (s *Session) done(finish string) {
	s.finish, s.phase = finish, phaseDone
}

func (s *Session) fail(err error) {
	s.err, s.phase = err, phaseDone
}
