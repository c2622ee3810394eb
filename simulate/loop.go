package simulate

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"paceline/simulate/batch"
	"paceline/simulate/lm"
	"paceline/vocab"
)

// loop is the engine: one goroutine that owns the scheduler and all sequences,
// and works step by step. Others hand it sequences and abort them through the
// inbox, at any time; it looks there whenever no step computes.
type loop struct {
	o     *Options
	sched *batch.Scheduler
	memo  *memo
	rand  *rand.Rand  // noise of unseeded requests
	dirt  *rand.Rand  // uninitialised memory
	queue []*sequence // handed over, not yet in the scheduler
	done  chan struct{}
	wake  chan struct{}

	mu     sync.Mutex
	inbox  []message
	closed bool
	dead   bool

	counts  counts
	running atomic.Int64
	waiting atomic.Int64
	usage   atomic.Uint64 // per mille
}

// counts are the engine's counters.
type counts struct {
	steps, computed, forwarded, prompt, cached, generated, aborted, finished atomic.Int64
	buckets                                                                  [len(stepBuckets) + 1]atomic.Int64
}

// stepBuckets are the histogram's bounds of tokens in a step.
var stepBuckets = [...]int{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}

// message is new work, or an abort. Told says that the reader is still there
// and gets a last delta.
type message struct {
	add   *generation
	abort []*sequence
	told  bool
}

func newLoop(o *Options) *loop {
	l := &loop{
		o: o, sched: batch.New(o.batchOptions()), memo: newMemo(o.Memo),
		rand: rand.New(rand.NewPCG(o.Seed, 1)), dirt: rand.New(rand.NewPCG(o.Seed, 2)),
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	go l.run()
	return l
}

// submit hands over a request's sequences.
func (l *loop) submit(g *generation) { l.send(message{add: g}) }

// abort ends sequences that have not finished.
func (l *loop) abort(seqs []*sequence, told bool) { l.send(message{abort: seqs, told: told}) }

func (l *loop) send(m message) {
	l.mu.Lock()
	refused := l.closed || l.dead
	if !refused {
		l.inbox = append(l.inbox, m)
	}
	l.mu.Unlock()
	if refused {
		if m.add != nil {
			m.add.fail(errEngineDead)
		}
		return
	}
	l.kick()
}

func (l *loop) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// close ends the loop and everything in it.
func (l *loop) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.kick()
	<-l.done
}

// kill is close for an engine that dies by itself: it refuses everything from
// now on.
func (l *loop) kill() {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	l.kick()
}

func (l *loop) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *loop) run() {
	defer close(l.done)
	live := map[*generation]bool{}
	var last time.Time // when the step before this one ended; zero after a pause
	for {
		if l.receive(live) {
			for g := range live {
				g.fail(errEngineDead)
			}
			return
		}
		l.admit()
		step, ok := l.sched.Step(begin(last))
		l.gauge()
		if !ok {
			last = time.Time{}
			<-l.wake
			continue
		}
		l.admit() // what did not begin with it waits for the next one
		l.execute(step)
		l.await(step.End, live)
		last = step.End
		l.sched.Finish()
		l.deliver(step, live)
	}
}

// begin is the time at which a step begins: now, or when the one before it
// ended, if that is so short ago that only the timer was late. So the steps of
// a busy engine take the profile's time on average.
func begin(last time.Time) time.Time {
	now := time.Now()
	if late := now.Sub(last); late > 0 && late < 5*time.Millisecond {
		return last
	}
	return now
}

// receive empties the inbox and tells whether the loop has to end.
func (l *loop) receive(live map[*generation]bool) (end bool) {
	l.mu.Lock()
	inbox := l.inbox
	l.inbox = nil
	end = l.closed || l.dead
	l.mu.Unlock()
	for _, m := range inbox {
		if m.add != nil {
			live[m.add] = true
			l.queue = append(l.queue, m.add.seqs...)
		}
		for _, q := range m.abort {
			l.end(q, m.told, live)
		}
	}
	return end
}

// end aborts a sequence.
func (l *loop) end(q *sequence, told bool, live map[*generation]bool) {
	if q.ended {
		return
	}
	q.ended = true
	q.cache, q.keys = nil, nil
	l.counts.aborted.Add(1)
	if q.q != nil {
		l.sched.Abort(q.q)
	} else {
		for i, other := range l.queue {
			if other == q {
				l.queue = append(l.queue[:i:i], l.queue[i+1:]...)
				break
			}
		}
	}
	if told {
		q.g.put(delta{index: q.index, text: q.text.next(true), finish: "abort", at: time.Now()})
	}
	l.forget(q.g, live)
}

// forget lets go of a generation none of whose sequences goes on.
func (l *loop) forget(g *generation, live map[*generation]bool) {
	for _, q := range g.seqs {
		if !q.ended {
			return
		}
	}
	delete(live, g)
}

// admit moves what was handed over into the scheduler. An idle engine begins
// with the first sequence alone: in the real one the others are still on their
// way, one message each, when it starts.
func (l *loop) admit() {
	idle := l.sched.Running() == 0 && l.sched.Waiting() == 0
	for i, q := range l.queue {
		if i > 0 && idle && (!l.o.JoinLists || q.g != l.queue[0].g) {
			l.queue = l.queue[i:]
			return
		}
		r := batch.Request{Prompt: q.prompt, Salt: q.salt, SkipCache: q.s.SkipCache || l.o.NoPrefixCache}
		q.q = l.sched.Add(r, time.Now())
		q.q.Tag = q
		l.counts.prompt.Add(int64(len(q.prompt)))
	}
	l.queue = nil
}

