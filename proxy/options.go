package proxy

import (
	"cmp"
	"errors"
	"time"
)

// Options configure a Server. The zero value is usable.
type Options struct {
	// MaxBody bounds a request's body in bytes (default 8 MiB); a larger one is
	// answered 413. Every request in flight may hold that much memory.
	MaxBody int
	// MaxInFlight bounds the requests that are worked on at a time (default
	// 512). More wait. Set it near what the targets batch: what the proxy lets
	// through beyond that waits in the engine, where it cannot be refused.
	MaxInFlight int
	// QueueWait is how long a request may wait for its turn (default 10 s)
	// before it is answered 429 with Retry-After.
	QueueWait time.Duration
	// MaxDraft is the largest draft length that a client may ask for (default
	// 16). Long drafts that are rejected cost the target's time.
	MaxDraft int
	// ReadTimeout bounds the reading of a whole request (default 60 s). It is
	// what ends a client that sends a byte now and then.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may stay open between requests
	// (default 2 min).
	IdleTimeout time.Duration
	// Patience is how long a client may take nothing of an answer that is
	// written to it (default 30 s); then it counts as gone. It never bounds a
	// whole stream.
	Patience time.Duration
	// Grace is how long Shutdown lets answers run on (default 20 s) before it
	// ends them. Keep it under the time that the supervisor grants.
	Grace time.Duration
}

func (o Options) check() error {
	if min(o.MaxBody, o.MaxInFlight, o.MaxDraft) < 0 || min(o.QueueWait, o.ReadTimeout, o.IdleTimeout, o.Patience, o.Grace) < 0 {
		return errors.New("cannot use options of the proxy: none may be negative")
	}
	return nil
}

func (o Options) filled() Options {
	o.MaxBody = cmp.Or(o.MaxBody, 8<<20)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, 512)
	o.QueueWait = cmp.Or(o.QueueWait, 10*time.Second)
	o.MaxDraft = cmp.Or(o.MaxDraft, 16)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, time.Minute)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 2*time.Minute)
	o.Patience = cmp.Or(o.Patience, 30*time.Second)
	o.Grace = cmp.Or(o.Grace, 20*time.Second)
	return o
}
