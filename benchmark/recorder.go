package benchmark

import (
	"slices"
	"sync"

	"paceline/speculate"
)

// Recorder keeps every round of the generations whose controllers it makes,
// for what the wire does not tell: survival by position and times.
type Recorder struct {
	length int
	forced bool

	mu     sync.Mutex // guards what follows
	rounds []speculate.Round
	on     bool
}

// NewRecorder returns a recorder whose controllers draft length tokens a round
// and, as in the proxy, step back to plain streaming where that is slower;
// forced ones never do, for the cost of a length that does not pay.
func NewRecorder(length int, forced bool) *Recorder {
	return &Recorder{length: length, forced: forced}
}

// Controller makes the controller of one generation.
func (r *Recorder) Controller() speculate.Controller {
	return recording{speculate.NewFixed(r.length, r.forced), r}
}

// Start begins to record; rounds before it (of the warm-up) are forgotten.
func (r *Recorder) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on = true
}

// Rounds returns what was recorded.
func (r *Recorder) Rounds() []speculate.Round {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rounds)
}

type recording struct {
	speculate.Controller
	into *Recorder
}

func (c recording) Observe(round speculate.Round) {
	c.Controller.Observe(round)
	c.into.mu.Lock()
	defer c.into.mu.Unlock()
	if c.into.on {
		c.into.rounds = append(c.into.rounds, round)
	}
}
