package vllm

import "paceline/engine"

// The reasons for passing through that this dialect's tables give; the full
// list is proxy/plan's.
const (
	unknownField     = "unknown_field"
	structuredOutput = "structured_output"
	toolsUnparsed    = "tools_unparsed"
	penalties        = "penalties"
	logprobs         = "logprobs"
	nGT1             = "n_gt_1"
	seed             = "seed"
	multimodal       = "multimodal"
	thinkingBudget   = "thinking_budget"
	badWords         = "bad_words"
)

var (
	harmless = engine.Field{Rule: engine.Harmless}
	handled  = engine.Field{Rule: engine.Handled}
	carried  = engine.Field{Rule: engine.Carried}
)

func sampled(neutral ...string) engine.Field {
	return engine.Field{Rule: engine.Sampled, Neutral: neutral}
}

func unsupported(reason string, neutral ...string) engine.Field {
	return engine.Field{Rule: engine.Unsupported, Reason: reason, Neutral: neutral}
}

// The allow-lists: every field of vLLM 0.32's ChatCompletionRequest and
// CompletionRequest (vllm/entrypoints/openai/*/protocol.py), the fields of
// OpenAI's API that vLLM ignores, and those of older vLLM versions that changed
// tokens. What was lost between requests, and so what is Unsupported, was
// measured on vLLM 0.32.0 or read in its source (testdata/real/README.md); each
// odd row says why.
//
// Carried fields that shape the prompt (chat_template_kwargs, documents, …) go
// out with round 0, the client's own request; later rounds continue its token
// ids. Handled fields are taken out of it.
var (
	ChatFields       = table(chatOnly)
	CompletionFields = table(completionOnly)
)

func table(own map[string]engine.Field) engine.Fields {
	all := engine.Fields{}
	for _, rows := range []map[string]engine.Field{shared, own} {
		for name, row := range rows {
			all[name] = row
		}
	}
	return all
}

// chatOnly holds the rows of chat requests.
var chatOnly = map[string]engine.Field{
	"messages":                     carried,
	"max_completion_tokens":        handled,
	"top_logprobs":                 unsupported(logprobs, "0"),
	"logprobs":                     unsupported(logprobs, "false"),
	"tools":                        unsupported(toolsUnparsed),
	"tool_choice":                  unsupported(toolsUnparsed, `"none"`),
	"parallel_tool_calls":          harmless, // says something about tool calls, which pass through
	"functions":                    unsupported(toolsUnparsed),
	"function_call":                unsupported(toolsUnparsed),
	"reasoning_effort":             carried, // an argument of the template
	"include_reasoning":            unsupported(unknownField, "true"),
	"add_generation_prompt":        carried,
	"continue_final_message":       carried,
	"documents":                    carried,
	"chat_template":                carried,
	"chat_template_kwargs":         carried,
	"media_io_kwargs":              unsupported(multimodal),
	"mm_processor_kwargs":          unsupported(multimodal),
	"modalities":                   unsupported(multimodal, `["text"]`),
	"audio":                        unsupported(multimodal),
	"return_prompt_text":           unsupported(unknownField, "false"),
	"chat_template_content_format": unsupported(unknownField),
	"web_search_options":           unsupported(unknownField),
	"prediction":                   handled, // a draft
	"store":                        harmless,
	"metadata":                     harmless,
	"service_tier":                 harmless,
	"safety_identifier":            harmless,
	"prompt_cache_key":             harmless,
	"prompt_cache_retention":       harmless,
}

// completionOnly holds the rows of completion requests.
var completionOnly = map[string]engine.Field{
	"prompt":        carried,
	"logprobs":      unsupported(logprobs), // 0 asks for the sampled token's
	"suffix":        unsupported(unknownField),
	"best_of":       unsupported(nGT1, "1"),
	"prompt_embeds": unsupported(multimodal),
}

