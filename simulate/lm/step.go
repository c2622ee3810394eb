package lm

import (
	"runtime"
	"sync"

	"paceline/vocab"
)

// maxRows is the number of positions that go through the layers together. More
// would not help (a panel of weights is then read from L1 nearly always) and
// would need more scratch memory; a target's step has 1 MB of it.
const maxRows = 128

// minWork is the least number of multiplications in a worker's share of a
// layer, about 160 µs of them. Starting and joining a goroutine costs some 5 µs
// a layer, and a quarter more processor time in small steps, because idle
// processors look for work before they sleep; other engines want these cores
// too (BenchmarkWorkers). A target's step is split from 4 positions on, a
// draft's from 32.
const minWork = 800_000

// row is one position of a step.
type row struct {
	cache    *Cache
	position int
	token    vocab.Token
	logits   []float32 // where they go; nil if they are not wanted
}

// plane is a matrix of activations: one vector of width quads per row of a
// step.
type plane struct {
	width int
	quads []quad
}

func newPlane(width int) plane { return plane{width, make([]quad, maxRows*width)} }

func (p plane) row(i int) []quad { return p.quads[i*p.width : (i+1)*p.width] }

// part is what one worker does of a step: rows lo to hi, hi not included.
type part struct {
	lo, hi int
	scores []quad // the worker's scratch: the attention of one head to a whole context
}

// step is the scratch memory of a Forward: up to maxRows positions on their way
// through the layers. A step is taken from the model's pool and put back within
// one call, and its size is fixed.
type step struct {
	model  *Model
	rows   []row
	work   int      // multiplications per row and layer, without attention
	x      plane    // the residual stream
	h      plane    // normalised x, and what is about to be added to x
	qkv    plane    // queries, keys and values
	mixed  plane    // attention's result
	hidden plane    // the MLP's gate, then up; the gate becomes its hidden vector
	scores [][]quad // one for each worker
}

func newStep(m *Model) *step {
	c := &m.config
	work := 0
	for _, w := range []*matrix{&m.weights.layers[0].qkv, &m.weights.layers[0].output, &m.weights.layers[0].gateUp, &m.weights.layers[0].down} {
		work += 16 * len(w.tiles)
	}
	s := &step{
		model:  m,
		rows:   make([]row, 0, maxRows),
		work:   work,
		x:      newPlane(c.Hidden / 4),
		h:      newPlane(c.Hidden / 4),
		qkv:    newPlane((c.Heads + 2*c.KVHeads) * c.HeadDim / 4),
		mixed:  newPlane(c.Heads * c.HeadDim / 4),
		hidden: newPlane(2 * c.Intermediate / 4),
	}
	return s
}

// push adds a position. A full step is run first: later positions of a sequence
// only need earlier ones' keys and values.
func (s *step) push(r row) {
	if len(s.rows) == maxRows {
		s.flush()
	}
	s.rows = append(s.rows, r)
}

// flush computes the positions of the step and empties it.
func (s *step) flush() { s.run(s.workers()) }

// run is flush with a number of workers. Between two layers they wait for each
// other, since attention reads the keys and values that other rows have written.
func (s *step) run(workers int) {
	for len(s.scores) < workers {
		s.scores = append(s.scores, make([]quad, (s.model.config.Context+3)/4))
	}
	for l := range s.model.config.Layers + 1 {
		s.between(l, workers)
	}
	clear(s.rows) // do not keep caches and logits alive
	s.rows = s.rows[:0]
}

// workers says over how many goroutines the step is split.
func (s *step) workers() int {
	n := min(len(s.rows), len(s.rows)*s.work/minWork)
	if n < 2 {
		return 1
	}
	return min(n, runtime.GOMAXPROCS(0))
}

// between takes all rows from the attention of layer l-1 to that of layer l,
// split evenly over the workers.
func (s *step) between(l, workers int) {
	if workers == 1 {
		s.advance(l, part{0, len(s.rows), s.scores[0]})
		return
	}
	var others sync.WaitGroup
	for i := 1; i < workers; i++ {
		others.Go(func() {
			s.advance(l, part{i * len(s.rows) / workers, (i + 1) * len(s.rows) / workers, s.scores[i]})
		})
	}
	s.advance(l, part{0, len(s.rows) / workers, s.scores[0]})
	others.Wait()
}

