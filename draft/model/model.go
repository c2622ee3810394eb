// Package model drafts with a small model behind an endpoint. It keeps a
// generation safe from a draft endpoint that is down, hangs or answers
// nonsense: after failures in a row the endpoint is left alone for a while,
// and ids that the target could not know end a draft.
package model

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"paceline/draft"
	"paceline/vocab"
)

// ErrDown says that the endpoint failed lately and is being left alone.
var ErrDown = errors.New("the draft endpoint is down and left alone for a while")

// Options set up a Drafter.
type Options struct {
	// VocabSize bounds the ids that may be proposed: the target's vocabulary.
	// An id outside of it can end a server, so a draft is cut before it.
	// 0: unknown, only negative ids are refused.
	VocabSize int
	// Context is the draft model's own context in tokens; a prefix that leaves
	// no room in it yields an empty draft. 0: unknown.
	Context int
	// Failures in a row after which the endpoint is left alone; 0 means 3.
	Failures int
	// QuietMin and QuietMax bound how long it is left alone; the time doubles
	// from one to the other while it keeps failing. 0 means 1 s and 30 s.
	QuietMin, QuietMax time.Duration
}

// Drafter asks one endpoint. It is safe for concurrent use by many
// generations, which share what is known of its health.
type Drafter struct {
	endpoint draft.Completer
	options  Options

	mu       sync.Mutex // guards what follows
	failed   int        // failures in a row
	quiet    time.Duration
	until    time.Time // left alone until then
	trying   bool      // one call is out to see whether it is back
	lastFail error
}

var _ draft.Drafter = (*Drafter)(nil)

// New returns a Drafter that asks endpoint.
func New(endpoint draft.Completer, o Options) *Drafter {
	if o.Failures == 0 {
		o.Failures = 3
	}
	if o.QuietMin == 0 {
		o.QuietMin = time.Second
	}
	if o.QuietMax == 0 {
		o.QuietMax = 30 * time.Second
	}
	return &Drafter{endpoint: endpoint, options: o}
}

// Draft implements draft.Drafter. A call that ctx ended is the endpoint's
// fault only if it ran into its deadline.
func (d *Drafter) Draft(ctx context.Context, prefix []vocab.Token, k int) (draft.Draft, error) {
	if c := d.options.Context; c > 0 {
		k = min(k, c-len(prefix))
	}
	if k <= 0 {
		return draft.Draft{}, nil
	}
	trial, err := d.admit()
	if err != nil {
		return draft.Draft{}, err
	}
	if trial {
		defer d.release()
	}
	c, err := d.endpoint.Complete(ctx, prefix, k)
	if err == nil && len(c.Tokens) > k {
		err = fmt.Errorf("cannot use the draft: %d tokens came, %d were asked for", len(c.Tokens), k)
	}
	if err != nil && ctx.Err() != nil && !late(ctx) {
		return draft.Draft{}, context.Cause(ctx)
	}
	d.record(err, trial)
	if err != nil {
		return draft.Draft{}, err
	}
	return d.sane(c), nil
}

// late tells a call that took too long from one that nobody wanted any more.
func late(ctx context.Context) bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }

// sane cuts a completion before the first id that the target does not know.
func (d *Drafter) sane(c draft.Completion) draft.Draft {
	n := 0
	for n < len(c.Tokens) && c.Tokens[n] >= 0 && (d.options.VocabSize == 0 || int(c.Tokens[n]) < d.options.VocabSize) {
		n++
	}
	out := draft.Draft{Tokens: c.Tokens[:n:n], Source: "model"}
	if len(c.Confidence) == len(c.Tokens) {
		out.Confidence = c.Confidence[:n:n]
	}
	return out
}

// Up tells whether the endpoint is asked at all at present, and if not, what
// its last failure was.
func (d *Drafter) Up() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed < d.options.Failures || !time.Now().Before(d.until), d.lastFail
}

// admit lets a call through; while the endpoint is down only one at a time,
// when its quiet time is over: a trial.
func (d *Drafter) admit() (trial bool, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed < d.options.Failures {
		return false, nil
	}
	if d.trying || time.Now().Before(d.until) {
		return false, fmt.Errorf("%w: %w", ErrDown, d.lastFail)
	}
	d.trying = true
	return true, nil
}

// release ends a trial, whatever came of it.
func (d *Drafter) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trying = false
}

func (d *Drafter) record(err error, trial bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.failed, d.quiet, d.lastFail = 0, 0, nil
		return
	}
	d.failed++
	d.lastFail = err
	// Calls that were out when it went down tell of the same outage.
	if d.failed == d.options.Failures || trial {
		d.quiet = min(max(2*d.quiet, d.options.QuietMin), d.options.QuietMax)
		d.until = time.Now().Add(d.quiet)
	}
}
