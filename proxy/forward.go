package proxy

import (
	"context"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"

	"paceline/engine"
	"paceline/proxy/plan"
	"paceline/proxy/wire"
)

const modePassThrough = "pass-through"

// model answers GET /v1/models/{name}.
func (j *journey) model(fc *fasthttp.RequestCtx, name string) error {
	p, err := j.server.table.Load().find(name)
	if err != nil {
		return err
	}
	m := wire.Model{ID: name, Created: j.server.created, MaxModelLen: p.Target.Capabilities().MaxModelLen}
	fc.Response.Header.SetContentType("application/json")
	fc.Response.SetBodyRaw(m.Append(nil))
	return nil
}

// other passes every call through that is not for generating text, to the pair
// whose model the body names, or else to the first one.
func (j *journey) other(ctx context.Context, fc *fasthttp.RequestCtx) error {
	t := j.server.table.Load()
	p, body := t.pairs[0], fc.PostBody()
	if len(t.pairs) > 1 && len(body) > 0 && body[0] == '{' {
		if named := t.byName[gjson.GetBytes(body, "model").Str]; named != nil {
			p = named
		}
	}
	j.record.model = p.Name
	if err := j.admit(ctx); err != nil {
		return err
	}
	if len(body) == 0 && !fc.IsPost() && !fc.IsPut() && !fc.IsPatch() {
		body = nil // not even a length of 0
	}
	return j.forward(ctx, fc, p, plan.Endpoint, body)
}

// forward passes a request through: its bytes to the target, the answer's
// bytes to the client, as they come.
func (j *journey) forward(ctx context.Context, fc *fasthttp.RequestCtx, p *pair, reason plan.Reason, payload []byte) error {
	j.say(fc, modePassThrough, reason)
	uri := fc.URI()
	path := string(uri.PathOriginal())
	if query := uri.QueryString(); len(query) > 0 {
		path += "?" + string(query)
	}
	if strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return wire.Invalid("", "the path holds spaces or control characters")
	}
	answer, err := p.Client.Do(ctx, &engine.Request{
		Method: string(fc.Method()), Path: path, Header: forwarded(&fc.Request.Header, j.record.id), Body: payload,
	})
	if err != nil {
		return err
	}
	j.first()
	j.record.status = answer.Status
	fc.SetStatusCode(answer.Status)
	copyHeader(&fc.Response.Header, answer)
	length := int(max(answer.Length, -1))
	if fc.IsHead() { // says how long the answer to GET would be
		length, _ = strconv.Atoi(answer.Header.Get("Content-Length"))
	}
	fc.Response.ImmediateHeaderFlush = length < 0 // as the target did
	j.answer(fc, &body{
		read:   answer.Body.Read,
		stop:   func() { _ = answer.Body.Close() },
		events: isEventStream(fc.Response.Header.ContentType()),
		whole:  fc.IsHead() || length == 0,
		left:   length,
	})
	return nil
}
