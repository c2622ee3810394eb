// Package engine talks to inference servers: a cancellable streaming HTTP
// client, what an endpoint turned out to be able to do, and the tables that
// say which request fields stay exact in which mode. One folder a dialect
// implements the calls (engine/vllm, …).
//
// Nothing here assumes a port, a path or a version: an endpoint is probed, and
// the probe is believed.
package engine

import (
	"encoding/json"

	"paceline/verify"
	"paceline/vocab"
)

// Capabilities is what probing an endpoint found. It is data: served, logged
// and printed as it is. A mode that is not available says why and what would
// enable it.
type Capabilities struct {
	URL     string `json:"url"`
	Dialect string `json:"dialect"` // "vllm", "openai" (pass-through only)
	Version string `json:"version,omitempty"`
	Model   string `json:"model"`

	MaxModelLen int `json:"max_model_len,omitempty"` // prompt and answer together, in tokens
	VocabSize   int `json:"vocab_size,omitempty"`    // 0 unknown
	BlockSize   int `json:"block_size,omitempty"`    // prefix cache block, in tokens; 0 unknown

	TokenPrompts bool `json:"token_prompts"` // /v1/completions takes ids and returns ids
	ChatTokens   bool `json:"chat_tokens"`   // chat streams return prompt_token_ids and token_ids
	RenderChat   bool `json:"render_chat"`   // /tokenize renders messages
	Detokenize   bool `json:"detokenize"`    // /detokenize
	ScaleOut     bool `json:"scale_out"`     // /render, /derender and /inference/v1/generate
	CachedTokens bool `json:"cached_tokens"` // usage tells how deep the prefix cache was hit
	PrefixCache  bool `json:"prefix_cache"`

	// Reasoning: the server parses reasoning out of chat answers, so that they
	// cannot be taken over.
	Reasoning bool `json:"reasoning,omitempty"`
	// MaxTokens is the server's own limit on new tokens, also where a request
	// asks for more; 0: none, or unknown. MaxLogprobs bounds the entries of a row.
	MaxTokens   int `json:"max_tokens,omitempty"`
	MaxLogprobs int `json:"max_logprobs,omitempty"`

	EOS      []vocab.Token    `json:"eos,omitempty"`       // ids that end an answer; empty: unknown
	NamedEOS []vocab.Token    `json:"named_eos,omitempty"` // those of them that the engine names as the stop reason
	Defaults *json.RawMessage `json:"defaults,omitempty"`  // the server's own sampling parameters; nil: unknown

	Fingerprint string `json:"fingerprint,omitempty"` // of the vocabulary; "" unknown

	Modes []ModeStatus `json:"modes"`
}

// ModeStatus says whether a mode can be used on an endpoint.
type ModeStatus struct {
	Mode   string `json:"mode"` // "score", "fan-out"
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // why not
	Enable string `json:"enable,omitempty"` // the server flag or setting that would make it available
}

// Can tells whether a mode is available.
func (c *Capabilities) Can(m verify.Mode) bool {
	for _, s := range c.Modes {
		if s.Mode == m.String() {
			return s.OK
		}
	}
	return false
}

// Rule says what a mode must do about a top-level request field.
type Rule uint8

const (
	// Harmless fields do not change a token or the answer's format; they are
	// sent on where the engine knows them.
	Harmless Rule = iota + 1
	// Handled fields are read by the proxy, which gives them their effect
	// (stop, max_tokens, stream, …).
	Handled
	// Carried fields are exact in every mode: sent to the engine, or applied to
	// rows by the proxy.
	Carried
	// Sampled fields are exact only where the engine itself draws every token
	// (fan-out), and sent to it.
	Sampled
	// Unsupported fields make the request pass through with the field's reason,
	// unless the value is neutral.
	Unsupported
)

// Field is a row of a dialect's table of request fields.
type Field struct {
	Rule   Rule
	Reason string // the reason to pass through, for Unsupported
	// Neutral lists JSON values (compact) at which the field has no effect, so
	// that it may be ignored: null always is.
	Neutral []string
}

// Fields is a dialect's allow-list: a field that is not in it makes the
// request pass through with reason "unknown_field".
type Fields map[string]Field

// Settings are a request's effective settings: the client's fields over the
// target's defaults. What the engine is to be sent is kept as JSON; what the
// proxy acts on is parsed.
type Settings struct {
	// Temperature is the effective temperature, 0 = greedy. Known is false when
	// a setting that decides how a token is drawn is the server's own and
	// unknown, or one that rows cannot be given the effect of (a default
	// repetition penalty): then only the engine may draw.
	Temperature float64
	Known       bool
	// EOS are the ids that were known to end an answer. Where the proxy looks
	// for the end itself (on rows) it has to look for all of them; a row that
	// ends in another is not used.
	EOS []vocab.Token

	MaxTokens int // new tokens at most; 0: up to the context's end
	MinTokens int

	Stop         []string
	IncludeStop  bool // the stop string stays in the text
	StopTokenIDs []vocab.Token
	IgnoreEOS    bool
	SkipSpecial  bool // special tokens do not show in the text (the default)
}
