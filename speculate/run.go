package speculate

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

// Options say how a generation is run.
type Options struct {
	Limits Limits
	// Drafter proposes; nil: the answer is streamed plainly.
	Drafter draft.Drafter
	// Controller chooses the draft length; it belongs to this generation.
	Controller Controller
	// Eager leaves plain streaming as soon as the controller wants to draft,
	// after the first token if it wants to from the start, without waiting for
	// a draft to be ready.
	Eager bool
	// Patience is the least time that a drafter has while the target waits for
	// it; it has more where the round's tokens would take more in plain
	// streaming. 0: 100 ms. It is what a drafter that hangs costs, each time.
	Patience time.Duration
	// Costs are what earlier generations on the same pair learned; zero: unknown.
	Costs Costs
}

// Piece is what became visible at once. Text may be empty, but not in the first
// piece, when tokens were committed that do not show yet; Tokens are those
// whose text became known, valid until emit returns (one that ended the answer
// and is not shown is in no piece).
type Piece struct {
	Text   string
	Tokens []vocab.Token
}

// Result is a finished generation.
type Result struct {
	Finish       string      // "stop" or "length"
	StopString   string      // the stop string that ended the text, if one did
	StopToken    vocab.Token // the stop token id that the engine named, if HasStopToken
	HasStopToken bool
	// Usage, in tokens. Completion counts up to the token that ended the answer
	// or completed the stop string, inclusive. Cached is -1 if unknown.
	Prompt, Completion, Cached int
	Costs                      Costs // what was learned, for the next generation
	Trace                      *Trace
}

// defaultPatience is Options.Patience; maxPatience bounds every draft.
const (
	defaultPatience = 100 * time.Millisecond
	maxPatience     = 30 * time.Second
)

// Run generates the answer. emit is called from this goroutine, in order; its
// error ends the generation and is returned. Run returns when everything that
// it started has ended. An error before the first emit is round 0's own (for
// an engine that answered with an error status, that answer).
func Run(ctx context.Context, t Target, o Options, emit func(Piece) error) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	g := &generation{
		ctx: ctx, target: t, options: o, emit: emit, began: time.Now(), cached: -1,
		session: NewSession(o.Limits, o.Controller, o.Drafter != nil, o.Eager),
		events:  make(chan happening, 16), costs: o.Costs,
		display: display{stops: stops{list: o.Limits.Stop, include: o.Limits.IncludeStop}, min: o.Limits.MinTokens},
	}
	g.session.SetCosts(g.costs)
	defer g.wait.Wait()
	defer cancel(nil)
	defer func() {
		if g.stream != nil {
			g.stream.Close()
		}
	}()
	err := g.loop()
	if err == nil {
		err = g.flush()
	}
	if err != nil && g.refused == nil && g.ctx.Err() != nil {
		err = context.Cause(g.ctx) // whatever a call made of it
	}
	return g.result(), err
}

// generation is the loop's own state; all of it belongs to Run's goroutine but
// for what the calls send through events.
type generation struct {
	ctx     context.Context
	target  Target
	options Options
	emit    func(Piece) error
	session *Session
	events  chan happening
	wait    sync.WaitGroup
	began   time.Time
	costs   Costs

	context    []vocab.Token // prompt and answer; only appended to
	stream     Stream
	streams    int       // that were opened
	lastChunk  time.Time // arrival of the last chunk of the stream that is open
	dropDraft  context.CancelFunc
	draftRun   int    // number of the draft that is out: answers of dropped ones are forgotten
	drafts     int    // that arrived
	parked     *Ready // a verification that waits for the text before it
	parkedAt   time.Time
	cached     int
	emitted    bool
	unsaid     []vocab.Token // tokens of the answer's beginning that do not show
	refused    error         // what emit returned
	firstToken time.Duration

	display    display
	decoding   bool   // a question for text is out
	stopString string // the stop string that ended the text
}

// happening is an event with the time at which it happened.
type happening struct {
	at    time.Time // zero if it is not known
	event Event
	// decoded is set instead of event when text came back.
	decoded *decoded
	draft   int    // of a Drafted: which
	stream  Stream // of a stream that was opened
}

