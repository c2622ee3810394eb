package simulate

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"paceline/simulate/batch"
	"paceline/simulate/lm"
)

// TestMetrics: every family here is one of the real server's, with its labels,
// and the figures are those of what was done.
func TestMetrics(t *testing.T) {
	s := start(t, Options{BlockSize: 32})
	body := `{"prompt":[` + list(longPrompt(100)) + `],"max_tokens":3,"ignore_eos":true,"temperature":0}`
	post(t, s, "/v1/completions", body)
	post(t, s, "/v1/completions", body)
	status, contentType, text := call(t, s, http.MethodGet, "/metrics", nil, nil)
	if status != 200 || !strings.HasPrefix(contentType, "text/plain; version=1.0.0") {
		t.Errorf("%d %s", status, contentType)
	}
	for _, want := range []string{
		`vllm:num_requests_running{engine="0",model_name="target"} 0.0`,
		`vllm:num_requests_waiting{engine="0",model_name="target"} 0.0`,
		`vllm:kv_cache_usage_perc{engine="0",model_name="target"} 0.0`,
		`vllm:iteration_tokens_total_count{engine="0",model_name="target"} 6.0`,
		`vllm:iteration_tokens_total_sum{engine="0",model_name="target"} 108.0`,
		`vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="target"} 4.0`,
		`vllm:iteration_tokens_total_bucket{engine="0",le="8.0",model_name="target"} 5.0`,
		`vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="target"} 6.0`,
		`vllm:prompt_tokens_total{engine="0",model_name="target"} 200.0`,
		`vllm:prefix_cache_hits_total{engine="0",model_name="target"} 96.0`,
		`vllm:generation_tokens_total{engine="0",model_name="target"} 6.0`,
		`block_size="32"`, `enable_prefix_caching="True"`, `kv_cache_size_tokens="131072"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s", want)
		}
	}
	recorded := string(read(t, "metrics.resp.txt"))
	label := regexp.MustCompile(`(\w+)="`)
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "vllm:cache_config_info{") {
			for _, m := range label.FindAllStringSubmatch(line, -1) {
				if !strings.Contains(recorded, m[1]+`="`) {
					t.Errorf("the real server has no label %s", m[1])
				}
			}
		}
	}
}

// TestModels: other models and names are served the same way.
func TestModels(t *testing.T) {
	draft, err := lm.Draft()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Model: draft, Name: "small", MaxModelLen: 512})
	status, _, text := call(t, s, http.MethodGet, "/v1/models", nil, nil)
	m := decode[struct {
		Data []struct {
			ID          string
			MaxModelLen int `json:"max_model_len"`
		}
	}](t, status, string(text))
	if m.Data[0].ID != "small" || m.Data[0].MaxModelLen != 512 {
		t.Errorf("%+v", m)
	}
	if status, text := post(t, s, "/v1/completions", `{"model":"target","prompt":"x"}`); status != 404 || !strings.Contains(text, "Valid aliases: small.") {
		t.Errorf("%d %s", status, text)
	}
	status, answered := post(t, s, "/v1/completions", `{"prompt":[5],"max_tokens":512,"ignore_eos":true,"temperature":0}`)
	if a := decode[answer](t, status, answered); a.Usage.Completion != 511 || a.Choices[0].Finish != "length" {
		t.Errorf("wrote %d tokens, %s", a.Usage.Completion, a.Choices[0].Finish)
	}
}

// TestOpenAPI: the routes can be listed without trying them.
func TestOpenAPI(t *testing.T) {
	for _, off := range []bool{false, true} {
		s := start(t, Options{NoScaleOut: off})
		_, _, text := call(t, s, http.MethodGet, "/openapi.json", nil, nil)
		if strings.Contains(string(text), `"/inference/v1/generate"`) == off {
			t.Errorf("without scale-out %v: %s", off, text)
		}
	}
}

// TestStartRefuses what cannot work.
func TestStartRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"context beyond the model's":     {MaxModelLen: 4096},
		"cache smaller than the context": {CacheTokens: 1024},
		"address in use":                 {Addr: strings.TrimPrefix(start(t, Options{}).URL(), "http://")},
		"no address":                     {Addr: "nowhere:x"},
	} {
		if s, err := Start(o); err == nil {
			t.Errorf("%s: started", name)
			s.Close(t.Context())
		}
	}
}

// TestCloseInTheMiddle: closing ends what runs, in time, and the clients are
// told by the end of their connections.
func TestCloseInTheMiddle(t *testing.T) {
	s, err := Start(Options{Profile: batch.Profile{Token: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	for _, body := range []string{shortStream, shortWhole} {
		go func() {
			status, _, err := try(s, "/v1/completions", body)
			if status == 500 {
				err = http.ErrAbortHandler
			}
			done <- err
		}()
	}
	eventually(t, 5*time.Second, "both run", func() bool { st := s.Stats(); return st.Running+st.Waiting == 2 })
	begin := time.Now()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	for range 2 {
		if err := <-done; err == nil {
			t.Error("a whole answer from a closed server")
		}
	}
}

// TestKey: with a key, the endpoints that generate want it and the others do
// not.
func TestKey(t *testing.T) {
	s := start(t, Options{Key: "secret"})
	f := func(path, authorization string, want int) {
		t.Helper()
		status, _, text := call(t, s, http.MethodGet, path, nil, map[string]string{"Authorization": authorization})
		if status != want || status == 401 && string(text) != `{"error":"Unauthorized"}` {
			t.Errorf("%s with %q: %d %s, want %d", path, authorization, status, text, want)
		}
	}
	f("/v1/models", "", 401)
	f("/v1/models", "Bearer wrong", 401)
	f("/v1/models", "secret", 401)
	f("/v1/models", "Bearer secret", 200)
	f("/v1/models", "bearer secret", 200)
	f("/inference/v1/generate", "", 401)
	f("/health", "", 200)
	f("/metrics", "", 200)
}

// TestStartClose: a server can be closed before it has served anything.
func TestStartClose(t *testing.T) {
	for range 50 {
		s, err := Start(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
