package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Exchange is one request to an engine and its answer, as they went by.
type Exchange struct {
	Server string // which relay: "target", "draft"
	Method string
	Path   string // with the query
	Header http.Header
	Body   []byte

	Status   int    // 0: the engine did not answer
	Response []byte // what was handed on; if Gone, its end may not have arrived
	Gone     bool   // the caller left before the end
	Err      error  // from the engine

	Began, Ended time.Time // Ended is zero while it runs
}

// Recording is what one or more relays saw, in the order of arrival.
type Recording struct {
	mu        sync.Mutex
	exchanges []*Exchange
	changed   chan struct{} // closed and replaced when an exchange ends
}

// NewRecording returns an empty recording.
func NewRecording() *Recording { return &Recording{changed: make(chan struct{})} }

// Mark returns a position for Since.
func (r *Recording) Mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.exchanges)
}

// Since waits until every exchange after mark has ended, or ctx, and returns
// them.
func (r *Recording) Since(ctx context.Context, mark int) ([]Exchange, error) {
	for {
		list, running, changed := r.since(mark)
		if running == 0 {
			return list, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return list, errors.New("an exchange with an engine did not end")
		}
	}
}

func (r *Recording) since(mark int) (list []Exchange, running int, changed chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.exchanges[mark:] {
		list = append(list, *e)
		list[len(list)-1].Response = slices.Clone(e.Response)
		if e.Ended.IsZero() {
			running++
		}
	}
	return list, running, r.changed
}

func (r *Recording) begin(e *Exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, e)
}

func (r *Recording) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *Recording) end(e *Exchange, err error, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Ended, e.Err, e.Gone = time.Now(), err, gone
	close(r.changed)
	r.changed = make(chan struct{})
}

// Relay hands requests on to an engine, and answers back as they come, byte for
// byte. When the caller leaves, so does the relay. Duties of a caller: Close it.
type Relay struct {
	name      string
	engine    string // base URL
	recording *Recording
	transport *http.Transport
	server    *http.Server
	address   string
}

// StartRelay listens on loopback in front of an engine.
func StartRelay(name, engine string, recording *Recording) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{name: name, engine: strings.TrimSuffix(engine, "/"), recording: recording, address: l.Addr().String()}
	r.transport = &http.Transport{
		DisableCompression:  true,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     3 * time.Second, // uvicorn closes after 5 s
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = r.server.Serve(l) }()
	return r, nil
}

// URL is where the relay listens.
func (r *Relay) URL() string { return "http://" + r.address }

// Close stops listening and drops what is under way.
func (r *Relay) Close() {
	_ = r.server.Close()
	r.transport.CloseIdleConnections()
}

// hop are the headers that belong to one connection.
var hop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// ServeHTTP relays one request.
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	e := &Exchange{Server: r.name, Method: q.Method, Path: q.URL.RequestURI(), Header: q.Header.Clone(), Body: body, Began: time.Now()}
	r.recording.begin(e)
	err = r.relay(w, q, e)
	gone := q.Context().Err() != nil
	r.recording.end(e, err, gone)
	switch {
	case err == nil:
	case e.Status == 0 && !gone:
		http.Error(w, "relay: "+err.Error(), http.StatusBadGateway)
	default:
		panic(http.ErrAbortHandler)
	}
}

func (r *Relay) relay(w http.ResponseWriter, q *http.Request, e *Exchange) error {
	out, err := http.NewRequestWithContext(q.Context(), q.Method, r.engine+e.Path, strings.NewReader(string(e.Body)))
	if err != nil {
		return err
	}
	out.Header = e.Header.Clone()
	for _, h := range hop {
		out.Header.Del(h)
	}
	if len(e.Body) == 0 {
		out.Body, out.ContentLength = nil, 0
	}
	resp, err := r.transport.RoundTrip(out)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	r.recording.change(func() { e.Status = resp.StatusCode })
	for _, h := range hop {
		resp.Header.Del(h)
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	return r.copy(w, resp.Body, e)
}

// copy hands every read on at once. It is recorded first: when the caller leaves
// meanwhile, nobody can tell how much of it still got through.
func (r *Relay) copy(w http.ResponseWriter, body io.Reader, e *Exchange) error {
	flush := http.NewResponseController(w)
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			r.recording.change(func() { e.Response = append(e.Response, buf[:n]...) })
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := flush.Flush(); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
