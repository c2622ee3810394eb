package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"

	"paceline/engine"
	"paceline/proxy/depart"
	"paceline/proxy/plan"
	"paceline/proxy/wire"
	"paceline/speculate"
)

const (
	chatPath       = "/v1/chat/completions"
	completionPath = "/v1/completions"
	modelsPath     = "/v1/models"
)

// journey is one request on its way. It belongs to the connection's goroutine.
type journey struct {
	server   *Server
	stop     func() // ends the watch over the client
	admitted bool   // holds a slot

	streaming bool // the answer is a body that ends the journey when it is closed
	ended     bool
	record    record
}

// begin is where every request begins.
func (s *Server) begin(fc *fasthttp.RequestCtx) *journey {
	s.requests.Add(1)
	s.inFlight.Add(1)
	id := requestID(&fc.Request.Header)
	fc.Response.Header.Set(headerID, id)
	return &journey{server: s, stop: func() {}, record: record{
		id: id, path: string(fc.Path()), began: time.Now(), status: fasthttp.StatusOK,
	}}
}

// run answers a request. An error is written by its caller, who relies on it
// that nothing of the answer is out then.
func (j *journey) run(fc *fasthttp.RequestCtx) error {
	ctx, stop := depart.Context(j.server.base, fc.Conn())
	j.stop = stop
	switch path := j.record.path; {
	case path == chatPath && fc.IsPost():
		return j.generate(ctx, fc, true)
	case path == completionPath && fc.IsPost():
		return j.generate(ctx, fc, false)
	case path == modelsPath && fc.IsGet():
		fc.Response.Header.SetContentType("application/json")
		fc.Response.SetBodyRaw(wire.AppendModels(nil, j.server.table.Load().models(j.server.created)))
	case strings.HasPrefix(path, modelsPath+"/") && fc.IsGet():
		return j.model(fc, path[len(modelsPath)+1:])
	case strings.HasPrefix(path, "/v1/"):
		return j.other(ctx, fc)
	case path == "/health" && (fc.IsGet() || fc.IsHead()):
		if j.server.draining.Load() {
			return errShutdown
		}
		fc.Response.Header.SetContentType("application/json")
		fc.Response.SetBodyRaw([]byte(`{"status":"ok"}`))
	default:
		return &wire.Error{Status: 404, Type: "invalid_request_error", Code: "not_found", Src: wire.Proxy, Message: "there is nothing at this path"}
	}
	return nil
}

// generate is the journey of a chat completion or completion:
//
//	decode   the body is kept as it came; only what planning reads is parsed
//	route    model name -> pair
//	admit    wait for a slot, not for ever
//	plan     speculate, or pass through and why
//	rounds   the target renders the prompt with its first call; draft, verify
//	finish   usage, finish reason, log line: where the answer ends
func (j *journey) generate(ctx context.Context, fc *fasthttp.RequestCtx, chat bool) error {
	asked, err := readWish(&fc.Request.Header, j.server.o.MaxDraft)
	if err != nil {
		return err
	}
	if coding := fc.Request.Header.Peek("Content-Encoding"); len(coding) > 0 && !equalFold(coding, "identity") {
		return &wire.Error{Status: 415, Type: "invalid_request_error", Param: "Content-Encoding", Src: wire.Proxy, Message: "a compressed body cannot be read"}
	}
	request, err := wire.Decode(chat, bytes.Clone(fc.PostBody()))
	if err != nil {
		return err
	}
	j.record.model = request.Model
	p, err := j.server.table.Load().find(request.Model)
	if err != nil {
		return err
	}
	target := p.Target.Capabilities()
	if err := fits(request, &target); err != nil {
		return err
	}
	drafter, err := p.choose(asked.draft)
	if err != nil {
		return err
	}
	if err := j.admit(ctx); err != nil {
		return err
	}
	dialect := p.Target.Dialect(chat)
	decision, err := plan.Decide(plan.Input{
		Request: request, Off: asked.off, Policy: p.Policy, Draft: p.draftState(drafter),
		Opaque: chat && time.Now().UnixNano() < p.opaque.Load(),
		Target: target, Fields: dialect.Fields, Effective: dialect.Effective,
	})
	if err != nil {
		return err
	}
	body := request.For(target.Model)
	if !decision.Speculate() {
		return j.forward(ctx, fc, p, decision.Reason, body)
	}
	j.say(fc, decision.Verify.String(), "")
	g := p.generation(request, decision, drafter, asked, &target)
	g.target = p.Target.Generate(Generation{
		Chat: chat, Body: body, Mode: decision.Verify, Settings: decision.Settings,
		Header: sendAlong(&fc.Request.Header, j.record.id),
	})
	if request.Stream {
		err = j.stream(ctx, fc, g)
	} else {
		err = j.whole(ctx, fc, g)
	}
	if errors.Is(err, speculate.ErrOpaque) { // and nothing of it is out
		p.opaque.Store(time.Now().Add(opaqueFor).UnixNano())
		j.record.generated = false
		return j.forward(ctx, fc, p, plan.ToolsUnparsed, body)
	}
	return err
}

// say tells the plan.
func (j *journey) say(fc *fasthttp.RequestCtx, mode string, reason plan.Reason) {
	j.record.mode, j.record.reason = mode, string(reason)
	fc.Response.Header.Set(headerMode, mode)
	if reason != "" {
		fc.Response.Header.Set(headerReason, string(reason))
	}
}

// fits refuses what the target is known to have no room for.
func fits(r *wire.Request, target *engine.Capabilities) error {
	switch room := target.MaxModelLen; {
	case room > 0 && r.MaxTokens > room:
		name := "max_tokens"
		if r.Get("max_completion_tokens").Type == gjson.Number {
			name = "max_completion_tokens"
		}
		return wire.Invalid(name, fmt.Sprintf("%s is %d, the model's context has %d tokens", name, r.MaxTokens, room))
	case room > 0 && r.PromptTokens >= room && !r.Get("truncate_prompt_tokens").Exists():
		e := wire.Invalid("prompt", fmt.Sprintf("prompt has %d tokens, the model's context has %d and needs room for an answer", r.PromptTokens, room))
		e.Code = "context_length_exceeded"
		return e
	case target.VocabSize > 0 && int(r.LargestID) >= target.VocabSize:
		return wire.Invalid("prompt", fmt.Sprintf("prompt holds the token id %d, the vocabulary has %d", r.LargestID, target.VocabSize))
	}
	return nil
}

// admit waits for a slot.
func (j *journey) admit(ctx context.Context) error {
	s := j.server
	select {
	case s.slots <- struct{}{}:
		j.admitted = true
		return nil
	default:
	}
	wait := time.NewTimer(s.o.QueueWait)
	defer wait.Stop()
	select {
	case s.slots <- struct{}{}:
		j.admitted = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-wait.C:
		return busy{retryAfter: s.o.QueueWait}
	}
}