// await waits for the end of the running step. What arrives in the meantime is
// taken in, so that it goes into the next one.
func (l *loop) await(end time.Time, live map[*generation]bool) {
	left := time.Until(end)
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-l.wake:
			if l.receive(live) {
				return
			}
			l.admit()
		}
	}
}

// deliver hands out what the step produced, after everything else about it is
// settled: who has an answer finds its end in the figures, too.
func (l *loop) deliver(step *batch.Step, live map[*generation]bool) {
	now := time.Now()
	var out []func()
	l.counts.steps.Add(1)
	l.counts.computed.Add(int64(step.Tokens))
	l.counts.bucket(step.Tokens)
	for i := range step.Work {
		w := &step.Work[i]
		q := w.Sequence.Tag.(*sequence)
		if !w.Samples || q.ended {
			continue
		}
		l.counts.generated.Add(1)
		if q.wantsRows() {
			l.fillRows(q)
		}
		d := q.accept()
		d.at = now
		if d.finish != "" {
			q.ended = true
			q.cache, q.keys = nil, nil
			l.counts.finished.Add(1)
			l.sched.Remove(w.Sequence)
			l.forget(q.g, live)
		} else {
			w.Sequence.Append(q.drawn)
		}
		if q.hold(&d) {
			out = append(out, func() { q.g.put(d) })
		}
	}
	l.gauge()
	for _, put := range out {
		put()
	}
}

func (c *counts) bucket(tokens int) {
	for i, bound := range stepBuckets {
		if tokens <= bound {
			c.buckets[i].Add(1)
			return
		}
	}
	c.buckets[len(stepBuckets)].Add(1)
}

func (l *loop) gauge() {
	l.running.Store(int64(l.sched.Running()))
	l.waiting.Store(int64(l.sched.Waiting() + len(l.queue)))
	l.usage.Store(uint64(l.sched.Usage() * 1000))
}

// execute computes a step: the logits, and what is drawn from them.
func (l *loop) execute(step *batch.Step) {
	p := &pass{l: l}
	for i := range step.Work {
		p.add(&step.Work[i])
	}
	p.flush()
}

// pass collects the work of a step that can be computed at once. Work that
// hits blocks which earlier work of the same step fills has to wait for it.
type pass struct {
	l     *loop
	work  []*batch.Work
	spans []lm.Span
}

func (p *pass) add(w *batch.Work) {
	q := w.Sequence.Tag.(*sequence)
	if w.Fresh {
		if _, _, wait := w.Sequence.Hit(); wait {
			p.flush()
		}
		q.begin(w, p.l)
	}
	if p.l.memo != nil && p.recall(w, q) {
		return
	}
	span := lm.Span{Cache: q.cache, Tokens: w.Sequence.Tokens[q.cache.Len():w.To]}
	switch {
	case q.wantsRows() && w.From < len(q.prompt):
		span.Rows = w.To - w.From
	case w.Samples:
		span.Rows = 1
	}
	p.work = append(p.work, w)
	p.spans = append(p.spans, span)
}

// flush computes what was collected.
func (p *pass) flush() {
	if len(p.work) == 0 {
		return
	}
	for _, span := range p.spans {
		p.l.counts.forwarded.Add(int64(len(span.Tokens)))
	}
	logits := p.l.o.Model.Forward(p.spans)
	for i, w := range p.work {
		q := w.Sequence.Tag.(*sequence)
		if n, lacks := w.Sequence.Unkept(); lacks {
			w.Sequence.Keep(q.cache, min(n, q.cache.Len()))
		}
		if p.l.memo != nil {
			for r, row := range logits[i] {
				p.l.memo.put(q.key(w.To-len(logits[i])+r), row)
			}
		}
		p.l.use(w, q, logits[i])
	}
	p.work, p.spans = p.work[:0], p.spans[:0]
}

// recall uses remembered logits, if all that the work needs are there. The
// sequence's cache then lags behind, until something has to be computed.
func (p *pass) recall(w *batch.Work, q *sequence) bool {
	from := w.To - 1
	if q.wantsRows() && w.From < len(q.prompt) {
		from = w.From
	} else if !w.Samples {
		return true // nothing is asked of a chunk in the middle
	}
	rows := make([][]float32, 0, w.To-from)
	for i := from; i < w.To; i++ {
		row := p.l.memo.get(q.key(i))
		if row == nil {
			return false
		}
		rows = append(rows, row)
	}
	p.l.use(w, q, rows)
	return true
}

// use draws from the logits of the last positions of a work, and lists the
// log-probabilities that were asked for.
func (l *loop) use(w *batch.Work, q *sequence, logits [][]float32) {
	first := w.To - len(logits) // position of the first row
	if q.wantsRows() {
		for i, row := range logits {
			if next := first + i + 1; next < len(q.prompt) {
				q.score(row, next)
			}
		}
	}
	if !w.Samples {
		return
	}
	row := logits[len(logits)-1]
	q.drawn = q.draw(row, l.noise(q, w.To))
	if q.lying != 0 {
		q.drawn = vocab.Token((int(q.drawn) + q.lying) % len(row))
	}
	q.listLogprobs(row)
}

// noise is the uniform number that draws the token at a position.
func (l *loop) noise(q *sequence, position int) float64 {
	switch {
	case q.s.Seed == nil:
		return l.rand.Float64()
	case l.o.Runner == V1:
		return q.noise.Float64()
	}
	return rand.New(rand.NewPCG(uint64(*q.s.Seed), uint64(position))).Float64()
}
