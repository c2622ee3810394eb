package batch

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"paceline/vocab"

	"pgregory.net/rapid"
)

// engine drives a scheduler on an event clock: arrivals and departures happen
// at their times, steps begin as soon as they may, and every sampled token is
// the next number.
type engine struct {
	s      *Scheduler
	now    time.Time
	step   *Step
	events eventQueue
	log    strings.Builder
	names  map[*Sequence]string
	left   map[*Sequence]int // tokens still to sample
	order  int
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newEngine(o Options) *engine {
	return &engine{s: New(o), now: epoch, names: map[*Sequence]string{}, left: map[*Sequence]int{}}
}

// at schedules what happens after so much time.
func (e *engine) at(d time.Duration, f func()) {
	e.order++
	heap.Push(&e.events, event{at: epoch.Add(d), order: e.order, do: f})
}

// add lets a request arrive that samples n tokens.
func (e *engine) add(d time.Duration, name string, r Request, n int) {
	e.at(d, func() {
		q := e.s.Add(r, e.now)
		e.names[q], e.left[q] = name, n
	})
}

func (e *engine) run() string {
	for {
		if step, ok := e.s.Step(e.now); ok {
			e.begin(step)
		}
		if len(e.events) == 0 {
			return e.log.String()
		}
		next := heap.Pop(&e.events).(event)
		e.now = next.at
		next.do()
		for len(e.events) > 0 && e.events[0].at.Equal(e.now) && e.step == nil {
			heap.Pop(&e.events).(event).do()
		}
	}
}

func (e *engine) begin(step *Step) {
	e.step = step
	fmt.Fprintf(&e.log, "%7.1fms step %d of %d tokens, %.1f ms:", ms(e.now.Sub(epoch)), step.Number, step.Tokens, ms(step.Duration()))
	for _, w := range step.Work {
		fmt.Fprintf(&e.log, " %s[%d:%d]", e.names[w.Sequence], w.From, w.To)
		if w.Samples {
			e.log.WriteByte('+')
		}
	}
	e.log.WriteByte('\n')
	e.at(step.End.Sub(epoch), e.end)
}

func (e *engine) end() {
	step := e.step
	e.step = nil
	e.s.Finish()
	for _, w := range step.Work {
		q := w.Sequence
		if !w.Samples || q.state == gone {
			continue
		}
		if e.left[q]--; e.left[q] == 0 {
			e.s.Remove(q)
			continue
		}
		q.Append(vocab.Token(len(q.Tokens)))
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

type event struct {
	at    time.Time
	order int
	do    func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// prompt returns the tokens 0 … n−1.
func prompt(n int) []vocab.Token {
	p := make([]vocab.Token, n)
	for i := range p {
		p[i] = vocab.Token(i)
	}
	return p
}

func profile(t *testing.T, name string) Profile {
	p, ok := ProfileNamed(name)
	if !ok {
		t.Fatalf("no profile %q", name)
	}
	return p
}

func TestTimelines(t *testing.T) {
	dense := profile(t, "dense-6.5")
	var b strings.Builder
	f := func(title string, e *engine) {
		fmt.Fprintf(&b, "# %s\n%s\n", title, e.run())
	}

	e := newEngine(Options{Profile: dense})
	e.add(0, "a", Request{Prompt: prompt(100)}, 3)
	f("one request: prefill, then one token a step", e)

	e = newEngine(Options{Profile: dense})
	e.add(0, "a", Request{Prompt: prompt(40)}, 2)
	e.add(time.Millisecond, "b", Request{Prompt: prompt(41)}, 1)
	e.add(2*time.Millisecond, "c", Request{Prompt: prompt(42)}, 1)
	f("what arrives during a step waits for the next one, then goes together; full blocks are shared", e)

	e = newEngine(Options{Profile: dense, BlockSize: 32})
	for k := range 5 { // the fan-out of a draft of four tokens
		e.add(0, fmt.Sprint("d", k), Request{Prompt: prompt(40 + k)}, 1)
	}
	f("a fan-out that arrives in one instant takes one step: later ones hit what earlier ones fill", e)

	e = newEngine(Options{Profile: dense, BlockSize: 32})
	for k := range 5 {
		e.add(time.Duration(k)*time.Microsecond, fmt.Sprint("d", k), Request{Prompt: prompt(40 + k)}, 1)
	}
	f("a fan-out whose prompts arrive one after the other takes two steps", e)

	e = newEngine(Options{Profile: dense, StepTokens: 64})
	e.add(0, "a", Request{Prompt: prompt(10)}, 4)
	e.add(time.Millisecond, "b", Request{Prompt: prompt(150), Salt: "s"}, 1)
	f("a long prompt is computed in chunks beside the running sequence", e)

	e = newEngine(Options{Profile: dense})
	e.add(0, "a", Request{Prompt: prompt(64)}, 1)
	e.add(time.Second, "b", Request{Prompt: prompt(64)}, 1)
	e.add(2*time.Second, "c", Request{Prompt: prompt(64), SkipCache: true}, 1)
	e.add(3*time.Second, "d", Request{Prompt: prompt(64), Salt: "s"}, 1)
	f("a cached prompt still computes its last block; skipping the cache or another salt computes all", e)

	e = newEngine(Options{Profile: dense, Blocks: 6})
	e.add(0, "a", Request{Prompt: prompt(31), Salt: "a"}, 18)
	e.add(0, "b", Request{Prompt: prompt(47), Salt: "b"}, 3)
	f("out of blocks: the last admitted sequence is preempted and starts again from what is left of it", e)

	e = newEngine(Options{Profile: profile(t, "spark4-maverick"), BlockSize: 1})
	e.add(0, "a", Request{Prompt: prompt(30)}, 1)
	e.add(5*time.Second, "v", Request{Prompt: prompt(33)}, 1)
	f("verifying three drafted tokens on a mixture with blocks of one token", e)

	e = newEngine(Options{Profile: dense, MaxRunning: 2})
	for k := range 3 {
		e.add(0, fmt.Sprint("r", k), Request{Prompt: prompt(8), Salt: fmt.Sprint(k)}, 2)
	}
	f("no more than two run at once", e)

	golden(t, "timelines.txt", b.String())
}

// TestSteps checks the scheduler against what must hold of any run: every
// token of every sequence is computed exactly once between its hit and its
// end, hits are full blocks of equal content that were computed before, no
// step exceeds its budget, and all blocks come back.
func TestSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Options{
			BlockSize:  rapid.SampledFrom([]int{1, 2, 4, 16}).Draw(t, "block"),
			StepTokens: rapid.IntRange(1, 64).Draw(t, "budget"),
			MaxRunning: rapid.IntRange(1, 8).Draw(t, "running"),
		}
		o.Blocks = 64/o.BlockSize + rapid.IntRange(2, 60).Draw(t, "blocks")
		m := &model{s: New(o), o: o, content: map[*block][]vocab.Token{}, live: map[*Sequence]int{}}
		t.Repeat(map[string]func(*rapid.T){
			"add":    m.add,
			"abort":  m.abort,
			"step":   m.stepOrFinish,
			"step 2": m.stepOrFinish,
			"step 3": m.stepOrFinish,
			"":       m.check,
		})
		m.drain(t)
	})
}

// model is the dumb oracle: it remembers the tokens whose values each block
// holds and how far every sequence was computed.
type model struct {
	s       *Scheduler
	o       Options
	content map[*block][]vocab.Token
	live    map[*Sequence]int // computed so far
	all     []*Sequence
	step    *Step
}

func (m *model) add(t *rapid.T) {
	// Few different tokens, so that prompts share prefixes.
	p := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) vocab.Token {
		return vocab.Token(rapid.IntRange(0, 1).Draw(t, "token"))
	}), 1, 40).Draw(t, "prompt")
	q := m.s.Add(Request{
		Prompt: p, Salt: rapid.SampledFrom([]string{"", "", "x"}).Draw(t, "salt"),
		SkipCache: rapid.IntRange(0, 9).Draw(t, "skip") == 0,
	}, epoch)
	m.all = append(m.all, q)
	m.live[q] = 0
}

