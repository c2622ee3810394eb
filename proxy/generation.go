package proxy

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"paceline/engine"
	"paceline/proxy/plan"
	"paceline/proxy/wire"
	"paceline/speculate"
	"paceline/vocab"
)

// generation is what a speculated request needs beside its target.
type generation struct {
	pair    *pair
	drafter int
	request *wire.Request
	target  speculate.Target
	options speculate.Options
}

func (p *pair) generation(r *wire.Request, d plan.Decision, drafter int, asked wish, target *engine.Capabilities) *generation {
	g := &generation{pair: p, drafter: drafter, request: r, options: speculate.Options{
		Limits: limits(&d.Settings, target), Drafter: p.Drafts[drafter].Drafter, Eager: p.Eager, Patience: p.Patience,
	}}
	g.options.Limits.AnyPrompt = r.PromptTokens > 0
	if asked.length >= 0 {
		g.options.Controller = speculate.NewFixed(asked.length, true)
	} else {
		g.options.Controller = p.Controller()
	}
	if costs := p.costs[drafter].Load(); costs != nil {
		g.options.Costs = *costs
	}
	return g
}

// limits says where an answer ends.
func limits(s *engine.Settings, target *engine.Capabilities) speculate.Limits {
	l := speculate.Limits{
		MaxTokens: s.MaxTokens, MinTokens: s.MinTokens, Context: target.MaxModelLen,
		Stop: s.Stop, IncludeStop: s.IncludeStop,
		Ends: slices.Clone(s.StopTokenIDs), Named: slices.Clone(s.StopTokenIDs),
	}
	if s.IgnoreEOS {
		return l
	}
	l.Ends = append(l.Ends, s.EOS...)
	// An end of sequence that the engine does not name stays without a name
	// where the client gave it as a stop token too.
	l.Named = slices.DeleteFunc(l.Named, func(id vocab.Token) bool {
		return slices.Contains(s.EOS, id) && !slices.Contains(target.NamedEOS, id)
	})
	l.Named = append(l.Named, target.NamedEOS...)
	return l
}

// run generates the answer, and keeps what it teaches.
func (g *generation) run(ctx context.Context, j *journey, emit func(speculate.Piece) error) (speculate.Result, error) {
	result, err := speculate.Run(ctx, g.target, g.options, emit)
	j.record.result, j.record.generated = result, result.Trace != nil
	g.pair.costs[g.drafter].Store(&result.Costs)
	return result, err
}

// whole answers in one piece.
func (j *journey) whole(ctx context.Context, fc *fasthttp.RequestCtx, g *generation) error {
	var text strings.Builder
	result, err := g.run(ctx, j, func(p speculate.Piece) error {
		j.first()
		text.WriteString(p.Text)
		return nil
	})
	if err != nil {
		return err
	}
	fc.Response.Header.SetContentType("application/json")
	fc.Response.SetBodyRaw(j.reply(g).Body(nil, text.String(), ending(&result), usage(&result), acceptance(&result)))
	return nil
}

func (j *journey) reply(g *generation) *wire.Reply {
	return wire.NewReply(g.request.Chat, j.record.id, time.Now().Unix(), g.pair.Name)
}

func ending(r *speculate.Result) wire.Ending {
	return wire.Ending{Reason: r.Finish, StopString: r.StopString, StopToken: int(r.StopToken), HasStopToken: r.HasStopToken}
}

func usage(r *speculate.Result) wire.Usage {
	return wire.Usage{Prompt: r.Prompt, Completion: r.Completion, Cached: r.Cached}
}

func acceptance(r *speculate.Result) wire.Acceptance {
	a := wire.Acceptance{Drafted: r.Trace.Drafted, Accepted: r.Trace.Accepted}
	for _, round := range r.Trace.Rounds {
		if round.Drafted > 0 {
			a.Steps++
		}
	}
	return a
}
