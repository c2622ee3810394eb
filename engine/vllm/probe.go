package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

// What would make a mode available.
const (
	flagScaleOut     = "--enable-scale-out"
	flagPromptTokens = "--enable-prompt-tokens-details"
	flagPrefixCache  = "--enable-prefix-caching"
	useVLLM          = "vLLM 0.32 or later as the server"
	configEOS        = "the end-of-sequence ids in the endpoint's configuration"
)

// probing is one probe of a server. It works on an endpoint of its own, so that
// the one in use changes at once and only if all went well.
type probing struct {
	*Endpoint
	before string // the vocabulary's fingerprint at the last probe
	caps   engine.Capabilities
	prompt []vocab.Token // a short prompt's ids
	rows   string        // why rows cannot be had; "" if they can
	chat   string        // why chat does not return ids
	ids    string        // why token prompts cannot be had
	eos    string        // why the ids that end an answer are not known
	text   string        // why text cannot be had from ids
}

// Probe finds out what the server can do, by trying. It takes about ten engine
// steps of one token, and once a few of several sequences. An error means that the server does not answer or does
// not have the model; what was known before is kept then. A server that is not
// vLLM is no error: nothing but passing through is available on it.
func (e *Endpoint) Probe(ctx context.Context) (engine.Capabilities, error) {
	p := &probing{Endpoint: New(e.c, e.model, e.options), before: e.caps.Load().Fingerprint}
	p.specials.Store(e.specials.Load())
	p.caps.URL = e.c.URL()
	if err := p.run(ctx); err != nil {
		return engine.Capabilities{}, fmt.Errorf("cannot probe %s: %w", e.c.URL(), err)
	}
	p.judge()
	e.specials.Store(p.specials.Load())
	e.caps.Store(&p.caps)
	return p.caps, nil
}

