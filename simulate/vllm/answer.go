package vllm

import (
	"paceline/vocab"
)

// The answers, key for key in vLLM's order. A pointer, an any or a nil slice
// is null where vLLM writes null; what it leaves out has omitempty.

// Null is a field that is always null.
type Null struct{}

// MarshalJSON implements json.Marshaler.
func (Null) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// IDs is a list of token ids; nil is null.
type IDs []vocab.Token

// MarshalJSON implements json.Marshaler.
func (l IDs) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("null"), nil
	}
	return append(vocab.AppendIDs([]byte{'['}, l), ']'), nil
}

// Counts are the figures of an answer.
type Counts struct {
	Prompt, Completion int
	Cached             int // −1: not told
}

// Usage is the usage of a whole answer.
type Usage struct {
	Prompt            int            `json:"prompt_tokens"`
	Total             int            `json:"total_tokens"`
	Completion        int            `json:"completion_tokens"`
	PromptDetails     *promptDetails `json:"prompt_tokens_details"`
	CompletionDetails Null           `json:"completion_tokens_details"`
}

type promptDetails struct {
	Cached     int  `json:"cached_tokens"`
	Created    *int `json:"created_cache_tokens"`
	Multimodal Null `json:"multimodal_tokens"`
}

// NewUsage returns the usage of an answer. Created says that the tokens
// written to the cache are told too, as chat does (always 0 here).
func NewUsage(c Counts, created bool) Usage {
	u := Usage{Prompt: c.Prompt, Total: c.Prompt + c.Completion, Completion: c.Completion}
	if c.Cached >= 0 {
		u.PromptDetails = &promptDetails{Cached: c.Cached}
		if created {
			u.PromptDetails.Created = new(int)
		}
	}
	return u
}

// streamUsage is the usage in a stream, without nulls.
type streamUsage struct {
	Prompt            int                  `json:"prompt_tokens"`
	Total             int                  `json:"total_tokens"`
	Completion        int                  `json:"completion_tokens"`
	PromptDetails     *streamPromptDetails `json:"prompt_tokens_details,omitempty"`
	CompletionDetails *Null                `json:"completion_tokens_details,omitempty"`
}

type streamPromptDetails struct {
	Cached  int  `json:"cached_tokens"`
	Created *int `json:"created_cache_tokens,omitempty"`
}

func newStreamUsage(c Counts, created bool) *streamUsage {
	u := &streamUsage{Prompt: c.Prompt, Total: c.Prompt + c.Completion, Completion: c.Completion}
	if c.Cached >= 0 {
		u.PromptDetails = &streamPromptDetails{Cached: c.Cached}
		if created {
			u.PromptDetails.Created = new(int)
		}
	}
	return u
}

// ContinuousUsage is the usage on a chunk in the middle; chat writes one null
// more than completions.
func ContinuousUsage(c Counts, chat bool) any {
	u := newStreamUsage(Counts{c.Prompt, c.Completion, -1}, false)
	if chat {
		u.CompletionDetails = &Null{}
	}
	return u
}

// FinalUsage is the usage on the last chunk.
func FinalUsage(c Counts, chat bool) any { return newStreamUsage(c, chat) }

// Head is what answers and chunks begin with.
type Head struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
}

// CompletionBody is the answer of /v1/completions.
type CompletionBody struct {
	Head
	Choices     []CompletionChoice `json:"choices"`
	ServiceTier Null               `json:"service_tier"`
	Fingerprint *string            `json:"system_fingerprint"`
	Usage       Usage              `json:"usage"`
	KVTransfer  Null               `json:"kv_transfer_params"`
	ECTransfer  Null               `json:"ec_transfer_params"`
	Metrics     Null               `json:"metrics"`
}

// CompletionChoice is a choice of it.
type CompletionChoice struct {
	Index          int                 `json:"index"`
	Text           string              `json:"text"`
	Logprobs       *CompletionLogprobs `json:"logprobs"`
	Finish         *string             `json:"finish_reason"`
	StopReason     any                 `json:"stop_reason"`
	TokenIDs       IDs                 `json:"token_ids"`
	PromptLogprobs []Row               `json:"prompt_logprobs"`
	PromptTokenIDs IDs                 `json:"prompt_token_ids"`
	RoutedExperts  Null                `json:"routed_experts"`
}

