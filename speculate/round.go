package speculate

import (
	"slices"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// What comes of a draft and of a verification.

func (s *Session) drafted(e Drafted) {
	if !s.drafting {
		return // it was dropped
	}
	s.drafting = false
	if s.draftWaited {
		s.draftTime += e.Elapsed
	}
	if e.Err != nil || len(e.Draft.Tokens) == 0 {
		s.draftFailed(e.Err)
		return
	}
	s.warm = true
	s.draftBackoff = draftBackoffMin
	since := s.answer[s.draftFrom:]
	rest, ok := continues(e.Draft, since)
	if !ok {
		s.trace.StaleDrafts++
		return
	}
	s.hand, s.inHand = rest, true
}

// draftFailed goes on without a draft: plain streaming for a while, longer
// with each failure in a row. A draft that is merely empty costs the least
// wait.
func (s *Session) draftFailed(err error) {
	if err != nil {
		s.trace.DraftFailures++
		s.draftAgain = len(s.answer) + s.draftBackoff
		s.draftBackoff = min(2*s.draftBackoff, draftBackoffMax)
		return
	}
	s.draftAgain = len(s.answer) + draftBackoffMin
}

// continues returns what is left of d after the tokens since it was asked for,
// if it foretold them.
func continues(d draft.Draft, since []vocab.Token) (draft.Draft, bool) {
	if len(d.Tokens) <= len(since) {
		return draft.Draft{}, false
	}
	for i, t := range since {
		if d.Tokens[i] != t {
			return draft.Draft{}, false
		}
	}
	d.Tokens = d.Tokens[len(since):]
	if d.Confidence != nil {
		d.Confidence = d.Confidence[len(since):]
	}
	return d, true
}

func (s *Session) verified(e Verified) {
	if !s.verifying {
		panic("BUG: speculate: Verified without a verification")
	}
	s.verifying = false
	hand := s.hand
	s.inHand, s.hand = false, draft.Draft{}
	var v verify.Verdict
	if e.Err == nil {
		v, e.Err = verify.Judge(e.Pass, hand.Tokens, s.limits.Ends)
	}
	if e.Err != nil {
		s.verifyFailures++
		s.verifyTime += e.Elapsed
		s.trace.VerifyFailures++
		s.trace.LastVerifyError = e.Err
		s.want, s.decided = 0, true // plain until the next token; Next opens the stream
		return
	}
	s.verifyFailures = 0
	round := Round{
		At: len(s.answer), Mode: e.Pass.Mode, Source: hand.Source, Fallback: e.Pass.Fallback,
		Drafted: len(hand.Tokens), Judged: v.Judged, Accepted: v.Accepted,
		DraftTime: s.draftTime, VerifyTime: s.verifyTime + e.Elapsed,
		Cached: e.Pass.Cached, Computed: e.Pass.Computed, Calls: e.Pass.Calls,
	}
	s.draftTime, s.verifyTime = 0, 0
	s.commitChoices(v.Tokens)
	round.Emitted = len(s.answer) - round.At
	s.trace.add(round)
	s.control.Observe(round)
	s.finishRound(v.Tokens[len(v.Tokens)-1])
}

// finishRound ends the answer if the round's last token does.
func (s *Session) finishRound(last verify.Choice) {
	switch {
	case last.Stop:
		if s.stop = last; !last.HasReason && slices.Contains(s.limits.Named, last.Token) {
			s.stop.HasReason, s.stop.StopReason = true, last.Token
		}
		s.done("stop")
	case len(s.answer) >= s.limit:
		s.done("length")
	}
}

// commitChoices commits a verdict's tokens with their text as far as the
// engine said it.
func (s *Session) commitChoices(cs []verify.Choice) {
	s.source++
	c, known := Commit{}, true
	for _, x := range cs {
		c.Tokens = append(c.Tokens, x.Token)
		if x.Stop && !s.limits.IncludeStop {
			c.Hidden = 1
			continue
		}
		c.Text += x.Text
		// A special token has an empty text, as has a part of a character.
		known = known && x.HasText && x.Text != ""
	}
	if known {
		c.Source, c.Whole = s.source, true
	}
	s.commit(c)
}
