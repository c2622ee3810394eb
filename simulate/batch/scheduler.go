package batch

import (
	"fmt"
	"time"

	"paceline/vocab"
)

// Options sizes an engine. A zero field takes the value in parentheses.
type Options struct {
	Profile    Profile
	BlockSize  int // tokens a cache block (the profile's, or 16)
	Blocks     int // cache blocks in all (4,096)
	StepTokens int // tokens computed in a step at most (8,192)
	MaxRunning int // sequences that run at once (256)
}

// Scheduler decides what every step computes. It is not safe for concurrent
// use.
type Scheduler struct {
	o       Options
	pool    *pool
	waiting []*Sequence
	running []*Sequence // in the order of admission
	current *Step       // the step that runs now
	steps   int
}

// New returns an idle scheduler.
func New(o Options) *Scheduler {
	if o.BlockSize == 0 {
		o.BlockSize = o.Profile.Block
	}
	o.BlockSize = orDefault(o.BlockSize, 16)
	o.Blocks = orDefault(o.Blocks, 4096)
	o.StepTokens = orDefault(o.StepTokens, 8192)
	o.MaxRunning = orDefault(o.MaxRunning, 256)
	return &Scheduler{o: o, pool: newPool(o.Blocks)}
}

func orDefault(v, def int) int {
	if v <= 0 {
		return def
	}
	return v
}

// Request is a prompt to continue.
type Request struct {
	Prompt []vocab.Token // not empty; copied
	// Salt separates the request's part of the prefix cache from others'.
	Salt string
	// SkipCache makes the request compute its whole prompt. What it computes
	// is shared as usual.
	SkipCache bool
}

// Sequence is a request in the scheduler. Its fields are the scheduler's to
// write, except Tag.
type Sequence struct {
	Tag any // the caller's

	Tokens   []vocab.Token // the prompt and what was appended
	Prompt   int           // length of the prompt
	Computed int           // tokens whose keys and values exist or are being computed by the step that runs
	// Cached is how much of the prompt the first admission found in the prefix
	// cache; −1 before it.
	Cached int
	// Preempted counts how often the sequence lost its blocks to others.
	Preempted int
	Arrived   time.Time
	Started   time.Time // of the first step that computed for it

	skip    bool
	hashes  []Hash // of the full blocks of Tokens
	parent  Hash   // of the block that hashes would get next
	blocks  []*block
	found   int // blocks of these that the admission found in the cache
	shared  int // blocks of these that can be found
	state   state
	aborted bool // while a step runs that computes for it
	s       *Scheduler
}

type state uint8

const (
	waiting state = iota
	running
	gone
)

// Add lets a request wait for the next step.
func (s *Scheduler) Add(r Request, now time.Time) *Sequence {
	if len(r.Prompt) == 0 {
		panic("BUG: sequence without a prompt")
	}
	if need := blocksFor(len(r.Prompt)+1, s.o.BlockSize); need > s.o.Blocks {
		panic(fmt.Sprintf("BUG: prompt of %d blocks in a cache of %d", need, s.o.Blocks))
	}
	q := &Sequence{
		Tokens: append([]vocab.Token(nil), r.Prompt...), Prompt: len(r.Prompt),
		Cached: -1, Arrived: now, skip: r.SkipCache, parent: root(r.Salt), s: s,
	}
	q.hash()
	s.waiting = append(s.waiting, q)
	return q
}

// Append adds a token that was sampled after everything else was computed.
func (q *Sequence) Append(t vocab.Token) {
	q.Tokens = append(q.Tokens, t)
	q.hash()
}

// hash keeps hashes up to date with Tokens.
func (q *Sequence) hash() {
	b := q.s.o.BlockSize
	for n := len(q.hashes); (n+1)*b <= len(q.Tokens); n++ {
		q.parent = chain(q.parent, q.Tokens[n*b:(n+1)*b])
		q.hashes = append(q.hashes, q.parent)
	}
}

// Keep attaches what the caller computed (keys and values) to the full blocks
// of the sequence that have no payload yet, as far as tokens reach. Later
// sequences that hit a block get it back as Work.Payload.
func (q *Sequence) Keep(payload any, tokens int) {
	for i := min(tokens/q.s.o.BlockSize, q.shared) - 1; i >= 0 && q.blocks[i].payload == nil; i-- {
		q.blocks[i].payload = payload
	}
}

// Unkept tells how many tokens of full, shared blocks there are, and whether
// the last of them still lacks a payload.
func (q *Sequence) Unkept() (tokens int, lacks bool) {
	if q.shared == 0 {
		return 0, false
	}
	return q.shared * q.s.o.BlockSize, q.blocks[q.shared-1].payload == nil
}

// Remove ends a sequence that no running step computes for. What it computed
// stays in the prefix cache until its blocks are needed.
func (s *Scheduler) Remove(q *Sequence) {
	switch q.state {
	case waiting:
		s.waiting = without(s.waiting, q)
	case running:
		if s.current != nil && s.current.has(q) {
			panic("BUG: sequence removed while a step computes for it")
		}
		s.running = without(s.running, q)
	case gone:
		return
	}
	s.drop(q)
}

// Abort ends a sequence at any time. If the running step computes for it, it
// keeps its blocks until the step's end.
func (s *Scheduler) Abort(q *Sequence) {
	if q.state == running && s.current != nil && s.current.has(q) {
		q.aborted = true
		return
	}
	s.Remove(q)
}

func (s *Scheduler) drop(q *Sequence) {
	s.pool.release(q.blocks)
	q.blocks, q.shared, q.state = nil, 0, gone
}

func without(list []*Sequence, q *Sequence) []*Sequence {
	for i, other := range list {
		if other == q {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

func blocksFor(tokens, size int) int { return (tokens + size - 1) / size }

// Running is the number of sequences that hold blocks.
func (s *Scheduler) Running() int { return len(s.running) }

// Waiting is the number of sequences that wait to be admitted.
func (s *Scheduler) Waiting() int { return len(s.waiting) }

// Usage is the share of the blocks that sequences hold.
func (s *Scheduler) Usage() float64 { return float64(s.pool.used()) / float64(s.o.Blocks) }

// Options returns the options with defaults filled in.
func (s *Scheduler) Options() Options { return s.o }