// CompletionChunk is an event of a stream of it.
type CompletionChunk struct {
	Head
	Choices     []CompletionChunkChoice `json:"choices"`
	Usage       any                     `json:"usage,omitempty"`
	Fingerprint string                  `json:"system_fingerprint,omitempty"`
}

// CompletionChunkChoice is a choice of a chunk.
type CompletionChunkChoice struct {
	Index          int                 `json:"index"`
	Text           string              `json:"text"`
	Logprobs       *CompletionLogprobs `json:"logprobs"`
	Finish         *string             `json:"finish_reason"`
	StopReason     any                 `json:"stop_reason"`
	PromptTokenIDs IDs                 `json:"prompt_token_ids"`
	TokenIDs       IDs                 `json:"token_ids"`
}

// ChatBody is the answer of /v1/chat/completions.
type ChatBody struct {
	Head
	Choices        []ChatChoice `json:"choices"`
	ServiceTier    Null         `json:"service_tier"`
	Fingerprint    *string      `json:"system_fingerprint"`
	Usage          Usage        `json:"usage"`
	PromptLogprobs []Row        `json:"prompt_logprobs"`
	PromptTokenIDs IDs          `json:"prompt_token_ids"`
	PromptText     *string      `json:"prompt_text"`
	KVTransfer     Null         `json:"kv_transfer_params"`
	ECTransfer     Null         `json:"ec_transfer_params"`
	Metrics        Null         `json:"metrics"`
}

// ChatChoice is a choice of it.
type ChatChoice struct {
	Index         int           `json:"index"`
	Message       ChatMessage   `json:"message"`
	Logprobs      *ChatLogprobs `json:"logprobs"`
	Finish        string        `json:"finish_reason"`
	StopReason    any           `json:"stop_reason"`
	TokenIDs      IDs           `json:"token_ids"`
	RoutedExperts Null          `json:"routed_experts"`
}

// ChatMessage is the assistant's turn.
type ChatMessage struct {
	Role         string       `json:"role"`
	Content      *string      `json:"content"`
	Refusal      Null         `json:"refusal"`
	Annotations  Null         `json:"annotations"`
	Audio        Null         `json:"audio"`
	FunctionCall Null         `json:"function_call"`
	ToolCalls    []AnswerCall `json:"tool_calls,omitempty"`
	Reasoning    Null         `json:"reasoning"`
}

// AnswerCall is a tool call that the model made. Index is for streams.
type AnswerCall struct {
	ID       string         `json:"id,omitempty"`
	Type     string         `json:"type,omitempty"`
	Index    *int           `json:"index,omitempty"`
	Function AnswerFunction `json:"function"`
}

// AnswerFunction is what it calls.
type AnswerFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

// ChatChunk is an event of a stream of chat.
type ChatChunk struct {
	Head
	Choices     []ChatChunkChoice `json:"choices"`
	Usage       any               `json:"usage,omitempty"`
	Fingerprint string            `json:"system_fingerprint,omitempty"`
	*ChatPrompt
}

// ChatPrompt is on the first chunk of every choice.
type ChatPrompt struct {
	PromptTokenIDs IDs     `json:"prompt_token_ids"`
	PromptText     *string `json:"prompt_text"`
}

// ChatChunkChoice is a choice of a chunk: TokenIDs are on all but the first,
// StopReason on the last.
type ChatChunkChoice struct {
	Index    int           `json:"index"`
	Delta    ChatDelta     `json:"delta"`
	Logprobs *ChatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
	*ChatStop
	*ChatTokens
}

// ChatStop is the part of a choice that finishes it.
type ChatStop struct {
	StopReason any `json:"stop_reason"`
}

// ChatTokens is the part of a choice that has tokens.
type ChatTokens struct {
	TokenIDs IDs `json:"token_ids"`
}

