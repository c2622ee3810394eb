package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"paceline/proxy/depart"
	"paceline/proxy/wire"
)

// Server is the proxy's HTTP server.
type Server struct {
	o       Options
	log     *slog.Logger
	created int64 // of the models, as clients see it
	http    *fasthttp.Server
	slots   chan struct{} // one for each request that is worked on
	table   atomic.Pointer[table]

	base     context.Context // of all requests
	cancel   context.CancelCauseFunc
	draining atomic.Bool

	requests, inFlight, departed, refused atomic.Int64
}

// Stats count what a server did since it was made.
type Stats struct {
	Requests int64 // begun
	InFlight int64 // begun and not ended
	Departed int64 // ended by their clients
	Refused  int64 // 429
}

// New returns a server of the pairs.
func New(o Options, pairs []Pair, log *slog.Logger) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o = o.filled()
	s := &Server{o: o, log: log, created: time.Now().Unix(), slots: make(chan struct{}, o.MaxInFlight)}
	if err := s.SetPairs(pairs); err != nil {
		return nil, err
	}
	s.base, s.cancel = context.WithCancelCause(context.Background())
	s.http = &fasthttp.Server{
		Handler:                      s.handle,
		ErrorHandler:                 s.refuse,
		MaxRequestBodySize:           o.MaxBody,
		ReadBufferSize:               16 << 10, // the longest header of a request
		ReadTimeout:                  o.ReadTimeout,
		IdleTimeout:                  o.IdleTimeout,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		DisablePreParseMultipartForm: true,
		CloseOnShutdown:              true,
		Logger:                       quiet{}, // what matters of a connection is in its requests' lines
		// No WriteTimeout: it would bound a whole stream. Options.Patience bounds
		// each write.
	}
	return s, nil
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// SetPairs replaces the pairs for the requests that come from now on. On an
// error the old ones stay.
func (s *Server) SetPairs(pairs []Pair) error {
	t, err := newTable(pairs)
	if err != nil {
		return err
	}
	s.table.Store(t)
	return nil
}

// Serve serves on ln until Shutdown.
func (s *Server) Serve(ln net.Listener) error {
	watched, err := depart.Listen(ln, s.o.Patience)
	if err != nil {
		return fmt.Errorf("cannot watch the clients: %w", err)
	}
	defer watched.Close()
	return s.http.Serve(watched)
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{Requests: s.requests.Load(), InFlight: s.inFlight.Load(), Departed: s.departed.Load(), Refused: s.refused.Load()}
}

// Shutdown stops accepting, lets requests run on for Options.Grace or until
// ctx is done, ends those that are left, and returns when all have ended.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	defer s.cancel(errShutdown)
	grace, stop := context.WithTimeout(ctx, s.o.Grace)
	defer stop()
	if err := s.http.ShutdownWithContext(grace); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	s.cancel(errShutdown)
	const last = 5 * time.Second // cancelled requests end in milliseconds
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); s.inFlight.Load() > 0; <-tick.C {
		if time.Since(began) > last {
			return fmt.Errorf("cannot end %d requests", s.inFlight.Load())
		}
	}
	return nil
}

// handle is called by fasthttp for every request, on the connection's own
// goroutine. One of the two places that recover a panic.
func (s *Server) handle(fc *fasthttp.RequestCtx) {
	j := s.begin(fc)
	err := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = &panicked{p, debug.Stack()}
			}
		}()
		return j.run(fc)
	}()
	if err != nil {
		writeError(fc, err)
		j.note(err)
	}
	if !j.streaming {
		j.end()
	}
}

// refuse answers what is not a whole request. fasthttp closes the connection
// after it.
func (s *Server) refuse(fc *fasthttp.RequestCtx, err error) {
	told := wire.Invalid("", "the request cannot be read")
	var tooLong *fasthttp.ErrSmallBuffer
	var timeout net.Error
	conn := depart.From(fc.Conn())
	switch {
	case conn != nil && conn.Gone(), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		err = depart.ErrGone
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		told = wire.TooLarge(s.o.MaxBody)
	case errors.As(err, &tooLong):
		told.Status, told.Code, told.Message = 431, "header_too_large", "the request's header is too large"
	case errors.As(err, &timeout) && timeout.Timeout():
		told.Status, told.Code, told.Message = 408, "request_timeout", "the request did not arrive in time"
	}
	if conn != nil {
		conn.Linger(2 * time.Second) // it may still be sending
	}
	j := s.begin(fc)
	if !errors.Is(err, depart.ErrGone) {
		err = told
	}
	writeError(fc, err)
	j.note(err)
	j.end()
}