func (p *probing) run(ctx context.Context) error {
	vllm, err := p.version(ctx)
	if err != nil {
		return err
	}
	if err := p.models(ctx); err != nil {
		return err
	}
	p.Endpoint.caps.Store(&p.caps) // read by the calls below, which come one after another
	if !vllm {
		p.caps.Dialect = "openai"
		return nil
	}
	p.caps.Dialect = "vllm"
	for _, step := range []func(context.Context) error{
		p.vocabulary, p.metrics, p.tokenPrompts, p.chatTokens, p.scaleOut, p.rowShape, p.endIDs, p.marked,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// get fetches and parses JSON. A server's refusal, or an answer that is none,
// is told in why; everything else is an error.
func (p *probing) get(ctx context.Context, path, body string) (v gjson.Result, why string, err error) {
	r := &engine.Request{Path: path}
	if body != "" {
		r.Body = []byte(body)
	}
	a, err := p.c.Fetch(ctx, r, nil)
	if err != nil {
		why, err = refusal(err)
		return gjson.Result{}, why, err
	}
	if !gjson.ValidBytes(a.Body) {
		return gjson.Result{}, path + " did not answer with JSON", nil
	}
	return gjson.ParseBytes(a.Body), "", nil
}

// refusal tells a server's answer from a fault on the way to it.
func refusal(err error) (why string, _ error) {
	var se *engine.StatusError
	switch {
	case errors.As(err, &se) && (se.Status == 401 || se.Status == 403 || se.Status == 429 || se.Status >= 502):
		return "", err
	case errors.As(err, &se):
		return fmt.Sprintf("%s answered %d: %s", se.Path, se.Status, se.Message()), nil
	case errors.Is(err, errAnswer), errors.Is(err, engine.ErrMalformed):
		return err.Error(), nil
	}
	return "", err
}

// named returns a request's body with the model's name in it.
func (p *probing) named(format string, args ...any) string {
	return `{"model":` + string(quoted(p.caps.Model)) + `,` + fmt.Sprintf(format, args...) + `}`
}

func list(ids []vocab.Token) string { return "[" + string(vocab.AppendIDs(nil, ids)) + "]" }

func (p *probing) version(ctx context.Context) (vllm bool, err error) {
	v, why, err := p.get(ctx, "/version", "")
	if err != nil || why != "" {
		return false, err
	}
	p.caps.Version = v.Get("version").String()
	return p.caps.Version != "", nil
}

// models chooses the model: the configured one, or the only one.
func (p *probing) models(ctx context.Context) error {
	v, why, err := p.get(ctx, "/v1/models", "")
	if err != nil {
		return err
	}
	var names []string
	for _, m := range v.Get("data").Array() {
		id := m.Get("id").String()
		names = append(names, id)
		if id == p.model || p.model == "" {
			p.caps.Model, p.caps.MaxModelLen = id, int(m.Get("max_model_len").Int())
		}
	}
	switch {
	case p.model == "" && len(names) != 1:
		return fmt.Errorf("cannot choose a model: the server has %d %q %s", len(names), names, why)
	case p.caps.Model == "" && len(names) > 0:
		return fmt.Errorf("the server has no model %q, only %q", p.model, names)
	case p.caps.Model == "":
		p.caps.Model = p.model // a server without a list
	}
	return nil
}

// vocabulary looks at the tokeniser: rendering, its inverse, fingerprint, size.
func (p *probing) vocabulary(ctx context.Context) error {
	ids, err := p.tokenize(ctx, []byte(p.named(`"messages":[{"role":"user","content":"Say hello."}]`)), nil)
	why, err := refusal(err)
	if err != nil {
		return err
	}
	p.caps.RenderChat, p.prompt = why == "" && len(ids) > 0, ids
	encode := func(text string) ([]vocab.Token, error) {
		return p.tokenize(ctx, []byte(p.named(`"prompt":%s,"add_special_tokens":false`, quoted(text))), nil)
	}
	if p.caps.Fingerprint, err = vocab.Fingerprint(encode); err != nil {
		if _, err = refusal(err); err != nil {
			return err
		}
	}
	if p.caps.Fingerprint != p.before || p.before == "" {
		p.specials.Store(&specials{}) // what is known is of another vocabulary
	}
	if len(p.prompt) == 0 {
		if p.prompt, err = encode("Say hello."); err != nil {
			if _, err = refusal(err); err != nil {
				return err
			}
		}
	}
	if err := p.roundTrip(ctx, encode); err != nil {
		return err
	}
	v, why, err := p.get(ctx, pathCompletions, p.named(`"prompt":[0],"max_tokens":1,"logit_bias":{"2000000000":1}`))
	if err != nil {
		return err
	}
	_ = v // it is refused: "… out-of-vocab token ids. Vocabulary size: 2048 …"
	if _, after, ok := strings.Cut(why, "Vocabulary size: "); ok {
		fmt.Sscan(after, &p.caps.VocabSize)
	}
	return nil
}

// tidy is a text that a decoder with clean_up_tokenization_spaces changes; the
// engine's own streams are not cleaned up.
const tidy = "a . b , c ? d ! it 's I 'm we 've they 're do n't x"

// roundTrip checks that /detokenize gives back what was tokenised.
func (p *probing) roundTrip(ctx context.Context, encode func(string) ([]vocab.Token, error)) error {
	ids, err := encode(tidy)
	var text string
	if err == nil {
		text, err = p.detokenize(ctx, ids, nil)
	}
	if p.text, err = refusal(err); err != nil {
		return err
	}
	if p.text == "" && strings.TrimSpace(text) != tidy {
		p.text = fmt.Sprintf("%s does not give back what was tokenised: %q", pathDetokenize, text)
	}
	p.caps.Detokenize = p.text == ""
	return nil
}

// metrics reads the cache's configuration; without /metrics it stays unknown.
func (p *probing) metrics(ctx context.Context) error {
	p.caps.PrefixCache = true // vLLM's default for years
	a, err := p.c.Fetch(ctx, &engine.Request{Path: "/metrics"}, nil)
	if err != nil {
		_, err = refusal(err)
		return err
	}
	for line := range strings.Lines(string(a.Body)) {
		labels, ok := strings.CutPrefix(line, "vllm:cache_config_info{")
		if !ok {
			continue
		}
		fmt.Sscan(label(labels, "block_size"), &p.caps.BlockSize)
		p.caps.PrefixCache = label(labels, "enable_prefix_caching") != "False"
	}
	return nil
}

// label returns a label's value in a line of Prometheus text.
func label(labels, name string) string {
	for part := range strings.SplitSeq(labels, ",") {
		if v, ok := strings.CutPrefix(part, name+`="`); ok {
			v, _, _ = strings.Cut(v, `"`)
			return v
		}
	}
	return ""
}

func (p *probing) tokenPrompts(ctx context.Context) error {
	if len(p.prompt) == 0 {
		p.ids = "no token ids to try with: /tokenize is not available"
		return nil
	}
	v, why, err := p.get(ctx, pathCompletions, p.named(`"prompt":%s,"max_tokens":1,"temperature":0,"return_token_ids":true`, list(p.prompt)))
	if err != nil {
		return err
	}
	ids := v.Get("choices.0.token_ids").Array()
	switch {
	case why != "":
		p.ids = why
	case len(ids) != 1 || ids[0].Type != gjson.Number:
		p.ids = pathCompletions + " does not return token ids"
	}
	p.caps.TokenPrompts = p.ids == ""
	p.caps.CachedTokens = v.Get("usage.prompt_tokens_details.cached_tokens").Exists()
	return nil
}

// chatTokens looks for ids in a chat stream, and for the figure that a server
// with a reasoning parser adds to its usage [s: _include_reasoning_tokens_details].
func (p *probing) chatTokens(ctx context.Context) error {
	body := p.named(`"messages":[{"role":"user","content":"Say hello."}],"max_tokens":1,"temperature":0,"stream":true,` +
		`"stream_options":{"include_usage":true},"return_token_ids":true`)
	resp, err := p.c.Do(ctx, &engine.Request{Path: pathChat, Body: []byte(body)})
	if err != nil {
		return err
	}
	defer resp.Discard(goodbye)
	if resp.Status/100 != 2 {
		p.chat, err = refusal(engine.NewStatusError(p.c.URL(), pathChat, resp))
		return err
	}
	events := engine.NewEvents(resp.Body, maxEvent)
	prompt, ids := false, false
	for {
		data, err := events.Next()
		if err != nil || string(data) == "[DONE]" {
			break
		}
		v := gjson.ParseBytes(data)
		prompt = prompt || len(v.Get("prompt_token_ids").Array()) > 0
		ids = ids || len(v.Get("choices.0.token_ids").Array()) > 0
		p.caps.Reasoning = p.caps.Reasoning || v.Get("usage.completion_tokens_details.reasoning_tokens").Exists()
	}
	if p.caps.ChatTokens = prompt && ids; !p.caps.ChatTokens {
		p.chat = "chat streams do not return token ids"
	}
	return nil
}

// scaleOut reads the server's sampling defaults out of a rendered request.
func (p *probing) scaleOut(ctx context.Context) error {
	path, at := "/v1/chat/completions/render", "sampling_params"
	body := `"messages":[{"role":"user","content":"Say hello."}]`
	if !p.caps.RenderChat {
		path, at = "/v1/completions/render", "0.sampling_params"
		body = `"prompt":` + list(p.prompt)
	}
	v, why, err := p.get(ctx, path, p.named("%s", body))
	if err != nil {
		return err
	}
	params := v.Get(at)
	if p.rows = why; why == "" && !params.IsObject() {
		p.rows = path + " returned no sampling parameters"
	}
	if p.rows != "" {
		return nil
	}
	// max_tokens stays if it is a default and not what the context leaves.
	raw, left := []byte(params.Raw), p.caps.MaxModelLen-len(v.Get(strings.TrimSuffix(at, "sampling_params")+"token_ids").Array())
	switch n := params.Get("max_tokens"); {
	case !n.Exists() && p.caps.RenderChat:
		raw, err = sjson.SetBytes(raw, "max_tokens", completionTokens)
	case n.Exists() && (left <= 0 || n.Int() >= int64(left)):
		raw, err = sjson.DeleteBytes(raw, "max_tokens")
	}
	if err != nil {
		return fmt.Errorf("cannot keep the server's defaults: %w", err)
	}
	defaults := json.RawMessage(raw)
	p.caps.ScaleOut, p.caps.Defaults = true, &defaults
	return p.maxTokens(ctx, path, at, body)
}

// maxTokens asks for as much as there is and looks whether the server grants
// it (--override-generation-config may set max_new_tokens). 16, the class's own
// default, is left out of a rendered request.
func (p *probing) maxTokens(ctx context.Context, path, at, body string) error {
	if p.caps.MaxModelLen == 0 {
		return nil
	}
	v, why, err := p.get(ctx, path, p.named(`%s,"max_tokens":%d`, body, p.caps.MaxModelLen-len(p.prompt)-1))
	if err != nil || why != "" {
		return err
	}
	granted := int64(completionTokens)
	if m := v.Get(at + ".max_tokens"); m.Exists() {
		granted = m.Int()
	}
	if granted > 0 && granted < int64(p.caps.MaxModelLen-len(p.prompt)-1) {
		p.caps.MaxTokens = int(granted)
	}
	return nil
}

// rowShape asks for rows and looks whether they are what score needs.
func (p *probing) rowShape(ctx context.Context) error {
	if p.rows != "" || len(p.prompt) < 2 {
		return nil
	}
	ask := func(n int) (gjson.Result, string, error) {
		return p.get(ctx, pathGenerate, p.named(`"token_ids":%s,"sampling_params":{"max_tokens":1,"temperature":0,"prompt_logprobs":%d,"skip_reading_prefix_cache":true,"detokenize":false}`, list(p.prompt), n))
	}
	// Refused: "Requested prompt logprobs of 1000000, which is greater than max allowed: 20 …"
	_, why, err := ask(1_000_000)
	if err != nil {
		return err
	}
	if _, after, ok := strings.Cut(why, "max allowed: "); ok {
		fmt.Sscan(after, &p.caps.MaxLogprobs)
		if p.caps.MaxLogprobs < topRows {
			p.rows = fmt.Sprintf("--max-logprobs is %d, %d are needed", p.caps.MaxLogprobs, topRows)
			return nil
		}
	}
	v, why, err := ask(topRows)
	if err != nil || why != "" {
		p.rows = why
		return err
	}
	all := v.Get("prompt_logprobs").Array()
	last := p.prompt[len(p.prompt)-1]
	sum, first := 0.0, ""
	if len(all) == len(p.prompt) {
		all[len(all)-1].ForEach(func(key, e gjson.Result) bool {
			if first == "" {
				first = key.Str
			}
			sum += math.Exp(e.Get("logprob").Num)
			return true
		})
	}
	if first != fmt.Sprint(last) || !(sum <= 1.01) {
		p.rows = pathGenerate + " does not return a row for every token with the token's own log-probability first"
	}
	return nil
}

// brackets is a text of the tokens with markup that answers are full of.
const brackets = "a[i] = b[0]; c[\"k\"] = d['k']; <p>x</p> <br/> if a < b and c > d: e -> f => g <= h >= i != j | k || l << m >> n\n" +
	"[] [1] [a, b] [[x]] ([y]) {[z]} [link](url) list[int] Vec<T> [x for x in y] <div class=\"a\"> <!-- --> [ ] [x] arr[] ...] >> <- ] [ > < </ />\n|a|b|\n|---|\n"

// marked looks at tokens with markup before answers need them: in one go, where
// a round would wait for an engine step.
func (p *probing) marked(ctx context.Context) error {
	if !p.caps.TokenPrompts || !p.caps.Detokenize {
		return nil
	}
	ids, err := p.tokenize(ctx, []byte(p.named(`"prompt":%s,"add_special_tokens":false`, quoted(brackets))), nil)
	if err == nil {
		err = p.learn(ctx, ids)
	}
	_, err = refusal(err)
	return err
}

// judge says which modes are available, and what would make the others so.
func (p *probing) judge() {
	c := &p.caps
	score, fan := engine.ModeStatus{Mode: verify.Score.String()}, engine.ModeStatus{Mode: verify.FanOut.String()}
	set := func(m *engine.ModeStatus, why, enable string) {
		if m.Reason == "" {
			m.Reason, m.Enable = why, enable
		}
	}
	both := func(why, enable string) { set(&score, why, enable); set(&fan, why, enable) }
	switch {
	case c.Dialect != "vllm":
		both("the server is not vLLM (no /version): requests pass through", useVLLM)
	case !c.TokenPrompts:
		both(p.ids, useVLLM)
	case !c.PrefixCache:
		both("prefix caching is off: every round would compute the whole prompt", flagPrefixCache)
	case !c.Detokenize:
		both(p.text, "a server with /detokenize")
	}
	switch {
	case !c.ScaleOut:
		set(&score, p.rows, flagScaleOut)
	case p.rows != "":
		set(&score, p.rows, "--max-logprobs 20")
	case !c.CachedTokens:
		set(&score, "usage does not say how deep the prefix cache was hit, without which rows cannot be trusted", flagPromptTokens)
	case len(c.EOS) == 0:
		set(&score, "the ids that end an answer are not known: "+p.eos, configEOS)
	}
	for _, m := range []*engine.ModeStatus{&score, &fan} {
		mode := verify.FanOut
		if m == &score {
			mode = verify.Score
		}
		if len(p.options.Modes) > 0 && !slices.Contains(p.options.Modes, mode) {
			set(m, "switched off by the endpoint's configuration", "modes in the endpoint's configuration")
		}
		m.OK = m.Reason == ""
	}
	c.Modes = []engine.ModeStatus{score, fan}
}