// ChatDelta is what a chunk adds.
type ChatDelta struct {
	Role      string       `json:"role,omitempty"`
	Content   *string      `json:"content,omitempty"`
	ToolCalls []AnswerCall `json:"tool_calls,omitempty"`
}

// GenerateBody is the answer of /inference/v1/generate.
type GenerateBody struct {
	RequestID        string           `json:"request_id"`
	Model            string           `json:"model"`
	Created          int64            `json:"created"`
	Usage            Usage            `json:"usage"`
	PromptLogprobs   []Row            `json:"prompt_logprobs"`
	PromptIDLogprobs *string          `json:"prompt_token_id_logprobs"`
	PromptTokenIDs   IDs              `json:"prompt_token_ids"`
	MMPlaceholders   Null             `json:"mm_placeholders"`
	Metrics          Null             `json:"metrics"`
	KVTransfer       Null             `json:"kv_transfer_params"`
	ECTransfer       Null             `json:"ec_transfer_params"`
	OutputMode       string           `json:"output_mode"`
	Choices          []GenerateChoice `json:"choices"`
}

// GenerateChoice is a choice of it or of a chunk. Logprobs is a
// *TokenLogprobs or, with text, a *ChatLogprobs.
type GenerateChoice struct {
	Index          int             `json:"index"`
	Finish         *string         `json:"finish_reason"`
	StopReason     any             `json:"stop_reason"`
	TokenIDs       IDs             `json:"token_ids"`
	RoutedExperts  Null            `json:"routed_experts"`
	SamplingMask   Null            `json:"sampling_mask"`
	WeightVersions []WeightVersion `json:"weight_versions"`
	Text           *string         `json:"text,omitempty"`
	Logprobs       any             `json:"logprobs"`
}

// WeightVersion says which weights wrote which tokens.
type WeightVersion struct {
	Version string `json:"version"`
	Start   int    `json:"start"`
	End     int    `json:"end"`
}

// GenerateChunk is an event of a stream of it.
type GenerateChunk struct {
	RequestID string `json:"request_id"`
	Usage     any    `json:"usage"`
	*GeneratePrompt
	OutputMode string           `json:"output_mode"`
	Choices    []GenerateChoice `json:"choices"`
}

// GeneratePrompt is on the first chunk, if the prompt was asked for.
type GeneratePrompt struct {
	PromptTokenIDs IDs `json:"prompt_token_ids"`
}

// TokenizeBody is the answer of /tokenize.
type TokenizeBody struct {
	Count       int      `json:"count"`
	MaxModelLen int      `json:"max_model_len"`
	Tokens      IDs      `json:"tokens"`
	Strings     []string `json:"token_strs"`
}

// DetokenizeBody is the answer of /detokenize.
type DetokenizeBody struct {
	Prompt string `json:"prompt"`
}

// ModelList is the answer of /v1/models.
type ModelList struct {
	Object string  `json:"object"`
	Data   []Model `json:"data"`
}

// Model is a served model.
type Model struct {
	ID          string       `json:"id"`
	Object      string       `json:"object"`
	Created     int64        `json:"created"`
	OwnedBy     string       `json:"owned_by"`
	Root        string       `json:"root"`
	Parent      Null         `json:"parent"`
	MaxModelLen int          `json:"max_model_len"`
	Permission  []Permission `json:"permission"`
}

// Permission is a formality of OpenAI's format.
type Permission struct {
	ID                 string `json:"id"`
	Object             string `json:"object"`
	Created            int64  `json:"created"`
	AllowCreateEngine  bool   `json:"allow_create_engine"`
	AllowSampling      bool   `json:"allow_sampling"`
	AllowLogprobs      bool   `json:"allow_logprobs"`
	AllowSearchIndices bool   `json:"allow_search_indices"`
	AllowView          bool   `json:"allow_view"`
	AllowFineTuning    bool   `json:"allow_fine_tuning"`
	Organization       string `json:"organization"`
	Group              Null   `json:"group"`
	IsBlocking         bool   `json:"is_blocking"`
}
