//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// nearTie is the top-2 gap of log-probabilities below which kernels of another
// batch shape may choose otherwise, in float32.
const nearTie = 1e-3

var client = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 3 * time.Second}}

// What the script run passes on.
var (
	targetURL = os.Getenv("PACELINE_E2E_TARGET")
	draftURL  = os.Getenv("PACELINE_E2E_DRAFT")
	binary    = os.Getenv("PACELINE_E2E_BINARY")
	directory = os.Getenv("PACELINE_E2E_DIR") // for configurations and logs
)

// counts sums up over all tests.
var counts tallies

type tallies struct {
	sync.Mutex
	passed, failed, ties, violations int
}

func (c *tallies) add(n *int) {
	c.Lock()
	defer c.Unlock()
	*n++
}

func TestMain(m *testing.M) {
	if targetURL == "" || draftURL == "" || binary == "" || directory == "" {
		fmt.Fprintln(os.Stderr, "PACELINE_E2E_TARGET, _DRAFT, _BINARY and _DIR say where the engines, the program and its logs are: run `make e2e`")
		os.Exit(2)
	}
	code := m.Run()
	for _, l := range lanes {
		l.close()
	}
	fmt.Printf("e2e: %d checks passed, %d failed; %d violations, %d near ties\n", counts.passed, counts.failed, counts.violations, counts.ties)
	os.Exit(code)
}

// check runs a subtest and counts it.
func check(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	ok := t.Run(name, f)
	if ok {
		counts.add(&counts.passed)
	} else {
		counts.add(&counts.failed)
	}
}

// within bounds one request.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// answers of the target itself, by the prompt's name.
var answers sync.Map

// stream are the fields of a streamed request with usage.
var stream = []any{"stream", true, "stream_options", map[string]any{"include_usage": true}}

// direct asks the target itself, in one stream, once per prompt. Its own
// cache_salt keeps what it generates out of the cache that the proxy's requests
// find.
func direct(t *testing.T, p *prompt) *reply {
	t.Helper()
	key := p.path() + p.name
	if r, ok := answers.Load(key); ok {
		return r.(*reply)
	}
	r, err := post(within(t, time.Minute), targetURL, p, append(slices.Clone(stream), "return_token_ids", true, "cache_salt", "direct")...)
	if err != nil || r.status != 200 {
		t.Fatalf("asked directly: %v, %d %s", err, r.status, r.raw)
	}
	answers.Store(key, r)
	return r
}

// gapAt asks the target how sure it is of the token at a position of its own
// answer.
func gapAt(t *testing.T, p *prompt, position int) float64 {
	t.Helper()
	fields := append(slices.Clone(stream), "return_token_ids", true, "cache_salt", "direct")
	if p.chat {
		fields = append(fields, "logprobs", true, "top_logprobs", 2)
	} else {
		fields = append(fields, "logprobs", 2)
	}
	r, err := post(within(t, time.Minute), targetURL, p, fields...)
	if err != nil || r.status != 200 || position >= len(r.gaps) {
		t.Fatalf("asked for log-probabilities: %v, %d, %d of them, want number %d", err, r.status, len(r.gaps), position)
	}
	return r.gaps[position]
}

// TestTarget asks every prompt of the target alone, and some again through a
// relay, which must not change a byte.
func TestTarget(t *testing.T) {
	recording := NewRecording()
	relay, err := StartRelay("target", targetURL, recording)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	prompts, tokens, longest := greedy(), 0, 0
	for i := range prompts {
		p := &prompts[i]
		check(t, p.name, func(t *testing.T) {
			r := direct(t, p)
			tokens += r.usage.Completion
			longest = max(longest, r.usage.Total)
			if len(r.tokens) != r.usage.Completion {
				t.Errorf("%d token ids, usage says %d", len(r.tokens), r.usage.Completion)
			}
			t.Logf("%-20s %4d + %3d tokens  %4d ms  %s %s  …%q", p.name, r.usage.Prompt, r.usage.Completion, r.total.Milliseconds(), r.finish, r.stopReason, r.text[max(0, len(r.text)-40):])
			if i%5 != 0 {
				return
			}
			fields := []any{"return_token_ids", true, "cache_salt", "direct"} // whole: a stream's chunks differ from time to time
			a, err := post(within(t, time.Minute), relay.URL(), p, fields...)
			if err != nil {
				t.Fatal(err)
			}
			b, err := post(within(t, time.Minute), targetURL, p, fields...)
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, a.raw, b.raw)
		})
	}
	t.Logf("%d prompts, %d tokens of answers, longest context %d", len(prompts), tokens, longest)
	if len(prompts) < 24 || tokens < 2000 || longest < 1500 {
		t.Errorf("want at least 24 prompts, 2000 tokens and a context of 1500")
	}
}

// identifiers match what differs between two answers to the same request: ids,
// times, and what the prefix cache knew.
var identifiers = regexp.MustCompile(`"created":\d+|"(id|tool_call_id)":"[^"]*"|"(cached_tokens|created_cache_tokens)":\d+`)

// sameBytes compares two answers but for their identifiers.
func sameBytes(t *testing.T, got, want []byte) {
	t.Helper()
	a, b := identifiers.ReplaceAll(got, []byte(`"-":0`)), identifiers.ReplaceAll(want, []byte(`"-":0`))
	if bytes.Equal(a, b) {
		return
	}
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	cut := func(s []byte) []byte { return s[max(0, i-80):min(len(s), i+80)] }
	t.Errorf("from byte %d on\n got %q\nwant %q", i, cut(a), cut(b))
}

// firstDifference is the first position in which two lists differ, -1 if
// none.
func firstDifference[T comparable](a, b []T) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) == len(b) {
		return -1
	}
	return min(len(a), len(b))
}

// differs says in what a client would see two answers differ.
func differs(got, want *reply) string {
	var d []string
	add := func(what string, a, b any) {
		if a != b {
			d = append(d, fmt.Sprintf("%s: got %#v, the target says %#v", what, a, b))
		}
	}
	add("text", got.text, want.text)
	add("tool calls", got.tools, want.tools)
	add("finish_reason", got.finish, want.finish)
	add("stop_reason", got.stopReason, want.stopReason)
	add("prompt_tokens", got.usage.Prompt, want.usage.Prompt)
	add("completion_tokens", got.usage.Completion, want.usage.Completion)
	add("total_tokens", got.usage.Total, want.usage.Total)
	return strings.Join(d, "\n")
}
