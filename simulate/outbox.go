package simulate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"paceline/simulate/vllm"
	"paceline/vocab"
)

// delta is what a sequence produced since the reader last looked.
type delta struct {
	index  int
	tokens []vocab.Token
	text   string
	rows   []vllm.Row
	finish string // "" while it goes on
	reason any    // nil, a token or a stop string
	at     time.Time
}

// generation is the sequences of one HTTP request and the outbox between the
// loop, which fills it, and the request's goroutine, which empties it. The
// loop never waits for the reader.
type generation struct {
	seqs  []*sequence
	merge bool // what the reader has not taken yet becomes one delta, as in vLLM

	mu      sync.Mutex
	pending []delta
	left    int // sequences that go on
	err     error
	cached  []int // by sequence, −1 before its first token
	last    int   // index of the sequence that finished last
	notify  chan struct{}
}

var errEngineDead = errors.New("engine is dead")

func newGeneration(n int) *generation {
	g := &generation{left: n, notify: make(chan struct{}, 1), cached: make([]int, n)}
	for i := range g.cached {
		g.cached[i] = -1
	}
	return g
}

// put hands over what a sequence produced.
func (g *generation) put(d delta) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d.finish != "" {
		g.left--
		g.last = d.index
	}
	i := -1
	if g.merge {
		i = slices.IndexFunc(g.pending, func(p delta) bool { return p.index == d.index })
	}
	if i < 0 {
		g.pending = append(g.pending, d)
	} else {
		p := &g.pending[i]
		p.tokens = append(p.tokens, d.tokens...)
		p.rows = append(p.rows, d.rows...)
		p.text += d.text
		p.finish, p.reason, p.at = d.finish, d.reason, d.at
	}
	g.wake()
}

func (g *generation) wake() {
	select {
	case g.notify <- struct{}{}:
	default:
	}
}

// fail ends all sequences with an error.
func (g *generation) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.wake()
}

// next waits for deltas; done says that no more follow.
func (g *generation) next(ctx context.Context) (deltas []delta, done bool, err error) {
	for {
		g.mu.Lock()
		deltas, g.pending = g.pending, nil
		done, err = g.left == 0, g.err
		g.mu.Unlock()
		if len(deltas) > 0 || done || err != nil {
			return deltas, done, err
		}
		select {
		case <-g.notify:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// all waits for the end and returns one delta a sequence.
func (g *generation) all(ctx context.Context) ([]delta, error) {
	whole := make([]delta, len(g.seqs))
	for {
		deltas, done, err := g.next(ctx)
		if err != nil {
			return nil, err
		}
		for _, d := range deltas {
			w := &whole[d.index]
			w.index = d.index
			w.tokens = append(w.tokens, d.tokens...)
			w.rows = append(w.rows, d.rows...)
			w.text += d.text
			w.finish, w.reason, w.at = d.finish, d.reason, d.at
		}
		if done {
			return whole, nil
		}
	}
}

// cachedTokens is what the prefix cache had of a sequence's prompt.
func (g *generation) cachedTokens(i int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.cached[i])
}

func (g *generation) setCached(i, n int) {
	g.mu.Lock()
	g.cached[i] = n
	g.mu.Unlock()
}
