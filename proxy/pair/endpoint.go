package pair

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"sync/atomic"

	"paceline/draft"
	"paceline/draft/model"
	"paceline/engine"
	"paceline/engine/vllm"
	"paceline/proxy"
	"paceline/proxy/plan"
	"paceline/speculate"
	"paceline/vocab"
)

// Endpoint is a server of one model.
type Endpoint struct {
	// Name is how clients call a draft (X-Paceline-Draft); default draft-1, ….
	Name string
	// URL is the server's base, "http://host:port" and optionally a path below
	// which /v1 lies.
	URL string
	// Model is the model's name there; default the only one that it serves.
	Model string
	// Client configures the connections.
	Client engine.ClientOptions
	// VLLM fixes what the probe would otherwise find out.
	VLLM vllm.Options
}

func (e *Endpoint) open() (*engine.Client, *vllm.Endpoint, error) {
	client, err := engine.NewClient(e.URL, e.Client)
	if err != nil {
		return nil, nil, err
	}
	return client, vllm.New(client, e.Model, e.VLLM), nil
}

// Private tells whether a URL's host is this machine or a private address, so
// that sending a prompt again costs nobody money. A name that is not an
// address is private only if it has no dot ("localhost", a container's name).
func Private(base string) bool {
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
	}
	for i := range len(host) {
		if host[i] == '.' {
			return false
		}
	}
	return host != ""
}

// target is a target endpoint as the proxy wants it.
type target struct {
	client   *engine.Client
	endpoint *vllm.Endpoint
	known    atomic.Bool // a probe succeeded
}

var _ proxy.Target = (*target)(nil)

func openTarget(e Endpoint) (*target, error) {
	client, endpoint, err := e.open()
	if err != nil {
		return nil, err
	}
	return &target{client: client, endpoint: endpoint}, nil
}

// Capabilities implements proxy.Target.
func (t *target) Capabilities() engine.Capabilities { return t.endpoint.Capabilities() }

// Dialect implements proxy.Target.
func (t *target) Dialect(chat bool) proxy.Dialect {
	if chat {
		return proxy.Dialect{Fields: vllm.ChatFields, Effective: vllm.Effective}
	}
	return proxy.Dialect{Fields: vllm.CompletionFields, Effective: vllm.Effective}
}

// Generate implements proxy.Target.
func (t *target) Generate(g proxy.Generation) speculate.Target {
	return t.endpoint.Generate(vllm.Request{Chat: g.Chat, Body: g.Body, Mode: g.Mode, Settings: g.Settings, Header: g.Header})
}

// drafter is a draft endpoint. Until it has answered a probe, and the target
// has, it drafts nothing.
type drafter struct {
	name     string
	client   *engine.Client
	endpoint *vllm.Endpoint

	answered atomic.Bool                   // a probe succeeded
	inner    atomic.Pointer[model.Drafter] // nil until both ends are known
	foreign  atomic.Bool                   // its token ids are not the target's
}

var errUnknown = errors.New("the draft endpoint has not answered yet")

var _ draft.Drafter = (*drafter)(nil)

func openDrafter(e Endpoint) (*drafter, error) {
	client, endpoint, err := e.open()
	if err != nil {
		return nil, err
	}
	return &drafter{name: e.Name, client: client, endpoint: endpoint}, nil
}

func (d *drafter) probe(ctx context.Context) error {
	if _, err := d.endpoint.Probe(ctx); err != nil {
		return err
	}
	d.answered.Store(true)
	return nil
}

// match compares the draft with its target; changed says that this was not
// known before.
func (d *drafter) match(target *engine.Capabilities) (changed, same bool) {
	if !d.answered.Load() {
		return false, false
	}
	own := d.endpoint.Capabilities()
	same = own.Fingerprint != "" && own.Fingerprint == target.Fingerprint
	first := d.inner.Load() == nil
	if first {
		d.inner.Store(model.New(d.endpoint, model.Options{VocabSize: target.VocabSize, Context: own.MaxModelLen}))
	}
	return d.foreign.Swap(!same) == same || first, same
}

// Draft implements draft.Drafter.
func (d *drafter) Draft(ctx context.Context, prefix []vocab.Token, k int) (draft.Draft, error) {
	inner := d.inner.Load()
	if inner == nil {
		return draft.Draft{}, errUnknown
	}
	return inner.Draft(ctx, prefix, k)
}

// state implements proxy.Draft.State.
func (d *drafter) state() plan.Draft {
	inner := d.inner.Load()
	if inner == nil {
		return plan.DraftFailing
	}
	if d.foreign.Load() {
		return plan.DraftMismatch
	}
	if up, _ := inner.Up(); !up {
		return plan.DraftFailing
	}
	return plan.DraftReady
}
