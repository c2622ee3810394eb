package pair_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"paceline/engine"
	"paceline/engine/vllm"
	"paceline/proxy/pair"
	"paceline/proxy/plan"
	"paceline/simulate"
)

func TestPrivate(t *testing.T) {
	f := func(base string, want bool) {
		t.Helper()
		if got := pair.Private(base); got != want {
			t.Errorf("%s: %v, want %v", base, got, want)
		}
	}
	f("http://127.0.0.1:8000", true)
	f("http://[::1]:8000", true)
	f("http://10.1.2.3:8000/engine", true)
	f("http://192.168.0.4", true)
	f("http://172.16.0.4", true)
	f("http://169.254.1.2", true)
	f("http://[fd00::1]:8000", true)
	f("http://localhost:8000", true)
	f("http://spark1:8000", true)
	f("http://8.8.8.8", false)
	f("http://172.32.0.4", false)
	f("https://api.example.org", false)
	f("http://", false)
	f("http://[::1", false)
}

func TestOpenRefuses(t *testing.T) {
	f := func(o pair.Options, want string) {
		t.Helper()
		p, err := pair.Open(o, slog.New(slog.DiscardHandler))
		if err == nil {
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	good := pair.Endpoint{URL: "http://127.0.0.1:1"}
	f(pair.Options{Target: good}, "without a name")
	f(pair.Options{Name: "m"}, `the target of pair "m"`)
	f(pair.Options{Name: "m", Target: good, Length: -1}, "length is -1")
	f(pair.Options{Name: "m", Target: good, Length: 65}, "want 1 to 64")
	f(pair.Options{Name: "m", Target: good, Drafts: []pair.Endpoint{good, {URL: "ftp://x"}}}, `draft "draft-2" of pair "m"`)
}

// gate stands in front of an engine and can be shut: connections are cut.
func gate(t *testing.T, engine string) (base string, open *atomic.Bool) {
	t.Helper()
	to, err := url.Parse(engine)
	if err != nil {
		t.Fatal(err)
	}
	open = &atomic.Bool{}
	forward := httputil.NewSingleHostReverseProxy(to)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !open.Load() {
			panic(http.ErrAbortHandler)
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, open
}

// TestEndpointsMayComeLater: a pair opens while nothing answers, and finds its
// endpoints when they do.
func TestEndpointsMayComeLater(t *testing.T) {
	e := startEngines(t, simulate.Options{})
	target, targetUp := gate(t, e.target.URL())
	draft, draftUp := gate(t, e.draft.URL())
	p, err := pair.Open(pair.Options{
		Name: "m", Target: pair.Endpoint{URL: target}, Drafts: []pair.Endpoint{{URL: draft}},
		ProbeEvery: 20 * time.Millisecond,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	state := p.Proxy().Drafts[0].State
	if err := p.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), target) {
		t.Errorf("nothing answers: %v", err)
	}
	if got := state(); got != plan.DraftFailing {
		t.Errorf("nothing answers: draft %v", got)
	}
	draftUp.Store(true)
	if err := p.Probe(t.Context()); err == nil {
		t.Error("the target does not answer, and the probe succeeds")
	}
	if got := state(); got != plan.DraftFailing {
		t.Errorf("the target is unknown: draft %v", got)
	}
	targetUp.Store(true)
	if err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if got := state(); got != plan.DraftReady {
		t.Errorf("both answer: draft %v", got)
	}
	if caps := p.Target(); caps.Model != "target" || caps.VocabSize == 0 {
		t.Errorf("both answer: %+v", caps)
	}
}

// TestWatch: what comes later is found without being asked for.
func TestWatch(t *testing.T) {
	e := startEngines(t, simulate.Options{})
	draft, up := gate(t, e.draft.URL())
	p, err := pair.Open(pair.Options{Name: "m", Target: pair.Endpoint{URL: e.target.URL()}, Drafts: []pair.Endpoint{{URL: draft}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	up.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { p.Watch(ctx); close(done) }()
	state := p.Proxy().Drafts[0].State
	for deadline := time.Now().Add(20 * time.Second); state() != plan.DraftReady; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the draft was not found")
		}
	}
	cancel()
	<-done
}

// TestAnotherVocabulary: a draft whose ids mean something else is not used.
func TestAnotherVocabulary(t *testing.T) {
	e := startEngines(t, simulate.Options{})
	to, err := url.Parse(e.draft.URL())
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(to)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/tokenize" { // every text is another one to it
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"count":2,"max_model_len":2048,"tokens":[7,9],"token_strs":null}`))
			return
		}
		forward.ServeHTTP(w, r)
	}))
	defer s.Close()
	p, err := pair.Open(pair.Options{Name: "m", Target: pair.Endpoint{URL: e.target.URL()}, Drafts: []pair.Endpoint{{URL: s.URL}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Proxy().Drafts[0].State(); got != plan.DraftMismatch {
		t.Errorf("draft %v", got)
	}
}

func TestNames(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	base := "http://" + ln.Addr().String()
	p, err := pair.Open(pair.Options{
		Name: "m", Aliases: []string{"n"}, Target: pair.Endpoint{URL: base},
		Drafts: []pair.Endpoint{{URL: base + "/a"}, {Name: "small", URL: base + "/b"}},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	served := p.Proxy()
	if served.Name != "m" || len(served.Aliases) != 1 || served.Drafts[0].Name != "draft-1" || served.Drafts[1].Name != "small" {
		t.Errorf("%+v", served)
	}
	if got := append(p.Targets(), p.Drafts()...); strings.Join(got, " ") != base+" "+base+"/a "+base+"/b" {
		t.Errorf("%q", got)
	}
}

// Every reason that a dialect's table gives is one of plan's.
func TestReasonsOfTheTablesAreKnown(t *testing.T) {
	for name, table := range map[string]engine.Fields{"chat": vllm.ChatFields, "completions": vllm.CompletionFields} {
		for field, row := range table {
			if row.Rule == engine.Unsupported && !slices.Contains(plan.Reasons, plan.Reason(row.Reason)) {
				t.Errorf("%s: %s passes through for %q, which is no reason", name, field, row.Reason)
			}
		}
	}
}
