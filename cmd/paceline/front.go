package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"paceline/proxy"
	"paceline/proxy/pair"
)

// front is a running proxy with the pairs behind it.
type front struct {
	url    string
	pairs  []*pair.Pair
	server *proxy.Server
	served chan error // what Serve returned

	unwatch context.CancelFunc
	watches sync.WaitGroup
}

// openFront validates, listens and serves. It does not wait for any endpoint.
func openFront(listen string, o proxy.Options, pairs []pair.Options, log *slog.Logger) (*front, error) {
	f := &front{served: make(chan error, 1), unwatch: func() {}}
	var served []proxy.Pair
	for _, options := range pairs {
		p, err := pair.Open(options, log)
		if err != nil {
			f.close()
			return nil, err
		}
		f.pairs = append(f.pairs, p)
		served = append(served, p.Proxy())
	}
	var err error
	if f.server, err = proxy.New(o, served, log); err != nil {
		f.close()
		return nil, err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		f.close()
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	f.url = "http://" + ln.Addr().String()
	go func() { f.served <- f.server.Serve(ln) }()
	return f, nil
}

// probe asks all pairs' endpoints what they can do, side by side.
func (f *front) probe(ctx context.Context) error {
	errs := make([]error, len(f.pairs))
	var wait sync.WaitGroup
	for i, p := range f.pairs {
		wait.Go(func() { errs[i] = p.Probe(ctx) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// watch keeps probing until the front is shut down.
func (f *front) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	f.unwatch = cancel
	for _, p := range f.pairs {
		f.watches.Go(func() { p.Watch(ctx) })
	}
}

// shutdown lets requests end, then closes everything.
func (f *front) shutdown(ctx context.Context) error {
	f.unwatch()
	f.watches.Wait()
	err := f.server.Shutdown(ctx)
	if served := <-f.served; err == nil && served != nil && !errors.Is(served, net.ErrClosed) {
		err = served
	}
	f.close()
	return err
}

func (f *front) close() {
	for _, p := range f.pairs {
		p.Close()
	}
}

// where lists the endpoints behind the front.
func (f *front) where() (targets, drafts []string) {
	targets, drafts = []string{}, []string{}
	for _, p := range f.pairs {
		targets = append(targets, p.Targets()...)
		drafts = append(drafts, p.Drafts()...)
	}
	return targets, drafts
}
