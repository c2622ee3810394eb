// Package plan decides what is done with a request: speculate, in which mode,
// or pass it through and for which reason. It is pure: values in, a value out,
// no clock, no I/O, nothing remembered.
//
// The decision is an allow-list. A field that is not in the dialect's table
// makes the request pass through, and so does everything that is known not to
// stay exact.
package plan

import (
	"errors"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/proxy/wire"
	"paceline/verify"
)

// Reason says why a request passes through. It is a header value, a label and
// a field of the log line.
type Reason string

// The reasons, about in the order in which Decide looks for them.
const (
	Endpoint           Reason = "endpoint"             // not a call that generates text
	ClientOff          Reason = "client_off"           // switched off by the request's header or by the pair's policy
	Metered            Reason = "metered"              // rounds resend the prompt, and this endpoint charges for it
	NoDraft            Reason = "no_draft"             // the pair has no draft
	DraftDown          Reason = "draft_down"           // the draft does not answer
	VocabMismatch      Reason = "vocab_mismatch"       // the draft's token ids are not the target's
	EngineCannotVerify Reason = "engine_cannot_verify" // the target offers no call that this request could be verified with
	Multimodal         Reason = "multimodal"           // a message is more than text
	NGt1               Reason = "n_gt_1"               // more than one answer
	StructuredOutput   Reason = "structured_output"    // a grammar's state is lost between requests
	ToolsUnparsed      Reason = "tools_unparsed"       // the answer may become tool calls, which the target parses
	Penalties          Reason = "penalties"            // counts of the answer's tokens are lost between requests
	Logprobs           Reason = "logprobs"             // the answer's log-probabilities are asked for
	Seed               Reason = "seed"                 // the engine's noise depends on more than seed and position
	ThinkingBudget     Reason = "thinking_budget"      // the budget's state is lost between requests
	BadWords           Reason = "bad_words"            // words of several tokens match within one request only
	UnknownField       Reason = "unknown_field"        // a field that the dialect does not know, or not in this form
	UnknownDefaults    Reason = "unknown_defaults"     // the target's own sampling settings are unknown, and only it may draw
	TooLong            Reason = "too_long"             // the prompt is longer than speculation pays for
	Overload           Reason = "overload"             // the target has no room for verification
	BreakEven          Reason = "break_even"           // it would not be faster
)

// Reasons lists every reason.
var Reasons = []Reason{
	Endpoint, ClientOff, Metered, NoDraft, DraftDown, VocabMismatch, EngineCannotVerify, Multimodal, NGt1,
	StructuredOutput, ToolsUnparsed, Penalties, Logprobs, Seed, ThinkingBudget, BadWords, UnknownField,
	UnknownDefaults, TooLong, Overload, BreakEven,
}

// Draft is what is known of the pair's draft.
type Draft uint8

const (
	DraftNone     Draft = iota // not configured
	DraftReady                 // usable
	DraftFailing               // its breaker is open
	DraftMismatch              // another vocabulary
)

// Wish is a wanted way to verify.
type Wish uint8

const (
	Auto        Wish = iota // score where it is exact, otherwise fan-out
	OnlyFanOut              // never score
	OnlyScoring             // never fan-out
)

// Policy is what the operator decided for a pair.
type Policy struct {
	// Off passes every request through. Default: speculate.
	Off bool
	// Verify restricts the modes. Default Auto. Risk: OnlyFanOut costs an
	// engine step a round more; OnlyScoring passes sampled requests through.
	Verify Wish
	// Rounds allows speculation on the target: every round sends the whole
	// prompt again, so false on endpoints that charge by the token. Default
	// false; the configuration sets it for loopback and private addresses.
	Rounds bool
	// MaxPrompt passes longer prompts through, in tokens (or their estimate:
	// bytes/4 of a request without token ids). 0: no limit.
	MaxPrompt int
}

// Input is what a decision depends on.
type Input struct {
	// Request is the decoded request; nil for any other call.
	Request *wire.Request
	// Off says that the client switched speculation off.
	Off    bool
	Policy Policy
	Draft  Draft

	Target engine.Capabilities
	// Fields is the dialect's table for this kind of request.
	Fields engine.Fields
	// Effective works out the request's settings over the target's defaults.
	Effective func(caps *engine.Capabilities, chat bool, body gjson.Result) (engine.Settings, error)

	// Opaque says that the target lately answered a chat with more than text: a
	// reasoning or tool parser is on, whose state could not be taken over.
	Opaque bool

	// Overloaded and Losing are what the target's load and earlier rounds say.
	Overloaded, Losing bool
}

// Decision is what is to be done.
type Decision struct {
	// Reason is why the request passes through; empty: it is speculated.
	Reason Reason
	// Verify is the mode of a speculated request.
	Verify verify.Mode
	// Settings are a speculated request's effective settings.
	Settings engine.Settings
}

