package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"paceline/proxy/pair"
	"paceline/proxy/plan"
	"paceline/simulate"
	"paceline/simulate/batch"
	"paceline/simulate/lm"
)

// profiles are the latency profiles of a built-in pair.
type profiles struct {
	Profile      string `default:"dense-6.5" help:"Machine of the built-in target (${profiles})."`
	DraftProfile string `default:"draft-1b" help:"Machine of the built-in draft."`
}

// builtin is a running built-in pair of engines.
type builtin struct {
	profile, draftProfile batch.Profile
	target, draft         *simulate.Server
}

// start starts both engines on loopback.
func (p *profiles) start() (*builtin, error) {
	b := &builtin{}
	var err error
	if b.profile, err = profileNamed(p.Profile); err != nil {
		return nil, err
	}
	if b.draftProfile, err = profileNamed(p.DraftProfile); err != nil {
		return nil, err
	}
	draft, err := lm.Draft()
	if err != nil {
		return nil, fmt.Errorf("cannot load the built-in draft: %w", err)
	}
	if b.target, err = simulate.Start(gpu("target", nil, b.profile)); err != nil {
		return nil, fmt.Errorf("cannot start the built-in target: %w", err)
	}
	if b.draft, err = simulate.Start(gpu("draft", draft, b.draftProfile)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the built-in draft: %w", err), b.close())
	}
	return b, nil
}

// gpu is a server as it would run on the profiles' machines: GPUs, for
// which vLLM takes its second model runner.
func gpu(name string, model *lm.Model, profile batch.Profile) simulate.Options {
	return simulate.Options{Name: name, Model: model, Profile: profile, Runner: simulate.V2}
}

// pair is the pair of the two, as the proxy is to be told of it.
func (b *builtin) pair() pair.Options {
	return pair.Options{
		Name: "target", Length: builtinLength, Policy: plan.Policy{Rounds: true},
		Target: pair.Endpoint{URL: b.target.URL()},
		Drafts: []pair.Endpoint{{Name: "draft", URL: b.draft.URL()}},
	}
}

// builtinLength is the draft length that pays most on the default profiles
// (bench/README.md).
const builtinLength = 8

func (b *builtin) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var errs []error
	for _, s := range []*simulate.Server{b.target, b.draft} {
		if s != nil {
			errs = append(errs, s.Close(ctx))
		}
	}
	return errors.Join(errs...)
}

func profileNamed(name string) (batch.Profile, error) {
	p, ok := batch.ProfileNamed(name)
	if !ok {
		return p, fmt.Errorf("no profile is called %q; there are %s", name, profileNames())
	}
	return p, nil
}

func profileNames() string {
	var names []string
	for _, p := range batch.Profiles() {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}
