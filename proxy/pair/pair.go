// Package pair opens the endpoints of a target and its drafts and makes of
// them what the proxy serves: clients, probes that are repeated, and what is
// known at the moment of each draft.
//
// Duties of a caller, in order: Open, which validates and does not connect;
// Probe, once, for what is known at the start; Watch, which probes again until
// its context ends; Close, after the proxy that uses the pair has shut down.
package pair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"paceline/engine"
	"paceline/proxy"
	"paceline/proxy/plan"
	"paceline/speculate"
)

// Options configure a pair.
type Options struct {
	// Name is the model's name towards clients; Aliases are more of them.
	Name    string
	Aliases []string
	// Target is the large model whose answers are given.
	Target Endpoint
	// Drafts are small models with the target's vocabulary. None: everything
	// passes through.
	Drafts []Endpoint
	// Policy says what may be speculated.
	Policy plan.Policy
	// Length is the number of tokens that are drafted in a round (default 4).
	// Risk: too long a draft costs the target's time on compute-bound machines.
	Length int
	// Eager leaves plain streaming without waiting for a draft to be ready.
	// Default false. Risk: a slow draft then costs time at the start.
	Eager bool
	// Patience is the least time that a draft has while the target waits for it
	// (default 100 ms). Risk: it is what a draft that hangs costs, each time.
	Patience time.Duration
	// ProbeEvery is how often endpoints are probed again, so that a server that
	// was restarted with other flags is noticed (default 1 min). A probe costs
	// the engine a few one-token requests.
	ProbeEvery time.Duration
	// Controller makes a generation's controller; default Fixed of Length.
	Controller func() speculate.Controller
}

// Limits of what may be configured.
const (
	MaxLength     = 64
	defaultLength = 4
	probeEvery    = time.Minute
	probeAgain    = time.Second // after a probe that failed
	probeWithin   = 30 * time.Second
)

// Pair is an open pair.
type Pair struct {
	o      Options
	log    *slog.Logger
	target *target
	drafts []*drafter
}

// Open makes the pair's clients. It does not connect.
func Open(o Options, log *slog.Logger) (*Pair, error) {
	if o.Length == 0 {
		o.Length = defaultLength
	}
	if o.ProbeEvery == 0 {
		o.ProbeEvery = probeEvery
	}
	switch {
	case o.Name == "":
		return nil, errors.New("cannot open a pair without a name")
	case o.Length < 0 || o.Length > MaxLength:
		return nil, fmt.Errorf("cannot open pair %q: length is %d, want 1 to %d", o.Name, o.Length, MaxLength)
	}
	p := &Pair{o: o, log: log.With("pair", o.Name)}
	t, err := openTarget(o.Target)
	if err != nil {
		return nil, fmt.Errorf("cannot open the target of pair %q: %w", o.Name, err)
	}
	p.target = t
	for i, e := range o.Drafts {
		if e.Name == "" {
			e.Name = fmt.Sprintf("draft-%d", i+1)
		}
		d, err := openDrafter(e)
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("cannot open draft %q of pair %q: %w", e.Name, o.Name, err)
		}
		p.drafts = append(p.drafts, d)
	}
	return p, nil
}

// Proxy returns the pair as the proxy serves it.
func (p *Pair) Proxy() proxy.Pair {
	served := proxy.Pair{
		Name: p.o.Name, Aliases: p.o.Aliases, Target: p.target, Client: p.target.client,
		Policy: p.o.Policy, Controller: p.o.Controller, Eager: p.o.Eager, Patience: p.o.Patience,
	}
	if served.Controller == nil {
		served.Controller = func() speculate.Controller { return speculate.NewFixed(p.o.Length, false) }
	}
	for _, d := range p.drafts {
		served.Drafts = append(served.Drafts, proxy.Draft{Name: d.name, Drafter: d, State: d.state})
	}
	return served
}

// Target returns what the last good probe of the target found.
func (p *Pair) Target() engine.Capabilities { return p.target.Capabilities() }

// Targets and Drafts are the endpoints' URLs.
func (p *Pair) Targets() []string { return []string{p.target.client.URL()} }

// Drafts are the URLs of the drafts.
func (p *Pair) Drafts() []string {
	urls := []string{}
	for _, d := range p.drafts {
		urls = append(urls, d.client.URL())
	}
	return urls
}

// Probe asks every endpoint what it can do, side by side. The error is the
// target's: without its answer nothing can be served. A draft that does not
// answer is logged, and the target serves alone.
func (p *Pair) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	var wait sync.WaitGroup
	var failed error
	wait.Go(func() { failed = p.probeTarget(ctx) })
	for _, d := range p.drafts {
		wait.Go(func() {
			if err := d.probe(ctx); err != nil {
				p.log.Warn("draft does not answer", "draft", d.name, "url", d.client.URL(), "error", err.Error())
			}
		})
	}
	wait.Wait()
	p.match()
	return failed
}

func (p *Pair) probeTarget(ctx context.Context) error {
	if _, err := p.target.endpoint.Probe(ctx); err != nil {
		return fmt.Errorf("cannot probe the target %s: %w", p.target.client.URL(), err)
	}
	p.target.known.Store(true)
	return nil
}

// match tells each draft what the target is like.
func (p *Pair) match() {
	if !p.target.known.Load() {
		return
	}
	caps := p.target.Capabilities()
	for _, d := range p.drafts {
		if changed, same := d.match(&caps); changed && !same {
			p.log.Warn("draft has another vocabulary than the target and is not used", "draft", d.name)
		}
	}
}

// Watch probes until ctx ends: often while an endpoint has not answered yet,
// then every ProbeEvery.
func (p *Pair) Watch(ctx context.Context) {
	for {
		wait := p.o.ProbeEvery
		if !p.known() {
			wait = probeAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		known := p.target.known.Load()
		if err := p.Probe(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("target does not answer", "error", err.Error())
		} else if !known && ctx.Err() == nil {
			p.log.Info("target answers", "url", p.target.client.URL())
		}
	}
}

// known tells whether every endpoint has answered a probe.
func (p *Pair) known() bool {
	for _, d := range p.drafts {
		if d.inner.Load() == nil {
			return false
		}
	}
	return p.target.known.Load()
}

// Close closes the clients.
func (p *Pair) Close() {
	if p.target != nil {
		p.target.client.Close()
	}
	for _, d := range p.drafts {
		d.client.Close()
	}
}