func (m *model) abort(t *rapid.T) {
	if len(m.all) == 0 {
		t.Skip()
	}
	i := rapid.IntRange(0, len(m.all)-1).Draw(t, "which")
	m.s.Abort(m.all[i])
	delete(m.live, m.all[i])
	m.all = append(m.all[:i:i], m.all[i+1:]...)
}

func (m *model) stepOrFinish(t *rapid.T) {
	if m.step != nil {
		m.finish(t)
		return
	}
	step, ok := m.s.Step(epoch)
	if !ok {
		if len(m.all) > 0 {
			t.Fatalf("nothing to do with %d sequences", len(m.all))
		}
		return
	}
	m.step = step
	total := 0
	for _, w := range step.Work {
		m.compute(t, w)
		total += w.To - w.From
	}
	if total != step.Tokens || total > m.o.StepTokens || total == 0 {
		t.Fatalf("step of %d tokens says %d, budget %d", total, step.Tokens, m.o.StepTokens)
	}
}

func (m *model) compute(t *rapid.T, w Work) {
	q := w.Sequence
	b := m.o.BlockSize
	if w.Fresh {
		if q.Preempted == 0 && w.From != q.Cached {
			t.Fatalf("starts at %d, cached %d", w.From, q.Cached)
		}
		if w.From%b != 0 || w.From >= len(q.Tokens) || q.skip && w.From > 0 {
			t.Fatalf("hit %d of %d tokens, skip %v", w.From, len(q.Tokens), q.skip)
		}
		for i := range w.From / b {
			if have := m.content[q.blocks[i]]; !slices.Equal(have, append(saltTokens(q), q.Tokens[:(i+1)*b]...)) {
				t.Fatalf("hit block %d holds %v, want %v", i, have, q.Tokens[:(i+1)*b])
			}
		}
		m.checkHit(t, q, w.From)
	} else if w.From != m.live[q] {
		t.Fatalf("computes [%d:%d] after %d", w.From, w.To, m.live[q])
	}
	if w.To > len(q.Tokens) || w.To <= w.From || w.Samples != (w.To == len(q.Tokens)) {
		t.Fatalf("computes [%d:%d] of %d, samples %v", w.From, w.To, len(q.Tokens), w.Samples)
	}
	if _, ok := m.live[q]; ok {
		m.live[q] = w.To
	}
	for i := w.From / b; (i+1)*b <= w.To; i++ {
		m.content[q.blocks[i]] = append(saltTokens(q), q.Tokens[:(i+1)*b]...)
	}
	if n, lacks := q.Unkept(); lacks && len(q.Tokens)%3 > 0 { // sometimes nothing is kept
		q.Keep(slices.Clone(q.Tokens[:n]), n)
	}
}

