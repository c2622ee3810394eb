package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"paceline/engine"
	"paceline/proxy/depart"
	"paceline/proxy/wire"
)

// statusGone is what a request counts as whose client has left: it is logged,
// never sent.
const statusGone = 499

var errShutdown = errors.New("the proxy is shutting down")

// busy is the refusal of a request that waited too long for its turn.
type busy struct{ retryAfter time.Duration }

func (b busy) Error() string { return "too many requests are in flight" }

// panicked is a panic that was recovered.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// explain turns any error into what the client is told.
func explain(err error) *wire.Error {
	var told *wire.Error
	var wait busy
	var broken *panicked
	var status *engine.StatusError
	upstream := func(code int, name, message string) *wire.Error {
		return &wire.Error{Status: code, Type: "upstream_error", Code: name, Message: message, Src: wire.Upstream}
	}
	own := func(code int, kind, name, message string) *wire.Error {
		return &wire.Error{Status: code, Type: kind, Code: name, Message: message, Src: wire.Proxy}
	}
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, depart.ErrGone):
		return own(statusGone, "client_closed_request", "", depart.ErrGone.Error())
	case errors.Is(err, errShutdown):
		return own(503, "server_error", "shutting_down", errShutdown.Error())
	case errors.As(err, &wait):
		return own(429, "rate_limit_error", "too_many_requests", wait.Error()+": try again later")
	case errors.As(err, &broken):
		return own(500, "server_error", "internal_error", "an internal error occurred")
	case errors.As(err, &status):
		return upstream(status.Status, "target_error", status.Message())
	case errors.Is(err, engine.ErrTooManyConns):
		return own(503, "server_error", "too_many_connections", "too many connections to the target are open")
	case errors.Is(err, engine.ErrStalled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return upstream(504, "target_timeout", "the target did not answer in time")
	}
	return upstream(502, "target_failed", "the target could not be reached or broke off its answer")
}

// writeError is the only place that writes an error before the header is out.
// An answer of the target's own is relayed as it is.
func writeError(fc *fasthttp.RequestCtx, err error) {
	fc.Response.ResetBody()
	var status *engine.StatusError
	if errors.As(err, &status) {
		fc.SetStatusCode(status.Status)
		for _, h := range status.Header {
			if name := []byte(h[0]); !hopByHop(name) && !ours(name) {
				fc.Response.Header.Add(h[0], h[1])
			}
		}
		fc.Response.SetBodyRaw(status.Body)
		return
	}
	e := explain(err)
	fc.SetStatusCode(e.Status)
	fc.Response.Header.SetContentType("application/json")
	fc.Response.SetBodyRaw(e.Append(nil))
	var wait busy
	if errors.As(err, &wait) {
		fc.Response.Header.Set("Retry-After", strconv.Itoa(max(1, int(wait.retryAfter.Seconds()))))
	}
	if e.Status == statusGone {
		fc.SetConnectionClose()
	}
}

// describe is an error for the log: without what an upstream said, which may
// repeat the prompt.
func describe(err error) string {
	var status *engine.StatusError
	if errors.As(err, &status) {
		return fmt.Sprintf("%s%s answered %d", status.URL, status.Path, status.Status)
	}
	return err.Error()
}
