package simulate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"paceline/simulate/vllm"

	"github.com/valyala/fasthttp"
)

// Server is a running engine.
type Server struct {
	o       *Options
	url     string
	http    *fasthttp.Server
	listen  *gate
	loop    *loop
	faults  *faults
	started time.Time
	ctx     context.Context // ends with the server
	cancel  context.CancelFunc
	served  chan error
	routes  map[string]route
	longest int // characters of the longest token

	mu     sync.Mutex
	jitter *rand.Rand
	byPath map[string]int
	live   map[string][]*sequence // by request id, for abort_requests
	ids    atomic.Uint64
}

// fingerprint is the system_fingerprint of every answer.
const fingerprint = "vllm-" + version + "-51a1e000"

const version = "0.32.0"

// Start starts an engine. It serves until Close.
func Start(o Options) (*Server, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	listener, err := newGate(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	s := &Server{
		o: &o, url: "http://" + listener.Addr().String(), listen: listener, started: time.Now(),
		served: make(chan error, 1), jitter: rand.New(rand.NewPCG(o.Seed, 3)),
		byPath: map[string]int{}, live: map[string][]*sequence{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.faults = newFaults(listener)
	s.routes = routes(!o.NoScaleOut)
	s.loop = newLoop(&o)
	t := o.Model.Tokenizer()
	for id := range t.Size() {
		s.longest = max(s.longest, len([]rune(t.Decode(tokensOf(id), false))))
	}
	s.http = &fasthttp.Server{
		Handler:               s.handle,
		Name:                  "uvicorn",
		IdleTimeout:           o.KeepAlive,
		MaxRequestBodySize:    256 << 20,
		CloseOnShutdown:       true,
		NoDefaultContentType:  true,
		Logger:                quiet{},
		NoDefaultServerHeader: false,
	}
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// quiet drops fasthttp's own log: what it says is in the answers.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

// URL is the engine's address, "http://127.0.0.1:PORT".
func (s *Server) URL() string { return s.url }

// Close ends the engine, running requests included. Connections that do not go
// within ctx are cut.
func (s *Server) Close(ctx context.Context) error {
	s.cancel()
	s.loop.close()
	err := s.http.ShutdownWithContext(ctx)
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	_ = s.listen.Close() // again: a server that had not begun to serve knew nothing of it
	s.listen.sever()
	if served := <-s.served; err == nil && served != nil && !errors.Is(served, net.ErrClosed) {
		err = served
	}
	if err != nil {
		return fmt.Errorf("cannot shut down: %w", err)
	}
	return nil
}

// handle routes a request.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	path := string(ctx.Path())
	s.mu.Lock()
	s.byPath[path]++
	s.mu.Unlock()
	route, ok := s.routes[path]
	if path == faultsPath && s.o.FaultsOverHTTP {
		s.serveFaults(ctx)
		return
	}
	if !s.authorised(path, ctx) {
		ctx.SetStatusCode(fasthttp.StatusUnauthorized)
		ctx.SetContentType("application/json")
		ctx.SetBodyString(`{"error":"Unauthorized"}`)
		return
	}
	f := s.faults.match(path)
	if f.answer(s.ctx, ctx) {
		return
	}
	switch {
	case !ok:
		s.refuse(ctx, vllm.ErrNotFound)
	case string(ctx.Method()) != route.method:
		s.refuse(ctx, vllm.ErrWrongMethod)
	case route.json && !strings.HasPrefix(strings.ToLower(string(ctx.Request.Header.ContentType())), "application/json"):
		s.refuse(ctx, vllm.ErrWrongMediaType)
	case s.loop.isDead() && route.method == fasthttp.MethodPost:
		s.refuse(ctx, &vllm.Error{Status: 500, Type: "InternalServerError"})
	default:
		s.delay()
		r := &request{s: s, ctx: ctx, fault: f}
		if err := route.serve(r); err != nil {
			s.refuse(ctx, err)
		}
	}
}

// authorised checks the key where it is asked for.
func (s *Server) authorised(path string, ctx *fasthttp.RequestCtx) bool {
	if s.o.Key == "" || !strings.HasPrefix(path, "/v1") && !strings.HasPrefix(path, "/inference") {
		return true
	}
	scheme, key, _ := strings.Cut(string(ctx.Request.Header.Peek("Authorization")), " ")
	return strings.EqualFold(scheme, "bearer") && key == s.o.Key
}

// route is what a path does. Its function answers, or returns what to refuse
// the request with.
type route struct {
	method string
	json   bool
	serve  func(*request) *vllm.Error
}

// request is one HTTP request on its way.
type request struct {
	s     *Server
	ctx   *fasthttp.RequestCtx
	fault *active
}

func routes(scaleOut bool) map[string]route {
	const get, post = fasthttp.MethodGet, fasthttp.MethodPost
	m := map[string]route{
		"/health":              {get, false, (*request).health},
		"/ping":                {get, false, (*request).health},
		"/version":             {get, false, (*request).version},
		"/metrics":             {get, false, (*request).metrics},
		"/openapi.json":        {get, false, (*request).openAPI},
		"/v1/models":           {get, false, (*request).models},
		"/tokenize":            {post, true, (*request).tokenize},
		"/detokenize":          {post, true, (*request).detokenize},
		"/v1/completions":      {post, true, (*request).completions},
		"/v1/chat/completions": {post, true, (*request).chat},
	}
	if scaleOut {
		m["/inference/v1/generate"] = route{post, true, (*request).generate}
		m["/inference/v1/abort_requests"] = route{post, false, (*request).abortRequests}
		m["/v1/completions/render"] = route{post, true, (*request).renderCompletion}
		m["/v1/chat/completions/render"] = route{post, true, (*request).renderChat}
		m["/v1/completions/derender"] = route{post, true, (*request).derenderCompletion}
		m["/v1/chat/completions/derender"] = route{post, true, (*request).derenderChat}
	}
	return m
}

// refuse answers with an error.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err *vllm.Error) {
	ctx.Response.Reset()
	ctx.SetContentType("application/json")
	ctx.SetStatusCode(err.Status)
	ctx.SetBody(err.Body())
}

// answer writes a JSON answer. A NaN in it is refused, as Python's writer does.
func (r *request) answer(v any) *vllm.Error {
	body := vllm.Marshal(v)
	if body == nil {
		return vllm.ErrNotCompliant
	}
	r.ctx.SetContentType("application/json")
	r.ctx.SetBody(body)
	r.fault.spoil(r.ctx)
	r.s.delay()
	return nil
}

// delay is the network's, one way.
func (s *Server) delay() {
	if d := s.networkDelay(); d > 0 {
		time.Sleep(d)
	}
}

func (s *Server) networkDelay() time.Duration {
	p := &s.o.Profile
	if p.Network == 0 && p.Jitter == 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := p.Network
	if p.Jitter > 0 {
		d += time.Duration(s.jitter.Int64N(int64(p.Jitter)))
	}
	return d
}

// requestID is the id of an answer: the header's, the body's, or a new one.
func (r *request) requestID(own string) string {
	if id := r.ctx.Request.Header.Peek("X-Request-Id"); len(id) > 0 {
		return string(id)
	}
	if own != "" {
		return own
	}
	return r.s.newID()
}

// newID is 16 hexadecimal digits that differ every time.
func (s *Server) newID() string {
	return fmt.Sprintf("%016x", (s.ids.Add(1)+s.o.Seed)*0x9e3779b97f4a7c15)
}

func (s *Server) checkModel(name string) *vllm.Error {
	if name != "" && name != s.o.Name {
		return vllm.UnknownModel(name, s.o.Name)
	}
	return nil
}

func (s *Server) engine() vllm.Engine {
	return vllm.Engine{Vocabulary: s.o.Model.Config().VocabSize, MaxLogprobs: s.o.MaxLogprobs, V2: s.o.Runner == V2}
}
