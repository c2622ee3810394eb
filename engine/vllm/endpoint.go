// Package vllm speaks vLLM's dialect: it finds out what a server can do
// ([Endpoint.Probe]), says which request fields stay exact in which mode
// ([ChatFields], [CompletionFields], [Effective]), and is the target of a
// generation ([Generation]) and a draft ([Endpoint.Complete]).
//
// All of it holds for vLLM 0.32.0 as measured on the CPU build; the answers
// that say so are in testdata/real and are what the tests read. What is only
// known from vLLM's source is marked [s].
package vllm

import (
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/valyala/fastjson"

	"paceline/draft"
	"paceline/engine"
	"paceline/speculate"
	"paceline/verify"
	"paceline/vocab"
)

// Options fix what probing cannot find out.
type Options struct {
	// EOS are more ids that end an answer. Default: the probe's candidates
	// only. Each is checked on the engine, like those. Risk of a missing one:
	// in score mode the answer would run on past it.
	EOS []vocab.Token
	// Modes restricts verification to these modes. Default: all that the
	// server offers.
	Modes []verify.Mode
}

// Endpoint is one vLLM server. It is safe for concurrent use.
type Endpoint struct {
	c       *engine.Client
	model   string // as configured; the probe fills in the only one
	options Options
	caps    atomic.Pointer[engine.Capabilities]
	works   sync.Pool // *work

	// specials is replaced when a probe finds another vocabulary.
	specials atomic.Pointer[specials]
}

// New returns an endpoint that knows nothing of its server until Probe. model
// "" takes the only one that the server has.
func New(c *engine.Client, model string, o Options) *Endpoint {
	e := &Endpoint{c: c, model: model, options: o}
	e.caps.Store(&engine.Capabilities{URL: c.URL(), Model: model})
	e.specials.Store(&specials{})
	return e
}

var _ draft.Completer = (*Endpoint)(nil)

// Capabilities returns what the last good probe found.
func (e *Endpoint) Capabilities() engine.Capabilities { return *e.caps.Load() }

// Client returns the client that the endpoint uses.
func (e *Endpoint) Client() *engine.Client { return e.c }

// Request is a client's request that is to be generated here.
type Request struct {
	// Chat tells the request's kind; Body is the client's own JSON, valid,
	// unchanged while the generation lives.
	Chat bool
	Body []byte
	// Mode is the planned way to verify. Score falls back to fan-out round by
	// round where rows cannot be trusted.
	Mode verify.Mode
	// Settings are the request's effective settings, see Effective.
	Settings engine.Settings
	// Header goes along with every call (x-request-id, traceparent).
	Header [][2]string
}

var _ speculate.Target = (*Generation)(nil)

// work is what a call needs besides its arguments. It is taken and given back
// within one method; answers are copied out of it.
type work struct {
	body, answer, slim []byte
	parser             fastjson.Parser
}

// maxWork bounds the buffers of a work that is kept.
const maxWork = 4 << 20

func (e *Endpoint) take() *work {
	if w, ok := e.works.Get().(*work); ok {
		return w
	}
	return &work{}
}

func (e *Endpoint) give(w *work) {
	if cap(w.body)+cap(w.answer)+cap(w.slim) <= maxWork {
		e.works.Put(w)
	}
}

// quoted returns a JSON text.
func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string cannot be marshalled: " + err.Error())
	}
	return b
}
