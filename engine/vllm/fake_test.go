package vllm

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"paceline/engine"
	"paceline/vocab"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, // fasthttp's, in the built-in engine; they sleep
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// fake is a server that answers as a test says and remembers what it was asked.
type fake struct {
	t      *testing.T
	url    string
	client *engine.Client

	mu     sync.Mutex
	routes map[string]route
	calls  []call
}

// route answers a request's body.
type route func(body gjson.Result) (status int, answer string)

type call struct {
	path string
	body gjson.Result
	id   string // x-request-id
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, routes: map[string]route{}}
	s := httptest.NewServer(f)
	c, err := engine.NewClient(s.URL, engine.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.url, f.client = s.URL, c
	t.Cleanup(func() { c.Close(); s.Close() })
	return f
}

func (f *fake) on(path string, r route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes[path] = r
}

// says answers always the same.
func says(status int, answer string) route {
	return func(gjson.Result) (int, string) { return status, answer }
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	if len(raw) > 0 && !json.Valid(raw) {
		f.t.Errorf("%s was sent %q", r.URL.Path, raw)
	}
	body := gjson.ParseBytes(raw)
	f.mu.Lock()
	f.calls = append(f.calls, call{r.URL.Path, body, r.Header.Get("x-request-id")})
	answer, ok := f.routes[r.URL.Path]
	f.mu.Unlock()
	if !ok {
		http.Error(w, `{"detail":"Not Found"}`, 404)
		return
	}
	status, text := answer(body)
	if strings.HasPrefix(text, "data:") {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// asked returns the bodies that a path was sent.
func (f *fake) asked(path string) []gjson.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []gjson.Result
	for _, c := range f.calls {
		if c.path == path {
			all = append(all, c.body)
		}
	}
	return all
}

// endpoint returns an endpoint on the fake that knows caps without a probe.
func (f *fake) endpoint(caps engine.Capabilities) *Endpoint {
	e := New(f.client, "target", Options{})
	caps.URL, caps.Model, caps.Dialect = f.url, "target", "vllm"
	e.caps.Store(&caps)
	return e
}

// real is a recorded answer.
func real(t testing.TB, name string) string {
	t.Helper()
	for _, ext := range []string{".resp.json", ".sse", ".resp.txt"} {
		if b, err := os.ReadFile(filepath.Join("testdata/real", name+ext)); err == nil {
			return string(b)
		}
	}
	t.Fatalf("no recorded answer %s", name)
	return ""
}

// request is a recorded request.
func request(t testing.TB, name string) gjson.Result {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/real", name+".req.json"))
	if err != nil {
		t.Fatal(err)
	}
	return gjson.ParseBytes(b)
}

func ids(list ...int) []vocab.Token {
	var all []vocab.Token
	for _, id := range list {
		all = append(all, vocab.Token(id))
	}
	return all
}

// recorded are the capabilities of the server that answered testdata/real.
func recorded() engine.Capabilities {
	defaults := json.RawMessage(`{"presence_penalty":0.0,"frequency_penalty":0.0,"repetition_penalty":1.0,"temperature":1.0,"top_p":1.0,"min_p":0.0,"stop":[],"stop_token_ids":[]}`)
	return engine.Capabilities{
		Version: "0.32.0", MaxModelLen: 2048, VocabSize: 2048, BlockSize: 32, TokenPrompts: true, ChatTokens: true, RenderChat: true,
		Detokenize: true, ScaleOut: true, CachedTokens: true, PrefixCache: true, MaxLogprobs: 20, EOS: ids(0), Defaults: &defaults,
		Modes: []engine.ModeStatus{{Mode: "score", OK: true}, {Mode: "fan-out", OK: true}},
	}
}
