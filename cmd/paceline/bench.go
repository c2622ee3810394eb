package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"paceline/benchmark"
	"paceline/engine"
	"paceline/proxy"
	"paceline/proxy/pair"
	"paceline/proxy/plan"
	"paceline/simulate/batch"
)

type benchCommand struct {
	profiles
	Target    string `help:"URL of a target of your own, instead of the built-in pair." group:"Engines of your own"`
	Draft     string `help:"URL of its draft." group:"Engines of your own"`
	Model     string `help:"The target's model; default the only one." group:"Engines of your own"`
	KeyEnv    string `help:"Environment variable that holds the API key of both." placeholder:"NAME" group:"Engines of your own"`
	Length    int    `default:"${length}" help:"Tokens drafted in a round."`
	Forced    bool   `help:"Draft in every round, also where plain streaming would be faster."`
	Verify    string `default:"auto" enum:"auto,score,fan-out" help:"How drafts are verified (auto, score, fan-out)."`
	Lanes     int    `default:"8" help:"Built-in engine pairs that are measured side by side, each with one request at a time."`
	Prompts   int    `default:"12" help:"Prompts to ask, of the built-in list."`
	Repeat    int    `default:"1" help:"How often each is asked, both ways."`
	MaxTokens int    `default:"192" help:"Tokens of an answer at most."`
	JSON      string `help:"Write the report to this file as JSON." type:"path"`
}

func (b *benchCommand) Run(ctx context.Context) error {
	if (b.Target == "") != (b.Draft == "") {
		return errors.New("--target and --draft go together")
	}
	all := benchmark.Prompts()
	if b.Length < 1 || b.Length > pair.MaxLength || b.Prompts < 1 || b.Prompts > len(all) || b.Repeat < 1 || b.Lanes < 1 || b.MaxTokens < 2 {
		return fmt.Errorf("want --length 1 to %d, --prompts 1 to %d, --repeat and --lanes at least 1, --max-tokens at least 2", pair.MaxLength, len(all))
	}
	began := time.Now()
	recorder := benchmark.NewRecorder(b.Length, b.Forced)
	lanes, stop, err := b.open(ctx, recorder)
	defer stop()
	if err != nil {
		return err
	}
	p := benchmark.Plan{
		Lanes: lanes, Prompts: all[:b.Prompts], Repeat: b.Repeat, MaxTokens: b.MaxTokens,
		Seed: "bench-" + strconv.FormatInt(began.UnixNano(), 36),
	}
	if err := benchmark.Warm(ctx, p); err != nil {
		return err
	}
	recorder.Start()
	bar := benchmark.NewBar(os.Stderr, p.Answers())
	p.Step = bar.Step
	pairs, err := benchmark.Measure(ctx, p)
	bar.Clear()
	if err != nil {
		return err
	}
	report := benchmark.NewReport(b.setup(len(lanes)), benchmark.Run{
		Pairs: pairs, Rounds: recorder.Rounds(), Took: time.Since(began), Own: b.own(),
	})
	report.Print(os.Stdout)
	if b.JSON != "" {
		return report.Write(b.JSON)
	}
	return nil
}

func (b *benchCommand) setup(lanes int) benchmark.Setup {
	s := benchmark.Setup{
		Target: b.Profile, Draft: b.DraftProfile, Length: b.Length, Lanes: lanes,
		Prompts: b.Prompts, Repeat: b.Repeat, MaxTokens: b.MaxTokens,
	}
	if b.Target != "" {
		s.Target, s.Draft = b.Target, b.Draft
	}
	return s
}

// open opens the lanes, side by side since a probe takes some of the engine's
// steps; stop closes whatever was opened, also after an error.
func (b *benchCommand) open(ctx context.Context, recorder *benchmark.Recorder) (lanes []benchmark.Lane, stop func(), err error) {
	lanes = make([]benchmark.Lane, b.lanes())
	stops, errs := make([]func(), len(lanes)), make([]error, len(lanes))
	var wait sync.WaitGroup
	for i := range lanes {
		wait.Go(func() { lanes[i], stops[i], errs[i] = b.lane(ctx, recorder) })
	}
	wait.Wait()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	return lanes, stop, errors.Join(errs...)
}

