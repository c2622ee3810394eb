package simulate

import (
	"context"
	"io"
	"net"
	"time"

	"paceline/simulate/vllm"
)

// writer turns what a generation produces into the events of a stream.
type writer interface {
	// events are those of a delta.
	events(d delta) []any
	// tail is what follows the last delta, before [DONE].
	tail() []any
}

// stream is the body of a streamed answer. fasthttp reads it from the
// connection's goroutine and flushes after every Read: one event, one flush.
type stream struct {
	s     *Server
	g     *generation
	w     writer
	ctx   context.Context
	stop  func() // ends the watch
	leave func() // ends the tracking
	fault *active
	conn  net.Conn

	queue [][]byte // events to write
	rest  []byte   // of the event that is being written
	due   time.Time
	sent  int
	ended bool // all that will come is in the queue
}

// stream starts a streamed answer. What is wrong with the request in the
// engine's own eyes becomes its only event.
func (r *request) stream(g *generation, wrong *vllm.Error, w writer, ids []string) *vllm.Error {
	conn := r.ctx.Conn()
	b := &stream{s: r.s, g: g, w: w, fault: r.fault, conn: conn}
	b.ctx, b.stop = watch(r.s.ctx, conn)
	b.leave = func() {}
	if wrong != nil {
		b.queue = [][]byte{event(wrong.Event()), event([]byte("[DONE]"))}
		b.ended = true
	} else {
		b.leave = r.s.track(g, ids)
		r.s.loop.submit(g)
	}
	r.ctx.SetContentType("text/event-stream; charset=utf-8")
	r.ctx.Response.ImmediateHeaderFlush = true
	r.ctx.SetBodyStream(b, -1)
	return nil
}

func event(data []byte) []byte {
	return append(append([]byte("data: "), data...), '\n', '\n')
}

// Read implements io.Reader.
func (b *stream) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if len(b.queue) == 0 {
			if b.ended {
				return 0, io.EOF
			}
			if err := b.fill(); err != nil {
				return 0, err
			}
			continue
		}
		if err := b.wait(); err != nil {
			return 0, err
		}
		next := b.queue[0]
		b.queue = b.queue[1:]
		var err error
		if next, err = b.fault.event(b, next); err != nil {
			return 0, err
		}
		b.rest = next
		b.sent++
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// fill takes the next deltas out of the outbox.
func (b *stream) fill() error {
	deltas, done, err := b.g.next(b.ctx)
	if err != nil {
		if b.ctx.Err() != nil {
			return err // the client left, or the server closes
		}
		b.ended = true
		b.queue = append(b.queue, event((&vllm.Error{Status: 500, Type: "InternalServerError", Message: err.Error()}).Event()), event([]byte("[DONE]")))
		return nil
	}
	for _, d := range deltas {
		if due := d.at.Add(b.s.networkDelay()); due.After(b.due) {
			b.due = due
		}
		for _, e := range b.w.events(d) {
			b.queue = append(b.queue, event(vllm.Marshal(e)))
		}
	}
	if done {
		b.ended = true
		for _, e := range b.w.tail() {
			b.queue = append(b.queue, event(vllm.Marshal(e)))
		}
		b.queue = append(b.queue, event([]byte("[DONE]")))
	}
	return nil
}

// wait lets the network's delay pass.
func (b *stream) wait() error { return sleep(b.ctx, time.Until(b.due)) }

// sleep waits, but not for a context that ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close implements io.Closer: fasthttp calls it when the answer is written, or
// cannot be.
func (b *stream) Close() error {
	if b.g != nil {
		b.s.loop.abort(b.g.seqs, false)
	}
	b.leave()
	b.stop()
	return nil
}

// whole waits for a complete answer. A client that leaves ends the work.
func (r *request) whole(g *generation, ids []string) ([]delta, *vllm.Error) {
	ctx, stop := watch(r.s.ctx, r.ctx.Conn())
	defer stop()
	defer r.s.track(g, ids)()
	r.s.loop.submit(g)
	deltas, err := g.all(ctx)
	if err != nil {
		r.s.loop.abort(g.seqs, false)
		if ctx.Err() != nil && r.s.ctx.Err() == nil {
			r.ctx.SetConnectionClose()
			return nil, &vllm.Error{Status: 400, Type: "BadRequestError", Message: "Client disconnected"}
		}
		return nil, &vllm.Error{Status: 500, Type: "InternalServerError"}
	}
	return deltas, nil
}
