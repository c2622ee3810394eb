package batch

import (
	"time"
)

// Step is one pass of the engine over all its sequences.
type Step struct {
	Number int // from 1
	Start  time.Time
	End    time.Time // Start and what the profile says
	Tokens int       // computed in all
	Work   []Work
}

// Work is what a step computes of one sequence: Tokens[From:To].
type Work struct {
	Sequence *Sequence
	From, To int
	// Samples says that the work reaches the end of the sequence, so that its
	// last row is the distribution of a new token.
	Samples bool
	// Fresh marks the first work of an admission: From tokens were found in
	// the prefix cache; ask Sequence.Hit for what was kept with them.
	Fresh bool
}

func (p *Step) has(q *Sequence) bool {
	for i := range p.Work {
		if p.Work[i].Sequence == q {
			return true
		}
	}
	return false
}

// Duration is the step's time.
func (p *Step) Duration() time.Duration { return p.End.Sub(p.Start) }

// Step plans and begins a step; false when one runs already or when there is
// nothing to do.
func (s *Scheduler) Step(now time.Time) (*Step, bool) {
	if s.current != nil {
		return nil, false
	}
	p := &Step{Number: s.steps + 1, Start: now}
	if preempted := s.planRunning(p); !preempted || len(p.Work) == 0 {
		s.planWaiting(p)
	}
	if len(p.Work) == 0 {
		return nil, false
	}
	for i := range p.Work {
		w := &p.Work[i]
		w.Samples = w.To == len(w.Sequence.Tokens)
		if w.Sequence.Started.IsZero() {
			w.Sequence.Started = now
		}
		p.Tokens += w.To - w.From
	}
	p.End = now.Add(s.o.Profile.StepTime(p.Tokens))
	s.steps++
	s.current = p
	return p, true
}

// Finish ends the running step. The sequences that were aborted in its course
// go now.
func (s *Scheduler) Finish() {
	if s.current == nil {
		panic("BUG: no step to finish")
	}
	work := s.current.Work
	s.current = nil
	s.pool.settle()
	for i := range work {
		if q := work[i].Sequence; q.aborted {
			s.Remove(q)
		}
	}
}

// planRunning gives the running sequences their tokens, preempting the last
// admitted ones when blocks run out, and tells whether it had to.
func (s *Scheduler) planRunning(p *Step) (preempted bool) {
	budget := s.o.StepTokens
	for i := 0; i < len(s.running) && budget > 0; i++ {
		q := s.running[i]
		n := min(len(q.Tokens)-q.Computed, budget)
		if n == 0 { // sampled but not appended: its caller is late
			continue
		}
		for !s.grow(q, q.Computed+n) {
			last := s.running[len(s.running)-1]
			s.preempt(last)
			preempted = true
			if last == q {
				return preempted
			}
		}
		p.Work = append(p.Work, s.work(q, n))
		budget -= n
	}
	return preempted
}

// planWaiting admits waiting sequences, first come first served.
func (s *Scheduler) planWaiting(p *Step) {
	budget := s.o.StepTokens
	for i := range p.Work {
		budget -= p.Work[i].To - p.Work[i].From
	}
	for len(s.waiting) > 0 && budget > 0 && len(s.running) < s.o.MaxRunning {
		q := s.waiting[0]
		hit := s.hit(q)
		if !s.fits(q, hit) {
			return
		}
		s.waiting = s.waiting[1:]
		for _, b := range hit {
			s.pool.hold(b)
		}
		q.blocks, q.shared, q.found = hit, len(hit), len(hit)
		q.Computed = len(hit) * s.o.BlockSize
		if q.Cached < 0 {
			q.Cached = q.Computed
		}
		q.state = running
		s.running = append(s.running, q)
		n := min(len(q.Tokens)-q.Computed, budget)
		if !s.grow(q, q.Computed+n) {
			panic("BUG: admitted a sequence that does not fit")
		}
		w := s.work(q, n)
		w.Fresh = true
		p.Work = append(p.Work, w)
		budget -= n
	}
}

// hit returns the cached blocks that q's tokens begin with.
func (s *Scheduler) hit(q *Sequence) []*block {
	if q.skip {
		return nil
	}
	var hit []*block
	for _, h := range q.hashes[:min(len(q.hashes), (len(q.Tokens)-1)/s.o.BlockSize)] {
		b := s.pool.find(h)
		if b == nil {
			break
		}
		hit = append(hit, b)
	}
	return hit
}

// fits tells whether there are blocks for all tokens of q now and one more,
// given the blocks that it hits.
func (s *Scheduler) fits(q *Sequence, hit []*block) bool {
	need := blocksFor(len(q.Tokens)+1, s.o.BlockSize) - len(hit)
	for _, b := range hit {
		if b.refs == 0 {
			need++ // it is in the free list and leaves it
		}
	}
	return need <= s.pool.available()
}

// Hit returns the payload of the last block before the tokens that the
// sequence has to compute itself, as far as one was kept, and how many tokens
// it covers. Wait says that earlier work of the running step will still keep
// one for a later block.
func (q *Sequence) Hit() (payload any, tokens int, wait bool) {
	for i := q.found - 1; i >= 0; i-- {
		if b := q.blocks[i]; b.payload != nil {
			return b.payload, (i + 1) * q.s.o.BlockSize, wait
		} else if b.fresh {
			wait = true
		}
	}
	return nil, 0, wait
}

// grow gives q blocks for its first n tokens and shares those that are full.
func (s *Scheduler) grow(q *Sequence, n int) bool {
	for len(q.blocks) < blocksFor(n, s.o.BlockSize) {
		b := s.pool.take()
		if b == nil {
			return false
		}
		q.blocks = append(q.blocks, b)
	}
	for ; q.shared < n/s.o.BlockSize; q.shared++ {
		s.pool.share(q.blocks[q.shared], q.hashes[q.shared])
	}
	return true
}

func (s *Scheduler) work(q *Sequence, n int) Work {
	w := Work{Sequence: q, From: q.Computed, To: q.Computed + n}
	q.Computed += n
	return w
}

// preempt sends a running sequence back to the front of the queue. It computes
// everything again, as far as its blocks are reused until then.
func (s *Scheduler) preempt(q *Sequence) {
	s.running = without(s.running, q)
	s.pool.release(q.blocks)
	q.blocks, q.shared, q.Computed, q.state = nil, 0, 0, waiting
	q.Preempted++
	s.waiting = append([]*Sequence{q}, s.waiting...)
}