// checkHit: a payload belongs to the tokens that it is said to cover.
func (m *model) checkHit(t *rapid.T, q *Sequence, from int) {
	payload, n, _ := q.Hit()
	if n > from {
		t.Fatalf("payload covers %d of %d hit tokens", n, from)
	}
	if payload != nil && !slices.Equal(payload.([]vocab.Token)[:n], q.Tokens[:n]) {
		t.Fatalf("payload %v for %v", payload, q.Tokens[:n])
	}
}

// saltTokens is a prefix that tells the salts apart in content.
func saltTokens(q *Sequence) []vocab.Token {
	if q.s == nil || len(q.hashes) == 0 {
		return nil
	}
	if q.hashes[0] == chain(root("x"), q.Tokens[:q.s.o.BlockSize]) {
		return []vocab.Token{-1}
	}
	return nil
}

func (m *model) finish(t *rapid.T) {
	work := m.step.Work
	m.step = nil
	m.s.Finish()
	for _, w := range work {
		q := w.Sequence
		if _, ok := m.live[q]; !ok || !w.Samples {
			continue
		}
		if len(q.Tokens) >= 60 || rapid.IntRange(0, 4).Draw(t, "ends") == 0 {
			m.s.Remove(q)
			delete(m.live, q)
			m.all = without(m.all, q)
			continue
		}
		q.Append(vocab.Token(rapid.IntRange(0, 1).Draw(t, "sampled")))
	}
}

func (m *model) check(t *rapid.T) {
	p := m.s.pool
	if p.made > p.size || p.idle < 0 || m.s.Running() > m.o.MaxRunning {
		t.Fatalf("made %d of %d blocks, %d idle, %d running", p.made, p.size, p.idle, m.s.Running())
	}
	idle := 0
	for b := p.free.next; b != &p.free; b = b.next {
		idle++
		if b.refs != 0 {
			t.Fatal("a held block is in the free list")
		}
	}
	if idle != p.idle {
		t.Fatalf("%d blocks in the free list, count says %d", idle, p.idle)
	}
	for h, list := range p.byHash {
		for _, b := range list {
			if b.hash != h || !b.shared {
				t.Fatal("a block is found by a hash that is not its own")
			}
		}
	}
}

func (m *model) drain(t *rapid.T) {
	if m.step != nil {
		m.s.Finish()
	}
	for _, q := range m.all {
		m.s.Abort(q)
	}
	if m.s.Running() != 0 || m.s.Waiting() != 0 || m.s.pool.used() != 0 {
		t.Fatalf("%d running, %d waiting, %d blocks held after everything left", m.s.Running(), m.s.Waiting(), m.s.pool.used())
	}
}

// TestLeastRecentlyUsed: of two cached prompts the one that was let go earlier
// is evicted first, and from its end.
func TestLeastRecentlyUsed(t *testing.T) {
	s := New(Options{BlockSize: 4, Blocks: 8})
	pass := func(q *Sequence) int {
		step, _ := s.Step(epoch)
		s.Finish()
		s.Remove(q)
		return step.Work[0].From
	}
	a, b := Request{Prompt: prompt(13), Salt: "a"}, Request{Prompt: prompt(13), Salt: "b"}
	pass(s.Add(a, epoch))
	pass(s.Add(b, epoch))
	pass(s.Add(a, epoch)) // a was used last
	pass(s.Add(Request{Prompt: prompt(15), Salt: "c"}, epoch))
	if got := pass(s.Add(a, epoch)); got != 12 {
		t.Errorf("%d tokens of a are cached, want 12", got)
	}
	if got := pass(s.Add(b, epoch)); got != 0 && got != 4 && got != 8 {
		t.Errorf("%d tokens of b are cached, want fewer than all", got)
	}
}

func TestChain(t *testing.T) {
	p := prompt(8)
	if chain(root(""), p[:4]) == chain(root("x"), p[:4]) {
		t.Error("salt does not matter")
	}
	if chain(chain(root(""), p[:4]), p[4:]) == chain(root(""), p[4:]) {
		t.Error("what precedes a block does not matter")
	}
	if chain(root(""), []vocab.Token{1, 2}) == chain(root(""), []vocab.Token{1, 258}) {
		t.Error("tokens run into each other")
	}
}