// Speculate tells whether the request is not to be passed through.
func (d Decision) Speculate() bool { return d.Reason == "" }

func pass(r Reason) (Decision, error) { return Decision{Reason: r}, nil }

// Decide looks, in this order, at: what the call is, what client and operator
// switched, the draft, the target, the request's shape, its fields in their
// order, its effective settings, and the load. The first that speaks against
// it is the reason. An error is a *wire.Error of Effective's, the client's fault.
func Decide(in Input) (Decision, error) {
	if r := in.circumstances(); r != "" {
		return pass(r)
	}
	if r := in.shape(); r != "" {
		return pass(r)
	}
	settings, err := in.Effective(&in.Target, in.Request.Chat, in.Request.Root)
	if errors.As(err, new(*wire.Error)) {
		return Decision{}, err
	}
	if err != nil {
		return pass(UnknownField) // the target may understand it, or say what is wrong
	}
	greedy := settings.Known && settings.Temperature == 0
	fanOutOnly, r := in.fields(greedy)
	if r != "" {
		return pass(r)
	}
	mode, r := in.mode(settings, greedy, fanOutOnly)
	if r != "" {
		return pass(r)
	}
	if r := in.load(); r != "" {
		return pass(r)
	}
	return Decision{Verify: mode, Settings: settings}, nil
}

// circumstances looks at everything but the request's content.
func (in *Input) circumstances() Reason {
	switch {
	case in.Request == nil:
		return Endpoint
	case in.Off || in.Policy.Off:
		return ClientOff
	case !in.Policy.Rounds:
		return Metered
	case in.Draft == DraftNone:
		return NoDraft
	case in.Draft == DraftFailing:
		return DraftDown
	case in.Draft == DraftMismatch:
		return VocabMismatch
	case !in.canVerify():
		return EngineCannotVerify
	}
	return ""
}

// canVerify tells whether any request of this kind could be verified: the
// prompt's ids must come to be known, and text must come from ids.
func (in *Input) canVerify() bool {
	t := &in.Target
	prompt := t.TokenPrompts && (!in.Request.Chat || t.ChatTokens || t.RenderChat)
	return prompt && t.Detokenize && (in.may(verify.Score) || in.may(verify.FanOut))
}

// may tells whether the target offers a mode and the policy allows it.
func (in *Input) may(m verify.Mode) bool {
	switch in.Policy.Verify {
	case OnlyFanOut:
		return m == verify.FanOut && in.Target.Can(m)
	case OnlyScoring:
		return m == verify.Score && in.Target.Can(m)
	}
	return in.Target.Can(m)
}

func (in *Input) shape() Reason {
	switch r := in.Request; {
	case in.Opaque && r.Chat:
		return ToolsUnparsed
	case r.Multimodal:
		return Multimodal
	case r.Prompts > 1:
		return NGt1
	}
	return ""
}

// fields goes through the request's fields. fanOutOnly says that one of them
// is exact only where the engine draws every token.
func (in *Input) fields(greedy bool) (fanOutOnly bool, _ Reason) {
	for _, f := range in.Request.Fields {
		row, known := in.Fields[f.Name]
		switch {
		case !known:
			return false, UnknownField
		case row.Rule == engine.Harmless || row.Rule == engine.Handled || row.Rule == engine.Carried || row.NeutralAt(f.Value):
		case row.Rule == engine.Sampled:
			fanOutOnly = true
		case row.Reason == string(Seed) && greedy:
			// nothing is drawn
		case row.Reason == "":
			return false, UnknownField
		default:
			return false, Reason(row.Reason)
		}
	}
	if in.Request.OtherStreamOptions {
		return false, UnknownField
	}
	return fanOutOnly, ""
}

// mode chooses between score and fan-out. Score needs greedy settings that are
// known and the ids that end an answer.
func (in *Input) mode(s engine.Settings, greedy, fanOutOnly bool) (verify.Mode, Reason) {
	switch {
	case greedy && !fanOutOnly && len(in.Target.EOS) > 0 && in.may(verify.Score):
		return verify.Score, ""
	case in.may(verify.FanOut):
		return verify.FanOut, ""
	case !s.Known:
		return 0, UnknownDefaults
	}
	return 0, EngineCannotVerify
}

func (in *Input) load() Reason {
	r, limit := in.Request, in.Policy.MaxPrompt
	tokens := r.PromptTokens
	if tokens < 0 {
		tokens = len(r.Body) / 4
	}
	switch {
	case limit > 0 && tokens > limit:
		return TooLong
	case in.Overloaded:
		return Overload
	case in.Losing:
		return BreakEven
	}
	return ""
}
