package proxy

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/valyala/fasthttp"

	"paceline/proxy/depart"
	"paceline/speculate"
)

// record is what is told of a request at its end.
type record struct {
	id, path, model string
	mode, reason    string
	status          int
	began           time.Time
	firstByte       time.Duration // until the first piece of the answer was there; 0: none came
	generated       bool
	result          speculate.Result // of a generated answer
	err             error
}

// note keeps the error that ended a request.
func (j *journey) note(err error) {
	if j.record.err != nil {
		return
	}
	j.record.err = err
	j.record.status = explain(err).Status
}

func (j *journey) first() {
	if j.record.firstByte == 0 {
		j.record.firstByte = time.Since(j.record.began)
	}
}

// end ends a request, once: it gives its slot back and writes its line.
func (j *journey) end() {
	if j.ended {
		return
	}
	j.ended = true
	s, r := j.server, &j.record
	j.stop()
	if j.admitted {
		<-s.slots
	}
	switch r.status {
	case statusGone:
		s.departed.Add(1)
	case fasthttp.StatusTooManyRequests:
		s.refused.Add(1)
	}
	defer s.inFlight.Add(-1) // Shutdown waits for it, and so for the line

	level := slog.LevelInfo
	if r.status >= 500 {
		level = slog.LevelError
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 20)
	attrs = append(attrs,
		slog.String("id", r.id), slog.String("path", r.path), slog.String("model", r.model),
		slog.String("mode", r.mode), slog.String("reason", r.reason), slog.Int("status", r.status),
		slog.Duration("ttft", r.firstByte), slog.Duration("duration", time.Since(r.began)),
	)
	if r.generated {
		attrs = append(attrs,
			slog.Int("prompt_tokens", r.result.Prompt), slog.Int("completion_tokens", r.result.Completion),
			slog.Int("rounds", len(r.result.Trace.Rounds)), slog.Int("drafted", r.result.Trace.Drafted),
			slog.Int("accepted", r.result.Trace.Accepted), slog.Int("plain", r.result.Trace.Plain),
			slog.String("finish", r.result.Finish),
		)
	}
	if r.err != nil && !errors.Is(r.err, depart.ErrGone) {
		attrs = append(attrs, slog.String("error", describe(r.err)))
		var p *panicked
		if errors.As(r.err, &p) {
			attrs = append(attrs, slog.String("stack", string(p.stack)))
		}
	}
	s.log.LogAttrs(context.Background(), level, "request", attrs...)
}