// shared holds the rows of both.
var shared = map[string]engine.Field{
	"model": handled,

	// How long, where it ends, how it is delivered: the proxy's.
	"max_tokens":                 handled,
	"min_tokens":                 handled,
	"stop":                       handled,
	"include_stop_str_in_output": carried, // the engine shows or hides a stop token's text by it
	"stream":                     handled,
	"stream_options":             handled,
	"stream_interval":            handled, // chunks of several tokens would only delay round 0
	"stop_token_ids":             carried,
	"ignore_eos":                 carried,
	"skip_special_tokens":        carried,
	// It matters with skip_special_tokens false, in texts that the proxy puts together.
	"spaces_between_special_tokens": unsupported(unknownField, "true"),

	// How a token is drawn.
	"temperature":        carried,
	"top_p":              carried,
	"top_k":              carried,
	"min_p":              carried,
	"repetition_penalty": sampled("1"),  // multiplies logits by what prompt and answer hold: not to be rebuilt from rows
	"logit_bias":         sampled("{}"), // rows are without it
	"allowed_token_ids":  sampled(),
	"presence_penalty":   unsupported(penalties, "0"), // counts this request's own output only
	"frequency_penalty":  unsupported(penalties, "0"),
	"seed":               unsupported(seed, "-1"), // on V1 runners the same noise for every sub-prompt
	"bad_words":          unsupported(badWords, "[]"),
	"watermarking":       unsupported(unknownField),
	"use_beam_search":    unsupported(nGT1, "false"),
	"length_penalty":     harmless, // beams only

	// State that is lost between requests, or results of a whole request.
	"n":                     unsupported(nGT1, "1"),
	"prompt_logprobs":       unsupported(logprobs),
	"logprob_token_ids":     unsupported(logprobs, "[]"),
	"echo":                  unsupported(unknownField, "false"),
	"response_format":       unsupported(structuredOutput, `{"type":"text"}`),
	"structured_outputs":    unsupported(structuredOutput),
	"thinking_token_budget": unsupported(thinkingBudget, "-1"),
	"repetition_detection":  unsupported(unknownField),
	"vllm_xargs":            unsupported(unknownField),
	"kv_transfer_params":    unsupported(unknownField),
	"ec_transfer_params":    unsupported(unknownField),
	"return_token_ids":      unsupported(unknownField, "false"),
	// Until 0.11; 0.32 ignores them.
	"guided_json":                 unsupported(structuredOutput),
	"guided_regex":                unsupported(structuredOutput),
	"guided_choice":               unsupported(structuredOutput),
	"guided_grammar":              unsupported(structuredOutput),
	"guided_decoding_backend":     unsupported(structuredOutput),
	"guided_whitespace_pattern":   unsupported(structuredOutput),
	"structural_tag":              unsupported(structuredOutput),
	"early_stopping":              unsupported(nGT1, "false"),
	"logits_processors":           unsupported(unknownField),
	"adapter_id":                  unsupported(unknownField),
	"truncate_prompt_tokens":      carried, // the prompt's ids come back truncated
	"truncation_side":             carried,
	"add_special_tokens":          carried,
	"priority":                    carried,
	"cache_salt":                  carried, // the same in every round
	"session_id":                  carried,
	"request_id":                  carried,
	"user":                        harmless,
	"return_tokens_as_token_ids":  harmless, // how log-probabilities are written
	"return_token_offsets":        harmless, // /render only, like the next three
	"mm_payload":                  harmless,
	"return_mm_kwargs":            harmless,
	"routed_experts_prompt_start": harmless,
}

// ownFields are left out of round 0's body: the proxy writes them itself, or
// gives them their effect.
var ownFields = map[string]bool{
	"model": true, "stream": true, "stream_options": true, "stream_interval": true,
	"max_tokens": true, "max_completion_tokens": true, "min_tokens": true,
	"stop": true, "return_token_ids": true, "prediction": true, "seed": true,
}

// roundFields go along with every later request on /v1/completions: all that
// decides how a token is drawn, shown, cached or scheduled.
var roundFields = map[string]bool{
	"temperature": true, "top_p": true, "top_k": true, "min_p": true, "repetition_penalty": true,
	"logit_bias": true, "allowed_token_ids": true, "stop_token_ids": true, "ignore_eos": true,
	"skip_special_tokens": true, "include_stop_str_in_output": true,
	"priority": true, "cache_salt": true, "session_id": true,
}

// scoreFields go along with a score beside its sampling parameters.
var scoreFields = map[string]bool{"priority": true, "cache_salt": true}
