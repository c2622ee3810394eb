// Package draft defines what a drafter proposes. A draft costs time when it
// is wrong and nothing else: the target judges every token of it.
//
// Duties of a caller: pass the whole context (prompt and answer so far), do
// not change it while the call runs, and cancel ctx when the proposal has
// become stale.
package draft

import (
	"context"

	"paceline/vocab"
)

// Draft is a proposed continuation of a context.
type Draft struct {
	// Tokens are the proposed ids, in order. They may be fewer than asked for,
	// and none: then there is nothing to propose.
	Tokens []vocab.Token
	// Confidence holds the drafter's own probability of each token, in (0, 1];
	// nil when the drafter gives none. Same length as Tokens otherwise.
	Confidence []float32
	// Source names the drafter in traces ("model", "prediction", …).
	Source string
}

// Drafter proposes up to k tokens that may follow context. It returns soon
// after ctx ends: a generation waits for it.
type Drafter interface {
	Draft(ctx context.Context, context []vocab.Token, k int) (Draft, error)
}

// Completion is what a draft endpoint wrote after a prefix.
type Completion struct {
	Tokens     []vocab.Token // at most the number asked for; an end-of-sequence id is included
	Confidence []float32     // probability of each token, or nil
}

// Completer is a draft endpoint: it continues a prefix greedily by at most k
// tokens. Implemented by the engine packages.
type Completer interface {
	Complete(ctx context.Context, prefix []vocab.Token, k int) (Completion, error)
}