type decoded struct {
	base, window string
	err          error
}

func (g *generation) loop() error {
	for {
		if err := g.apply(g.session.Next()); err != nil {
			return err
		}
		if g.complete() {
			return nil
		}
		select {
		case h := <-g.events:
			if err := g.take(h); err != nil {
				return err
			}
		case <-g.ctx.Done():
			return context.Cause(g.ctx)
		}
	}
}

// complete tells whether the answer is over and all its text was shown.
func (g *generation) complete() bool {
	return g.session.phase == phaseDone && (g.stopString != "" || !g.pending())
}

// pending tells whether committed tokens wait for their text.
func (g *generation) pending() bool {
	return g.decoding || g.display.text != nil && g.display.text.Pending() > 0
}

// apply starts what the session wants.
func (g *generation) apply(r Ready) error {
	for _, c := range r.Commits {
		if err := g.committed(c); err != nil {
			return err
		}
	}
	if r.Drop && g.dropDraft != nil {
		g.dropDraft()
		g.dropDraft = nil
		g.draftRun++
	}
	if r.Cut && g.stream != nil {
		g.stream.Close()
	}
	if g.session.phase == phaseDone { // also by a stop string in these commits
		g.resolve()
		return g.session.Err()
	}
	if r.Stream {
		g.open(r.Limit)
	}
	if r.Draft > 0 {
		g.draft(r.Draft, r.Bounded)
	}
	if r.Verify {
		g.parked, g.parkedAt = &r, time.Now()
	}
	g.resolve()
	g.unpark()
	return nil
}

// take hands an event to the session.
func (g *generation) take(h happening) error {
	switch e := h.event.(type) {
	case nil:
		if h.stream != nil {
			g.opened(h.stream)
			return nil
		}
		return g.took(*h.decoded)
	case Delivered:
		if e.Chunk.Opaque {
			if !g.emitted {
				return ErrOpaque
			}
			return fmt.Errorf("cannot go on: %w", ErrOpaque)
		}
		g.delivered(e.Chunk, h.at)
	case Ended:
		g.stream = nil
	case Drafted:
		if h.draft != g.draftRun {
			return nil
		}
		g.dropDraft = nil
		if e.Err == nil {
			g.tookDraft(e.Elapsed)
		}
	case Verified:
		if e.Err == nil {
			g.costs.Pass = average(g.costs.Pass, e.Elapsed)
		}
	}
	g.session.SetCosts(g.costs)
	g.session.Step(h.event)
	return nil
}

// delivered measures the pace of plain streaming and learns the prompt.
func (g *generation) delivered(c Chunk, at time.Time) {
	if c.Prompt != nil && g.context == nil {
		g.context = append(make([]vocab.Token, 0, len(c.Prompt)+256), c.Prompt...)
		g.display.text = vocab.NewText(c.Prompt)
	}
	if g.streams == 1 && c.CachedTokens >= 0 { // with the prompt or, more often, with the end
		g.cached = c.CachedTokens
	}
	if n := len(c.Tokens); n > 0 {
		if !g.lastChunk.IsZero() && !at.IsZero() {
			g.costs.Token = average(g.costs.Token, at.Sub(g.lastChunk)/time.Duration(n))
		}
		g.lastChunk = at
	}
}

// tookDraft measures drafts: the first one of a generation holds the draft
// model's prefill.
func (g *generation) tookDraft(d time.Duration) {
	if g.drafts++; g.drafts == 1 {
		g.costs.FirstDraft = average(g.costs.FirstDraft, d)
		return
	}
	g.costs.Draft = average(g.costs.Draft, d)
}

// average is a moving average that begins with its first value.
func average(old, v time.Duration) time.Duration {
	if old == 0 {
		return v
	}
	return old + (v-old)/4
}

