package vllm

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Common is what every generating request has.
type Common struct {
	Model          string // "" is the served one
	RequestID      string // "" none
	CacheSalt      string
	Stream         bool
	StreamOptions  bool // there were some
	IncludeUsage   bool // a usage chunk at the end of a stream
	Continuous     bool // usage on every chunk
	ReturnTokenIDs bool
	Sampling       Sampling
}

// Prompt is a text or ids.
type Prompt struct {
	Text   string
	IsText bool
	IDs    []int64
}

// Completion is a body of /v1/completions and its render endpoint.
type Completion struct {
	Common
	Prompts     []Prompt
	Echo        bool
	TokensAsIDs *bool // nil: the server's setting
	limit       *int64
}

// ReadCompletion parses and checks a body of /v1/completions.
func ReadCompletion(text []byte, d *Defaults) (*Completion, *Error) {
	r, err := body(text)
	if err != nil {
		return nil, err
	}
	if err := rawCompletion(r.o); err != nil {
		return nil, err
	}
	c := &Completion{}
	c.Model = strOr(r.str("model", true), "")
	c.Prompts = r.prompts()
	c.Echo = r.bool("echo", true, false)
	logprobs := r.int("logprobs", true)
	c.limit = r.int("max_tokens", true)
	c.readCommon(r, d)
	if r.bool("use_beam_search", false, false) {
		return nil, BadRequest("Beam search is not supported by the simulated engine")
	}
	promptLogprobs := r.int("prompt_logprobs", true)
	r.bool("add_special_tokens", false, true) // the models have none to add
	if r.present("return_tokens_as_token_ids", true) {
		b := r.bool("return_tokens_as_token_ids", true, false)
		c.TokensAsIDs = &b
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	s := &c.Sampling
	if s.Logprobs = optional(logprobs); s.LogprobTokenIDs != nil {
		s.Logprobs = nil
	}
	if s.PromptLogprobs = optional(promptLogprobs); s.PromptLogprobs == nil && c.Echo {
		s.PromptLogprobs = optional(logprobs)
	}
	s.SkipCache = s.PromptLogprobs != nil
	return c, nil
}

func optional(p *int64) *int {
	if p == nil {
		return nil
	}
	n := clampInt(*p)
	return &n
}

// readCommon reads what completions and chat share.
func (c *Common) readCommon(r *reader, d *Defaults) {
	c.Stream = r.bool("stream", true, false)
	c.readStreamOptions(r)
	c.Sampling = r.readSampling(d)
	c.Sampling.Stream = c.Stream
	c.RequestID = strOr(r.str("request_id", false), "")
	c.ReturnTokenIDs = r.bool("return_token_ids", true, false)
	c.CacheSalt = strOr(r.str("cache_salt", true), "")
}

func (c *Common) readStreamOptions(r *reader) {
	if o := r.child("stream_options", true); o != nil {
		c.StreamOptions = true
		c.IncludeUsage = o.bool("include_usage", true, false)
		c.Continuous = c.IncludeUsage && o.bool("continuous_usage_stats", true, false)
	}
}

// rawCompletion makes the checks that vLLM makes before it looks at types.
func rawCompletion(o *object) *Error {
	count := 0
	switch p := o.get("prompt").(type) {
	case list:
		count = len(p)
	case nil:
		return bad("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
	case string:
		if p == "" {
			return bad("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
		}
	}
	if count > 1024 {
		return bad("prompt", "prompt list length %d exceeds the maximum allowed count of 1024. To increase this limit, "+
			"set the VLLM_MAX_COMPLETION_PROMPTS environment variable.", count)
	}
	for _, check := range []func(*object) *Error{rawStreamOptions, rawCompletionLogprobs, rawFormat, rawSalt} {
		if err := check(o); err != nil {
			return err
		}
	}
	return nil
}

// truthy is Python's idea of it.
func truthy(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case number:
		f, _ := parseFloat(string(v))
		return f != 0
	case string:
		return v != ""
	case list:
		return len(v) > 0
	case ints:
		return len(v) > 0
	case *object:
		return len(v.keys) > 0
	}
	return true
}

func rawStreamOptions(o *object) *Error {
	if truthy(o.get("stream_options")) && !truthy(o.get("stream")) {
		return bad("stream_options", "Stream options can only be defined when `stream=True`.")
	}
	return nil
}

func rawCompletionLogprobs(o *object) *Error {
	if truthy(o.get("logprob_token_ids")) && o.get("logprobs") == nil {
		return bad("logprob_token_ids", "when using `logprob_token_ids`, `logprobs` must be set.")
	}
	return rawCounts(o, "logprobs")
}

// rawCounts checks prompt_logprobs and the endpoint's own count.
func rawCounts(o *object, own string) *Error {
	for _, key := range []string{"prompt_logprobs", own} {
		switch v := o.get(key).(type) {
		case nil, number, bool:
		default:
			return badValue(key, plain(v), "`%s` must be an integer.", key)
		}
	}
	for _, key := range []string{"prompt_logprobs", own} {
		n, ok := o.get(key).(number)
		if !ok {
			continue
		}
		f, _ := parseFloat(string(n))
		if key == "prompt_logprobs" && truthy(o.get("stream")) && (f > 0 || f == -1) {
			return bad(key, "`prompt_logprobs` are not available when `stream=True`.")
		}
		if f < 0 && f != -1 {
			return badValue(key, plain(n), "`%s` must be a positive value or -1.", key)
		}
	}
	return nil
}

func rawFormat(o *object) *Error {
	f, ok := o.get("response_format").(*object)
	if ok && f.get("type") == "json_schema" && f.get("json_schema") == nil {
		return bad("response_format", "When response_format type is 'json_schema', the 'json_schema' field must be provided.")
	}
	return nil
}

func rawSalt(o *object) *Error {
	salt := o.get("cache_salt")
	if salt == nil {
		return nil
	}
	s, ok := salt.(string)
	if !ok || s == "" {
		return bad("cache_salt", "Parameter 'cache_salt' must be a non-empty string if provided.")
	}
	if len([]rune(s)) > 128 || strings.ContainsAny(s, "@/\\\x00") {
		return bad("cache_salt", `Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\', or NUL.`)
	}
	return nil
}

// prompts reads the union of the four kinds of prompt.
func (r *reader) prompts() []Prompt {
	switch v := r.o.get("prompt").(type) {
	case string:
		return []Prompt{{Text: v, IsText: true}}
	case ints:
		if slices.Min(v) < 0 {
			r.noPrompt(v)
			return nil
		}
		return []Prompt{{IDs: v}}
	case list:
		prompts := make([]Prompt, len(v))
		for i, e := range v {
			switch e := e.(type) {
			case string:
				prompts[i] = Prompt{Text: e, IsText: true}
			case ints:
				if slices.Min(e) < 0 {
					r.noPrompt(v)
					return nil
				}
				prompts[i] = Prompt{IDs: e}
			case list:
				if len(e) > 0 {
					r.noPrompt(v)
					return nil
				}
			default:
				r.noPrompt(v)
				return nil
			}
			if prompts[i].IsText != prompts[0].IsText {
				r.noPrompt(v)
				return nil
			}
		}
		return prompts
	default:
		r.noPrompt(v)
	}
	return nil
}

// noPrompt lists why a prompt is none of the four kinds.
func (r *reader) noPrompt(v any) {
	const loc = "body.prompt"
	scratch := &reader{&schemaErrors{}, r.at, r.o}
	elements, ok := scratch.elements(loc, v)
	at := func(i int) string { return fmt.Sprintf("%s.%d", loc, i) }
	if !ok {
		r.add("list_type", loc, "Input should be a valid list", v, "")
		r.add("list_type", loc, "Input should be a valid list", v, "")
		r.add("string_type", loc, "Input should be a valid string", v, "")
		r.add("list_type", loc, "Input should be a valid list", v, "")
		return
	}
	for i, e := range elements {
		if n, ok := r.integer(at(i), e); ok && n < 0 {
			r.add("greater_than_equal", at(i), "Input should be greater than or equal to 0", e, "'ge': 0")
		}
	}
	for i, e := range elements {
		for j, n := range r.integerList(at(i), e) {
			if n < 0 {
				r.add("greater_than_equal", at(i)+"."+fmt.Sprint(j), "Input should be greater than or equal to 0", number(fmt.Sprint(n)), "'ge': 0")
			}
		}
	}
	r.add("string_type", loc, "Input should be a valid string", v, "")
	for i, e := range elements {
		if _, ok := e.(string); !ok {
			r.add("string_type", at(i), "Input should be a valid string", e, "")
		}
	}
}

// Limit is the number of tokens that the request and the context allow after
// a prompt of that length.
func (c *Completion) Limit(prompt, context int) int {
	if c.EchoOnly() {
		return 1
	}
	return min(context-prompt, intOr(c.limit, defaultMaxTokens))
}

// CheckLimit refuses more tokens than the context has, before the prompt is
// looked at.
func (c *Completion) CheckLimit(context int) *Error {
	return tooMany("max_tokens", intOr(c.limit, defaultMaxTokens), context)
}

// EchoOnly says that only the prompt is to be returned.
func (c *Completion) EchoOnly() bool { return c.Echo && c.limit != nil && *c.limit == 0 }

func tooMany(param string, want, context int) *Error {
	if want > context {
		return badValue(param, fmt.Sprint(want), "%s=%d cannot be greater than max_model_len=%d. Please request fewer output tokens.", param, want, context)
	}
	return nil
}

// Generate is a body of /inference/v1/generate.
type Generate struct {
	Common
	IDs      []int64
	TextMode bool
}

// ReadGenerate parses and checks a body of /inference/v1/generate.
func ReadGenerate(text []byte) (*Generate, *Error) {
	r, err := body(text)
	if err != nil {
		return nil, err
	}
	if err := rawSalt(r.o); err != nil {
		return nil, err
	}
	g := &Generate{}
	g.RequestID = strOr(r.str("request_id", false), "")
	if r.required("token_ids") {
		g.IDs = r.integers("token_ids", false)
		if len(r.lines) == 0 && len(g.IDs) == 0 {
			r.add("too_short", "body.token_ids", "List should have at least 1 item after validation, not 0", list{}, "'field_type': 'List', 'min_length': 1, 'actual_length': 0")
		}
		for _, id := range g.IDs {
			if id < 0 {
				valueError(r.schemaErrors, "body.token_ids", "token_ids must not contain negative values", r.o.get("token_ids"))
				break
			}
		}
	}
	var p *reader
	if r.required("sampling_params") {
		p = r.child("sampling_params", false)
	}
	if p == nil {
		return nil, r.err()
	}
	g.Sampling = p.readSamplingParams()
	g.Model = strOr(r.str("model", true), "")
	g.ReturnTokenIDs = r.bool("return_token_ids", true, false)
	switch mode := strOr(r.str("output_mode", false), "tokens"); mode {
	case "tokens":
	case "text":
		g.TextMode = true
	default:
		r.add("literal_error", "body.output_mode", "Input should be 'tokens' or 'text'", mode, `'expected': "'tokens' or 'text'"`)
	}
	g.Stream = r.bool("stream", true, false)
	g.readStreamOptions(r)
	g.CacheSalt = strOr(r.str("cache_salt", true), "")
	if err := r.err(); err != nil {
		return nil, err
	}
	if err := g.Sampling.Check(); err != nil {
		return nil, err
	}
	if g.TextMode && !g.Sampling.Detokenize {
		valueError(r.schemaErrors, "body", "output_mode='text' requires sampling_params.detokenize to be true", r.o)
		return nil, r.err()
	}
	g.Sampling.Stream = g.Stream
	return g, nil
}

func valueError(s *schemaErrors, loc, message string, input any) {
	quoted := repr(message)
	if strings.Contains(message, "'") {
		quoted = `"` + message + `"`
	}
	s.add("value_error", loc, "Value error, "+message, input, "'error': ValueError("+quoted+")")
}

// readSamplingParams reads the object that /inference/v1/generate takes and
// /render returns.
func (r *reader) readSamplingParams() Sampling {
	s := r.readSampling(&Defaults{})
	s.Logprobs = optional(r.int("logprobs", true))
	s.PromptLogprobs = optional(r.int("prompt_logprobs", true))
	s.PromptLogprobStart = optional(r.int("prompt_logprob_start", true))
	if r.present("prompt_logprob_token_ids", true) {
		elements, _ := r.elements(r.loc("prompt_logprob_token_ids"), r.o.get("prompt_logprob_token_ids"))
		s.PromptLogprobIDs = [][]int64{}
		for i, e := range elements {
			s.PromptLogprobIDs = append(s.PromptLogprobIDs, r.integerList(fmt.Sprintf("%s.%d", r.loc("prompt_logprob_token_ids"), i), e))
		}
	}
	s.Detokenize = r.bool("detokenize", false, true)
	s.SkipCache = r.bool("skip_reading_prefix_cache", true, s.PromptLogprobs != nil || s.PromptLogprobIDs != nil)
	if n := r.int("max_tokens", true); n != nil {
		s.MaxTokens = clampInt(*n)
	} else {
		s.MaxTokens = math.MaxInt
	}
	return s
}

// Tokenize is a body of /tokenize; Chat is nil for a plain text.
type Tokenize struct {
	Model   string
	Text    string
	Strings bool // return the vocabulary's pieces too
	Chat    *Conversation
}

// ReadTokenize parses and checks a body of /tokenize.
func ReadTokenize(text []byte) (*Tokenize, *Error) {
	r, err := body(text)
	if err != nil {
		return nil, err
	}
	t := &Tokenize{Model: strOr(r.str("model", true), "")}
	if r.o.has("prompt") {
		t.Text = strOr(r.str("prompt", false), "")
		r.bool("add_special_tokens", false, true)
	} else if r.required("messages") {
		if err := rawContinue(r.o); err != nil {
			return nil, err
		}
		t.Chat = r.conversation()
	}
	t.Strings = r.bool("return_token_strs", true, false)
	return t, r.err()
}

// ReadDetokenize parses and checks a body of /detokenize.
func ReadDetokenize(text []byte) (model string, ids []int64, err *Error) {
	r, err := body(text)
	if err != nil {
		return "", nil, err
	}
	model = strOr(r.str("model", true), "")
	if r.required("tokens") {
		ids = r.integers("tokens", false)
		for i, id := range ids {
			if id < 0 {
				r.add("greater_than_equal", fmt.Sprintf("body.tokens.%d", i), "Input should be greater than or equal to 0", number(fmt.Sprint(id)), "'ge': 0")
			}
		}
	}
	return model, ids, r.err()
}

// ReadAbort parses a body of /inference/v1/abort_requests.
func ReadAbort(text []byte) ([]string, *Error) {
	var b struct {
		RequestIDs []string `json:"request_ids"`
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, &Error{Status: 400, Type: "Bad Request", Message: "JSON decode error: " + err.Error()}
	}
	if b.RequestIDs == nil {
		return nil, &Error{Status: 400, Type: "Bad Request", Message: "Missing 'request_ids' in request body"}
	}
	return b.RequestIDs, nil
}
