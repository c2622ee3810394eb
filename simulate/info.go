package simulate

import (
	"fmt"
	"sort"
	"strings"

	"paceline/simulate/vllm"
)

func (r *request) health() *vllm.Error {
	if r.s.loop.isDead() {
		r.ctx.SetStatusCode(503)
	}
	return nil
}

func (r *request) version() *vllm.Error {
	return r.answer(struct {
		Version string `json:"version"`
	}{version})
}

func (r *request) models() *vllm.Error {
	o, now := r.s.o, unix()
	return r.answer(vllm.ModelList{Object: "list", Data: []vllm.Model{{
		ID: o.Name, Object: "model", Created: now, OwnedBy: "vllm", Root: o.Root, MaxModelLen: o.MaxModelLen,
		Permission: []vllm.Permission{{
			ID: "modelperm-" + r.s.newID(), Object: "model_permission", Created: now,
			AllowSampling: true, AllowLogprobs: true, AllowView: true, Organization: "*",
		}},
	}}})
}

// openAPI lists the routes, without their schemas.
func (r *request) openAPI() *vllm.Error {
	paths := map[string]any{}
	for path, route := range r.s.routes {
		paths[path] = map[string]any{strings.ToLower(route.method): map[string]any{}}
	}
	return r.answer(map[string]any{
		"openapi": "3.1.0", "info": map[string]any{"title": "FastAPI", "version": "0.1.0"}, "paths": paths,
	})
}

// metrics writes Prometheus text: the families of vLLM that tell load, cache
// and steps.
func (r *request) metrics() *vllm.Error {
	l := r.s.loop
	m := &exposition{labels: fmt.Sprintf(`engine="0",model_name=%q`, r.s.o.Name)}
	m.gauge("vllm:num_requests_running", "Number of requests in model execution batches.", float64(l.running.Load()))
	m.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", float64(l.waiting.Load()))
	m.gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", float64(l.usage.Load())/1000)
	m.counter("vllm:prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", l.counts.prompt.Load())
	m.counter("vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", l.counts.cached.Load())
	m.counter("vllm:prompt_tokens", "Number of prefill tokens processed.", l.counts.prompt.Load())
	m.counter("vllm:generation_tokens", "Number of generation tokens processed.", l.counts.generated.Load())
	m.steps(&l.counts)
	m.cacheConfig(r.s.o)
	r.ctx.SetContentType("text/plain; version=1.0.0; charset=utf-8; escaping=underscores")
	r.ctx.SetBodyString(m.b.String())
	return nil
}

// exposition is Prometheus text in the making.
type exposition struct {
	labels string
	b      strings.Builder
}

func (m *exposition) head(name, help, kind string) {
	fmt.Fprintf(&m.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m *exposition) gauge(name, help string, v float64) {
	m.head(name, help, "gauge")
	fmt.Fprintf(&m.b, "%s{%s} %s\n", name, m.labels, float(v))
}

func (m *exposition) counter(name, help string, v int64) {
	m.head(name, help, "counter")
	fmt.Fprintf(&m.b, "%s_total{%s} %s\n", name, m.labels, float(float64(v)))
}

func (m *exposition) steps(c *counts) {
	const name = "vllm:iteration_tokens_total"
	m.head(name, "Histogram of number of tokens per engine_step.", "histogram")
	sum := int64(0)
	engine, model, _ := strings.Cut(m.labels, ",")
	for i := range c.buckets {
		sum += c.buckets[i].Load()
		bound := "+Inf"
		if i < len(stepBuckets) {
			bound = float(float64(stepBuckets[i]))
		}
		fmt.Fprintf(&m.b, "%s_bucket{%s,le=%q,%s} %s\n", name, engine, bound, model, float(float64(sum)))
	}
	fmt.Fprintf(&m.b, "%s_count{%s} %s\n", name, m.labels, float(float64(sum)))
	fmt.Fprintf(&m.b, "%s_sum{%s} %s\n", name, m.labels, float(float64(c.computed.Load())))
}

func (m *exposition) cacheConfig(o *Options) {
	const name = "vllm:cache_config_info"
	m.head(name, "Information of the LLMEngine CacheConfig", "gauge")
	word := func(b bool) string {
		if b {
			return "True"
		}
		return "False"
	}
	values := map[string]string{
		"block_size": fmt.Sprint(o.BlockSize), "effective_attention_block_size": fmt.Sprint(o.BlockSize),
		"enable_prefix_caching": word(!o.NoPrefixCache), "engine": "0", "cache_dtype": "auto",
		"kv_cache_size_tokens": fmt.Sprint(o.CacheTokens / o.BlockSize * o.BlockSize), "num_gpu_blocks": fmt.Sprint(o.CacheTokens / o.BlockSize),
		"hash_block_size": "None", "prefix_match_unit": "None", "prefix_caching_hash_algo": "sha256", "is_attention_free": "False",
		"user_specified_block_size": "True", "sliding_window": "None", "gpu_memory_utilization": "0.92",
	}
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s=%q", k, values[k])
	}
	fmt.Fprintf(&m.b, "%s{%s} 1.0\n", name, strings.Join(keys, ","))
}

// float writes a number as Python does.
func float(v float64) string {
	b, _ := vllm.Float(v).MarshalJSON()
	return string(b)
}

// Stats are counters of a running engine.
type Stats struct {
	Steps            int64 // engine steps finished
	ComputedTokens   int64 // tokens computed in them, by the scheduler's count
	ForwardedTokens  int64 // tokens that went through the model: fewer with a memo
	PromptTokens     int64 // of admitted sequences
	CachedTokens     int64 // of these, found in the prefix cache
	GeneratedTokens  int64
	Finished         int64 // sequences that ended by themselves
	Aborted          int64 // sequences that were ended
	Running, Waiting int64 // sequences now
	Connections      int   // open ones
	Requests         map[string]int
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.loop.counts
	st := Stats{
		Steps: c.steps.Load(), ComputedTokens: c.computed.Load(), ForwardedTokens: c.forwarded.Load(), PromptTokens: c.prompt.Load(), CachedTokens: c.cached.Load(),
		GeneratedTokens: c.generated.Load(), Finished: c.finished.Load(), Aborted: c.aborted.Load(),
		Running: s.loop.running.Load(), Waiting: s.loop.waiting.Load(),
		Connections: s.listen.count(), Requests: map[string]int{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, n := range s.byPath {
		st.Requests[path] = n
	}
	return st
}