// open starts a plain stream after the answer so far.
func (g *generation) open(limit int) {
	after := g.session.Answer()
	g.lastChunk = time.Time{}
	g.streams++
	g.call(func(err error) happening { return happening{event: Ended{err}} }, func() {
		s, err := g.target.Stream(g.ctx, after, limit)
		if err != nil {
			g.send(happening{event: Ended{err}})
			return
		}
		defer s.Close()
		if !g.send(happening{stream: s}) {
			return
		}
		err = g.read(s)
		s.Close() // before anything else is asked of the target
		g.send(happening{event: Ended{err}})
	})
}

// read delivers a stream's chunks until it is over.
func (g *generation) read(s Stream) error {
	late := false // the loop did not keep up: from then on the times of arrival are its own
	for {
		c, err := s.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h, now := happening{event: Delivered{c}}, time.Now()
		if !late {
			h.at = now
		}
		if !g.send(h) {
			return g.ctx.Err()
		}
		late = late || time.Since(now) > time.Millisecond
	}
}

// opened keeps the stream so that it can be cut.
func (g *generation) opened(s Stream) {
	g.stream = s
	if g.session.phase == phaseCut {
		s.Close()
	}
}

func (g *generation) draft(k int, bounded bool) {
	limit := maxPatience
	if bounded {
		least := cmp.Or(g.options.Patience, defaultPatience)
		limit = min(limit, max(least, time.Duration(k+1)*max(g.costs.Token, g.costs.Pass)))
	}
	ctx, cancel := context.WithTimeoutCause(g.ctx, limit, fmt.Errorf("no draft within %v", limit))
	g.draftRun++
	run, tokens, began := g.draftRun, g.context[:len(g.context):len(g.context)], time.Now()
	g.dropDraft = cancel
	answer := func(d draft.Draft, err error) happening {
		if len(d.Tokens) > k {
			d.Tokens = d.Tokens[:k:k]
			d.Confidence = d.Confidence[:min(k, len(d.Confidence))]
		}
		return happening{draft: run, event: Drafted{Draft: d, Err: err, Elapsed: time.Since(began)}}
	}
	g.call(func(err error) happening { return answer(draft.Draft{}, err) }, func() {
		defer cancel()
		d, err := g.options.Drafter.Draft(ctx, tokens, k)
		g.send(answer(d, err))
	})
}

// unpark sends the verification that waits, once the text before it cannot
// end the answer any more: a pass after a stop string would be wasted.
func (g *generation) unpark() {
	if g.parked == nil || len(g.display.stops.list) > 0 && g.pending() {
		return
	}
	after, pass, began := g.session.Answer(), g.parked.Pass, g.parkedAt // the wait for text is the round's
	g.parked = nil
	answer := func(p verify.Pass, err error) happening {
		return happening{event: Verified{Pass: p, Err: err, Elapsed: time.Since(began)}}
	}
	g.call(func(err error) happening { return answer(verify.Pass{}, err) }, func() {
		g.send(answer(g.target.Verify(g.ctx, after, pass)))
	})
}

// call starts every goroutine of a generation: Run waits for it, and a panic
// in it becomes the event that broken makes of an error.
func (g *generation) call(broken func(error) happening, f func()) {
	g.wait.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				g.send(broken(fmt.Errorf("panic: %v\n%s", p, debug.Stack())))
			}
		}()
		f()
	})
}

// send delivers an event to the loop; false: the loop is gone.
func (g *generation) send(h happening) bool {
	select {
	case g.events <- h:
		return true
	case <-g.ctx.Done():
		return false
	}
}

func (g *generation) finishTrace() *Trace {
	t := &g.session.trace
	t.FirstToken, t.Total = g.firstToken, time.Since(g.began)
	return t
}

func (g *generation) result() Result {
	s := g.session
	r := Result{
		Finish: s.finish, StopString: g.stopString,
		Prompt: len(s.prompt), Completion: len(s.answer), Cached: g.cached,
		Costs: g.costs, Trace: g.finishTrace(),
	}
	if s.stop.HasReason {
		r.StopToken, r.HasStopToken = s.stop.StopReason, true
	}
	return r
}
