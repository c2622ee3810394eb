package benchmark

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"paceline/engine"
)

// Way is one of the two ways to an answer: a server, and the model's name there.
type Way struct {
	Client *engine.Client
	Model  string
}

// Lane is one target engine with a proxy in front of it. Lanes share nothing
// but the machine: each is asked one thing at a time, so that an engine has
// one sequence to work on, as the comparison supposes.
type Lane struct {
	Target, Proxy Way
	// Salt says that the target knows cache_salt, so that an answer cannot find
	// its twin's tokens in the prefix cache.
	Salt bool
}

// Plan is what to ask.
type Plan struct {
	Lanes     []Lane
	Prompts   []string
	Repeat    int
	MaxTokens int
	// Seed tells this run's cache salts from another's.
	Seed string
	// Step is called after each answer, from any goroutine.
	Step func()
}

// Answers is the number of answers that a plan takes.
func (p *Plan) Answers() int { return 2 * len(p.Prompts) * p.Repeat }

// Measure asks every prompt both ways, Repeat times, and returns the pairs in
// the order of prompts. The two answers of a pair follow each other on one
// lane; which comes first alternates, so that neither side always finds the
// warmer machine.
func Measure(ctx context.Context, p Plan) ([]Pair, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan int, len(p.Prompts)*p.Repeat)
	for i := range cap(jobs) {
		jobs <- i
	}
	close(jobs)
	pairs := make([]Pair, cap(jobs))
	var wait sync.WaitGroup
	for n, lane := range p.Lanes {
		wait.Go(func() {
			for i := range jobs {
				if ctx.Err() != nil {
					return
				}
				pair, err := p.pair(ctx, lane, i)
				if err != nil {
					cancel(fmt.Errorf("cannot measure prompt %d on lane %d: %w", i%len(p.Prompts), n, err))
					return
				}
				pair.Lane = n
				pairs[i] = pair
			}
		})
	}
	wait.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	slices.SortStableFunc(pairs, func(a, b Pair) int { return a.Prompt - b.Prompt })
	return pairs, nil
}

// pair asks job i both ways.
func (p *Plan) pair(ctx context.Context, lane Lane, i int) (Pair, error) {
	prompt, round := i%len(p.Prompts), i/len(p.Prompts)
	pair := Pair{Prompt: prompt}
	sides := []struct {
		name   string
		way    Way
		sample *Sample
	}{{"plain", lane.Target, &pair.Plain}, {"proxied", lane.Proxy, &pair.Proxied}}
	if (prompt+round)%2 == 1 {
		sides[0], sides[1] = sides[1], sides[0]
	}
	for _, side := range sides {
		q := p.question(lane, side.way.Model, p.Prompts[prompt], fmt.Sprintf("%s-%d-%s", p.Seed, i, side.name), p.MaxTokens)
		var err error
		if *side.sample, err = ask(ctx, side.way.Client, q); err != nil {
			return pair, err
		}
		if p.Step != nil {
			p.Step()
		}
	}
	return pair, nil
}

func (p *Plan) question(lane Lane, model, prompt, salt string, maxTokens int) *question {
	q := &question{
		Model: model, Messages: []message{{"user", prompt}}, MaxTokens: maxTokens,
		Stream: true, StreamOptions: map[string]any{"include_usage": true},
	}
	if lane.Salt {
		q.CacheSalt = salt
	}
	return q
}

// Warm opens the connections of every lane and lets the proxies learn the pace
// of their engines, as a server that has been running has; its answers do not
// count.
func Warm(ctx context.Context, p Plan) error {
	errs := make([]error, len(p.Lanes))
	var wait sync.WaitGroup
	for n, lane := range p.Lanes {
		wait.Go(func() {
			for i, way := range []Way{lane.Target, lane.Proxy} {
				if _, err := ask(ctx, way.Client, p.question(lane, way.Model, "Count from 1 to 5.", fmt.Sprintf("%s-warm-%d-%d", p.Seed, n, i), 8)); err != nil {
					errs[n] = err
					return
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
