package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"paceline/configs"
	"paceline/proxy/pair"
)

type serveCommand struct {
	profiles
	Config      string `type:"existingfile" help:"Configuration (YAML). Without it: the built-in pair."`
	Listen      string `help:"Where to listen, host:port; over the configuration's own (default ${listen})."`
	AllowRemote bool   `help:"Allow --listen on an address that other machines can reach. The proxy asks nobody who they are."`
	Ready       string `help:"Write a file with one JSON object (proxy, targets, drafts, pid) once requests are answered."`
	Quiet       bool   `help:"Log warnings and errors only."`
}

func (s *serveCommand) Run(ctx context.Context) error {
	c, err := s.configuration()
	if err != nil {
		return err
	}
	if s.Quiet {
		c.Log.Level = max(c.Log.Level, slog.LevelWarn)
	}
	log := slog.New(c.Log.Handler(os.Stderr))
	if s.Config == "" {
		engines, err := s.start()
		if err != nil {
			return err
		}
		defer func() { _ = engines.close() }() // the process ends after it
		c.Pairs = []pair.Options{engines.pair()}
	}
	f, err := openFront(c.Listen, c.Server, c.Pairs, log)
	if err != nil {
		return err
	}
	err = s.serve(ctx, f, log)
	if err == nil {
		log.Info("stopping when the answers that are running have ended")
	}
	// A second signal ends the process at once (main restored its default).
	return errors.Join(err, f.shutdown(context.Background()))
}

// serve says when requests are answered, and waits for the end.
func (s *serveCommand) serve(ctx context.Context, f *front, log *slog.Logger) error {
	for {
		err := f.probe(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			break
		}
		log.Warn("waiting for the target", "error", err.Error())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	f.watch()
	targets, drafts := f.where()
	if err := (ready{Proxy: f.url, Targets: targets, Drafts: drafts, PID: os.Getpid()}).announce(s.Ready); err != nil {
		return err
	}
	if s.Ready != "" {
		defer os.Remove(s.Ready) // what it says is over
	}
	fmt.Printf("\n%s\n\n", curl(f.url, f.pairs[0].Proxy().Name))
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.served:
		f.served <- err
		return fmt.Errorf("the server ended by itself: %w", err)
	}
}

// curl is a line that streams an answer.
func curl(proxy, model string) string {
	return fmt.Sprintf(`curl -N %s/v1/chat/completions -H 'Content-Type: application/json' -d '{"model":%q,"stream":true,"temperature":0,"messages":[{"role":"user","content":"Tell me a story about a fox named Mia."}]}'`, proxy, model)
}

// configuration reads the file and puts the flags over it.
func (s *serveCommand) configuration() (*configs.Config, error) {
	c := &configs.Config{Listen: configs.DefaultListen}
	if s.Config != "" {
		var err error
		if c, err = configs.Load(s.Config); err != nil {
			return nil, err
		}
	}
	if s.Listen != "" {
		if err := configs.CheckListen(s.Listen, s.AllowRemote); err != nil {
			return nil, fmt.Errorf("cannot use --listen: %w", err)
		}
		c.Listen = s.Listen
	}
	return c, nil
}