// lane opens one lane: the built-in pair, or the engines that the flags name,
// with a proxy in front.
func (b *benchCommand) lane(ctx context.Context, recorder *benchmark.Recorder) (_ benchmark.Lane, stop func(), err error) {
	o, closeEngines := b.named(), func() {}
	if b.Target == "" {
		engines, err := b.start()
		if err != nil {
			return benchmark.Lane{}, closeEngines, err
		}
		o, closeEngines = engines.pair(), func() { _ = engines.close() } // the process ends after it
	}
	o.Controller = recorder.Controller
	o.Eager = b.Forced // a target that is faster than its draft would never be left
	o.Policy.Verify = map[string]plan.Wish{"auto": plan.Auto, "score": plan.OnlyScoring, "fan-out": plan.OnlyFanOut}[b.Verify]
	lane, closeFront, err := openLane(ctx, o)
	return lane, func() { closeFront(); closeEngines() }, err
}

func (b *benchCommand) lanes() int {
	if b.Target != "" {
		return 1 // an engine of one's own is measured with one request at a time
	}
	return min(b.Lanes, b.Prompts*b.Repeat)
}

// own are the built-in engines' own times.
func (b *benchCommand) own() benchmark.Costs {
	target, known := batch.ProfileNamed(b.Profile)
	draft, _ := batch.ProfileNamed(b.DraftProfile)
	if b.Target != "" || !known || target.Token == 0 {
		return benchmark.Costs{}
	}
	return benchmark.Costs{
		Token: target.Token,
		Draft: draft.Token,
		// Beside the draft and its bonus, half a cache block on average.
		Pass: target.StepTime(b.Length + 1 + target.Block/2),
		Rest: 2*target.Network + 2*draft.Network,
	}
}

// named is the pair of the engines that the flags name.
func (b *benchCommand) named() pair.Options {
	var client engine.ClientOptions
	if b.KeyEnv != "" {
		client.Header = [][2]string{{"Authorization", "Bearer " + os.Getenv(b.KeyEnv)}}
	}
	name := b.Model
	if name == "" {
		name = "target"
	}
	return pair.Options{
		Name: name, Policy: plan.Policy{Rounds: true},
		Target: pair.Endpoint{URL: b.Target, Model: b.Model, Client: client},
		Drafts: []pair.Endpoint{{Name: "draft", URL: b.Draft, Client: client}},
	}
}

// openLane puts a proxy of its own in front of a pair.
func openLane(ctx context.Context, o pair.Options) (lane benchmark.Lane, stop func(), err error) {
	stop = func() {}
	target, err := engine.NewClient(o.Target.URL, o.Target.Client)
	if err != nil {
		return lane, stop, err
	}
	f, err := openFront("127.0.0.1:0", proxy.Options{Grace: time.Millisecond}, []pair.Options{o}, slog.New(slog.DiscardHandler))
	if err != nil {
		return lane, stop, err
	}
	through, err := engine.NewClient(f.url, engine.ClientOptions{})
	if err != nil {
		panic("BUG: our own URL: " + err.Error())
	}
	stop = func() {
		target.Close()
		through.Close()
		_ = f.shutdown(context.Background()) // what is measured has been measured
	}
	if err := f.probe(ctx); err != nil {
		return lane, stop, err
	}
	caps := f.pairs[0].Target()
	return benchmark.Lane{
		Target: benchmark.Way{Client: target, Model: caps.Model},
		Proxy:  benchmark.Way{Client: through, Model: o.Name},
		Salt:   caps.PrefixCache,
	}, stop, nil
}
