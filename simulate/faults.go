package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// Fault is something that goes wrong with the requests to a path. Several may
// be set; a request takes the first that matches.
type Fault struct {
	// Kind is what happens:
	//
	//	status      the answer is Status with Body
	//	stall       nothing comes for For (0: until the fault is cleared), then all goes on
	//	stall_mid   the same in the middle of a stream, after After events
	//	cut         the connection is reset after After events of a stream; of another answer, in the middle of the body
	//	truncate    the stream ends after After events and half of one more, as if it were complete; another answer has half its body
	//	garbage     after After events come bytes that are no event; another answer is no JSON
	//	slow        every event, or the answer, comes For later
	//	lie         other tokens than the model's are written: a target or draft that is wrong
	//	bad_ids     token ids are answered that no vocabulary has
	//	refuse      no connection is accepted
	Kind string `json:"kind"`

	Path  string `json:"path,omitempty"`  // path or its beginning; "" any
	Skip  int    `json:"skip,omitempty"`  // requests that are left alone first
	Count int    `json:"count,omitempty"` // requests that it happens to; 0 all

	Status int           `json:"status,omitempty"` // 500
	Body   string        `json:"body,omitempty"`
	Retry  string        `json:"retry_after,omitempty"` // Retry-After header of status
	After  int           `json:"after,omitempty"`
	For    time.Duration `json:"for,omitempty"` // nanoseconds in JSON
}

const faultsPath = "/simulate/faults"

var errCut = errors.New("connection cut by a fault")

// faults are those that are set.
type faults struct {
	gate *gate

	mu      sync.Mutex
	list    []*active
	cleared chan struct{} // closed when the list is replaced
}

// active is a fault with its count of requests. The nil *active does nothing.
type active struct {
	Fault
	seen    int
	cleared <-chan struct{}
}

func newFaults(g *gate) *faults { return &faults{gate: g, cleared: make(chan struct{})} }

// SetFaults replaces the faults; without any, everything works again and what
// is stalled goes on.
func (s *Server) SetFaults(list ...Fault) error { return s.faults.set(list) }

// Sever resets all open connections, as a crash of the engine would.
func (s *Server) Sever() { s.listen.sever() }

func (f *faults) set(list []Fault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cleared)
	f.cleared = make(chan struct{})
	f.list = nil
	refuse := false
	for _, fault := range list {
		refuse = refuse || fault.Kind == "refuse"
		f.list = append(f.list, &active{Fault: fault, cleared: f.cleared})
	}
	return f.gate.shut(refuse)
}

// match returns the fault that a request to path has to suffer, or nil.
func (f *faults) match(path string) *active {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.list {
		if !strings.HasPrefix(path, a.Path) || a.Kind == "refuse" {
			continue
		}
		a.seen++
		if a.seen > a.Skip && (a.Count == 0 || a.seen <= a.Skip+a.Count) {
			now := *a
			return &now
		}
	}
	return nil
}

// answer does what a fault does to a request before it is looked at, and tells
// whether it is answered.
func (a *active) answer(life context.Context, ctx *fasthttp.RequestCtx) bool {
	if a == nil {
		return false
	}
	switch a.Kind {
	case "status":
		if a.Status == 0 {
			a.Status = fasthttp.StatusInternalServerError
		}
		ctx.SetStatusCode(a.Status)
		ctx.SetContentType("application/json")
		if a.Retry != "" {
			ctx.Response.Header.Set("Retry-After", a.Retry)
		}
		ctx.SetBodyString(a.Body)
		return true
	case "stall":
		watched, stop := watch(life, ctx.Conn())
		defer stop()
		a.stall(watched)
	case "slow":
		_ = sleep(life, a.For)
	}
	return false
}

// stall waits for the fault's time, for its end or for the client's.
func (a *active) stall(ctx context.Context) {
	var timer <-chan time.Time
	if a.For > 0 {
		t := time.NewTimer(a.For)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-a.cleared:
	case <-ctx.Done():
	}
}

// spoil does what a fault does to an answer that is not streamed.
func (a *active) spoil(ctx *fasthttp.RequestCtx) {
	if a == nil {
		return
	}
	body := ctx.Response.Body()
	switch a.Kind {
	case "truncate":
		ctx.SetBody(append([]byte(nil), body[:len(body)/2]...))
	case "garbage":
		ctx.SetBodyString("\x00\xff<html>502 Bad Gateway</html>")
	case "bad_ids":
		ctx.SetBody(badIDs(body))
	case "cut":
		half := append([]byte(nil), body[:len(body)/2]...)
		conn := ctx.Conn()
		ctx.SetBodyStream(&cutBody{half, conn}, len(body))
	}
}

// cutBody is a body whose connection is reset when it has been read.
type cutBody struct {
	rest []byte
	conn io.Closer
}

// Read implements io.Reader.
func (b *cutBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		reset(b.conn)
		return 0, errCut
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func reset(conn io.Closer) {
	if c, ok := conn.(*gateConn); ok {
		c.reset()
		return
	}
	_ = conn.Close()
}

// event does what a fault does to an event of a stream.
func (a *active) event(b *stream, event []byte) ([]byte, error) {
	if a == nil {
		return event, nil
	}
	switch {
	case a.Kind == "slow":
		return event, sleep(b.ctx, a.For)
	case a.Kind == "bad_ids":
		return badIDs(event), nil
	case b.sent != a.After:
		return event, nil
	}
	switch a.Kind {
	case "stall_mid":
		a.stall(b.ctx)
		return event, b.ctx.Err()
	case "cut":
		reset(b.conn)
		return nil, errCut
	case "truncate":
		b.ended, b.queue = true, nil
		return event[:len(event)/2], nil
	case "garbage":
		return []byte("data: {\"choices\": [\x00\xff\n\n"), nil
	}
	return event, nil
}

// badIDs adds a great deal to every first token id of an answer.
func badIDs(body []byte) []byte {
	return []byte(strings.ReplaceAll(string(body), `"token_ids":[`, `"token_ids":[1000000`))
}

// lying is what a fault adds to the tokens that a request draws.
func (a *active) lying() int {
	if a == nil || a.Kind != "lie" {
		return 0
	}
	return 1 + a.seen*37%500
}

// serveFaults serves /simulate/faults: POST sets a list, DELETE clears it.
func (s *Server) serveFaults(ctx *fasthttp.RequestCtx) {
	var list []Fault
	switch {
	case ctx.IsDelete():
	case ctx.IsPost():
		if err := json.Unmarshal(ctx.PostBody(), &list); err != nil {
			ctx.Error("cannot read the faults: "+err.Error(), fasthttp.StatusBadRequest)
			return
		}
	default:
		ctx.Error("POST a list of faults, or DELETE them", fasthttp.StatusMethodNotAllowed)
		return
	}
	if err := s.SetFaults(list...); err != nil {
		ctx.Error(err.Error(), fasthttp.StatusInternalServerError)
		return
	}
	ctx.SetStatusCode(fasthttp.StatusNoContent)
}