// advance ends layer l-1 for some rows and puts the keys and values of layer l
// in their caches. At l = 0 it starts from the tokens. At l = Layers it goes on
// to the logits, and does so only for the rows where they are wanted: no other
// row reads the last layer's output.
func (s *step) advance(l int, p part) {
	switch l {
	case 0:
		s.embed(p)
	case s.model.config.Layers:
		for p.lo < p.hi {
			wanted := p
			wanted.hi = p.lo + s.wanted(p)
			if wanted.hi > wanted.lo {
				s.finish(l-1, wanted)
				s.head(wanted)
			}
			p.lo = wanted.hi + 1
		}
		return
	default:
		s.finish(l-1, p)
	}
	s.project(l, p)
}

// wanted returns how many rows, one after another from p's first, want their
// logits.
func (s *step) wanted(p part) int {
	n := 0
	for p.lo+n < p.hi && s.rows[p.lo+n].logits != nil {
		n++
	}
	return n
}

// embed starts the residual stream.
func (s *step) embed(p part) {
	for i := p.lo; i < p.hi; i++ {
		at := int(s.rows[i].token) * s.x.width
		copy(s.x.row(i), s.model.weights.embedding[at:at+s.x.width])
	}
}

// project computes queries, keys and values and stores the latter two.
func (s *step) project(l int, p part) {
	c, w := &s.model.config, &s.model.weights
	for i := p.lo; i < p.hi; i++ {
		normalize(s.h.row(i), s.x.row(i), w.layers[l].attentionNorm, c.NormEps)
	}
	w.layers[l].qkv.multiply(s.qkv, s.h, p)
	width := c.HeadDim / 4
	for i := p.lo; i < p.hi; i++ {
		r, qkv := &s.rows[i], s.qkv.row(i)
		at := r.position * width / 2
		cos, sin := w.cos[at:at+width/2], w.sin[at:at+width/2]
		for head := range c.Heads + c.KVHeads {
			rotate(qkv[head*width:(head+1)*width], cos, sin)
		}
		keys := qkv[c.Heads*width:]
		values := keys[c.KVHeads*width:]
		for head := range c.KVHeads {
			first, end := head*width, (head+1)*width
			r.cache.store(slot{l, head, r.position}, keys[first:end], values[first:end])
		}
	}
}

// finish does what follows the projections of layer l: attention and the MLP.
func (s *step) finish(l int, p part) {
	c, w := &s.model.config, &s.model.weights.layers[l]
	for i := p.lo; i < p.hi; i++ {
		s.attend(l, i, p.scores)
	}
	w.output.multiply(s.h, s.mixed, p)
	for i := p.lo; i < p.hi; i++ {
		add(s.x.row(i), s.h.row(i))
		normalize(s.h.row(i), s.x.row(i), w.mlpNorm, c.NormEps)
	}
	w.gateUp.multiply(s.hidden, s.h, p)
	for i := p.lo; i < p.hi; i++ {
		hidden := s.hidden.row(i)
		gate(hidden[:w.down.in], hidden[w.down.in:])
	}
	w.down.multiply(s.h, s.hidden, p)
	for i := p.lo; i < p.hi; i++ {
		add(s.x.row(i), s.h.row(i))
	}
}

// attend mixes the values of row i in layer l. Consecutive query heads share a
// key and value head.
func (s *step) attend(l, i int, scores []quad) {
	c, r := &s.model.config, &s.rows[i]
	width, group := c.HeadDim/4, c.Heads/c.KVHeads
	queries, mixed := s.qkv.row(i), s.mixed.row(i)
	for head := range c.Heads {
		first, end := head*width, (head+1)*width
		r.cache.attend(slot{l, head / group, r.position}, queries[first:end], mixed[first:end], scores)
	}
}

// head computes the logits.
func (s *step) head(p part) {
	w := &s.model.weights
	for i := p.lo; i < p.hi; i++ {
		normalize(s.h.row(i), s.x.row(i), w.norm, s.model.config.NormEps)
	}
	for k := range w.head.out {
		panel := w.head.panel(k)
		for i := p.lo; i < p.hi; i++ {
			var sum quad
			dot(&sum, panel, s.h.row(i))
			copy(s.rows[i].logits[4*k:], sum[:]) // the last panel may be cut short
		}
	}
}

// multiply writes w·src to the first w.out quads of each row of dst. Each panel
// of weights meets all rows while it is in L1.
func (w *matrix) multiply(dst, src plane, p part) {
	for k := range w.out {
		panel := w.panel(k)
		for i := p.lo; i < p.hi; i++ {
			var sum quad
			dot(&sum, panel, src.row(i)[:w.in])
			dst.row(i)[k] = sum
		}
	}
}
