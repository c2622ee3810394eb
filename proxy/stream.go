package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"runtime/debug"

	"github.com/valyala/fasthttp"

	"paceline/proxy/depart"
	"paceline/proxy/wire"
	"paceline/speculate"
)

const eventStream = "text/event-stream; charset=utf-8"

func isEventStream(contentType []byte) bool {
	kind, _, _ := bytes.Cut(contentType, []byte(";"))
	return equalFold(bytes.TrimSpace(kind), "text/event-stream")
}

// answer makes b the answer; the journey ends when fasthttp has closed it.
func (j *journey) answer(fc *fasthttp.RequestCtx, b *body) {
	b.journey, j.streaming = j, true
	fc.Response.SetBodyStream(b, b.left)
}

// body is an answer that fasthttp reads, and flushes read by read, on the
// connection's own goroutine; it closes it whatever happens.
type body struct {
	journey *journey
	read    func(p []byte) (int, error)
	stop    func() // ends what read reads from
	events  bool   // server-sent events
	left    int    // bytes that are due, -1: unknown

	whole bool    // everything was read
	tail  [2]byte // the last two bytes
	err   error   // what broke it
	rest  []byte  // of the event that tells so
}

// Read is the second of the two places that recover a panic.
func (b *body) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = b.broken(p, &panicked{r, debug.Stack()})
		}
	}()
	if b.err != nil {
		return b.broken(p, b.err)
	}
	n, err = b.read(p)
	switch {
	case n > 1:
		b.tail = [2]byte(p[n-2 : n])
	case n == 1:
		b.tail = [2]byte{b.tail[1], p[0]}
	}
	if b.left > 0 {
		b.left -= n
		b.whole = b.left <= 0
	}
	switch {
	case err == io.EOF:
		b.whole = true
	case err != nil && n > 0:
		b.fail(err) // told by the next Read
		return n, nil
	case err != nil:
		return b.broken(p, err)
	}
	return n, err
}

// fail keeps the error. A client that still reads events gets one more, if the
// last one is complete; otherwise the connection breaks off, and so it learns.
func (b *body) fail(err error) {
	b.err = err
	b.journey.note(err)
	b.events = b.events && (b.tail == [2]byte{'\n', '\n'} || b.tail == [2]byte{})
	if b.events && !errors.Is(err, depart.ErrGone) {
		b.rest = explain(err).AppendEvent(nil)
	}
}

func (b *body) broken(p []byte, err error) (int, error) {
	if b.err == nil {
		b.fail(err)
		if b.rest == nil {
			return 0, err
		}
	}
	if len(b.rest) == 0 {
		if b.events && !errors.Is(b.err, depart.ErrGone) {
			return 0, io.EOF
		}
		return 0, b.err
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close ends the answer, whether it was read to its end or not.
func (b *body) Close() error {
	b.stop()
	if !b.whole && b.err == nil { // a write failed
		b.journey.note(depart.ErrGone)
	}
	b.journey.end()
	return nil
}

// stream answers event by event. It returns when the first one is there, so
// that what fails before it gets a status of its own.
func (j *journey) stream(ctx context.Context, fc *fasthttp.RequestCtx, g *generation) error {
	// The generation runs as a coroutine of the connection's goroutine: it goes
	// on when the reader asks for the next event, so there is no queue, nothing
	// to lock, and a panic in it comes out where the reader recovers. While the
	// client does not read, the kernel's buffer fills first; then it waits.
	next, stop := iter.Pull2(j.events(ctx, g))
	event, err, ok := next()
	if !ok {
		panic("BUG: a generation ended without an event")
	}
	if err != nil {
		stop()
		return err
	}
	fc.Response.Header.SetContentType(eventStream)
	fc.Response.Header.Set("Cache-Control", "no-cache")
	fc.Response.Header.Set("X-Accel-Buffering", "no") // nginx in front would hold events back
	j.answer(fc, &body{read: reader(event, next), stop: stop, events: true, left: -1})
	return nil
}

// reader reads events one by one: a Read never returns bytes of two.
func reader(event []byte, next func() ([]byte, error, bool)) func(p []byte) (int, error) {
	return func(p []byte) (int, error) {
		if len(event) == 0 {
			var err error
			var ok bool
			if event, err, ok = next(); err != nil {
				return 0, err
			} else if !ok {
				return 0, io.EOF
			}
		}
		n := copy(p, event)
		event = event[n:]
		return n, nil
	}
}

// events yields the events of an answer; each is valid until the next is asked
// for. An error is the last thing that it yields.
func (j *journey) events(ctx context.Context, g *generation) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		w := &eventWriter{Reply: j.reply(g), yield: yield, begun: !g.request.Chat}
		result, err := g.run(ctx, j, func(p speculate.Piece) error {
			j.first()
			w.begin()
			if p.Text != "" {
				w.send(w.Content(w.buf, p.Text))
			}
			return w.stopped
		})
		switch accepted := acceptance(&result); {
		case w.stopped != nil:
			return
		case err != nil:
			yield(nil, err)
			return
		case g.request.IncludeUsage:
			w.begin()
			w.send(w.Finish(w.buf, ending(&result), nil))
			w.send(w.Usage(w.buf, usage(&result), accepted))
		default:
			w.begin()
			w.send(w.Finish(w.buf, ending(&result), &accepted))
		}
		w.send(w.Done(w.buf))
	}
}

// errStopped ends a generation whose events nobody reads any more.
var errStopped = errors.New("nobody reads the answer")

// eventWriter sends events, each as soon as it is written.
type eventWriter struct {
	*wire.Reply
	yield   func([]byte, error) bool
	buf     []byte // empty, for the next event
	begun   bool   // a chat begins with its role
	stopped error
}

func (w *eventWriter) begin() {
	if !w.begun {
		w.begun = true
		w.send(w.Role(w.buf))
	}
}

func (w *eventWriter) send(event []byte) {
	if w.stopped == nil && !w.yield(event, nil) {
		w.stopped = errStopped
	}
	w.buf = event[:0]
}
