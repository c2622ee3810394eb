package wire

import "strconv"

// Reply writes the chunks and the body of one answer. The parts that every
// chunk repeats are rendered once.
//
// A streamed chat is Role, Content…, Finish, Usage (if asked for), Done; a
// streamed completion is the same without Role. Every method appends one whole
// event to dst and returns it. A Reply does not change after New and may be
// read by several goroutines.
type Reply struct {
	chat  bool
	head  []byte // id, object, created and model of a chunk, up to the choices
	whole []byte // the same of a body
}

// Ending says how an answer ended.
type Ending struct {
	Reason string // "stop", "length"
	// StopString is the stop string that ended it, or StopToken the stop token.
	StopString   string
	StopToken    int
	HasStopToken bool
}

// Usage counts an answer's tokens.
type Usage struct {
	Prompt, Completion int
	Cached             int // prompt tokens found in the prefix cache; -1 unknown
}

// Acceptance counts what became of drafts.
type Acceptance struct {
	Steps    int // passes that verified a draft
	Drafted  int // tokens proposed to them
	Accepted int // tokens of those that the target agreed with
}

// NewReply returns the writer of one answer. id is the request's id, created a
// Unix time, model the name to answer with.
func NewReply(chat bool, id string, created int64, model string) *Reply {
	prefix, chunk, whole := "cmpl-", "text_completion", "text_completion"
	if chat {
		prefix, chunk, whole = "chatcmpl-", "chat.completion.chunk", "chat.completion"
	}
	head := func(object string) []byte {
		b := append([]byte(nil), `{"id":`...)
		b = AppendString(b, prefix+id)
		b = append(b, `,"object":"`...)
		b = append(b, object...)
		b = append(b, `","created":`...)
		b = strconv.AppendInt(b, created, 10)
		b = append(b, `,"model":`...)
		b = AppendString(b, model)
		return append(b, `,"choices":[`...)
	}
	return &Reply{chat: chat, head: head(chunk), whole: head(whole)}
}

func (r *Reply) open(dst []byte) []byte {
	dst = append(dst, "data: "...)
	return append(dst, r.head...)
}

// Role appends the first chunk of a chat.
func (r *Reply) Role(dst []byte) []byte {
	dst = r.open(dst)
	return append(dst, `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`+"\n\n"...)
}

// Content appends a chunk of text.
func (r *Reply) Content(dst []byte, text string) []byte {
	dst = r.open(dst)
	if r.chat {
		dst = append(dst, `{"index":0,"delta":{"content":`...)
		dst = AppendString(dst, text)
		return append(dst, `},"logprobs":null,"finish_reason":null}]}`+"\n\n"...)
	}
	dst = append(dst, `{"index":0,"text":`...)
	dst = AppendString(dst, text)
	return append(dst, `,"logprobs":null,"finish_reason":null,"stop_reason":null}]}`+"\n\n"...)
}

// Finish appends the chunk that says how the answer ended. With a it carries
// the acceptance figures too: for streams without a usage chunk.
func (r *Reply) Finish(dst []byte, e Ending, a *Acceptance) []byte {
	dst = r.open(dst)
	if r.chat {
		dst = append(dst, `{"index":0,"delta":{"content":""},"logprobs":null,`...)
	} else {
		dst = append(dst, `{"index":0,"text":"","logprobs":null,`...)
	}
	dst = e.append(dst)
	dst = append(dst, `}]`...)
	if a != nil {
		dst = a.append(dst)
	}
	return append(dst, "}\n\n"...)
}

// Usage appends the chunk that stream_options.include_usage asks for.
func (r *Reply) Usage(dst []byte, u Usage, a Acceptance) []byte {
	dst = r.open(dst)
	dst = append(dst, ']')
	dst = u.append(dst, a)
	dst = a.append(dst)
	return append(dst, "}\n\n"...)
}

// Done appends the end of a stream that went well.
func (r *Reply) Done(dst []byte) []byte { return append(dst, "data: [DONE]\n\n"...) }

// Body appends an unstreamed answer.
func (r *Reply) Body(dst []byte, text string, e Ending, u Usage, a Acceptance) []byte {
	dst = append(dst, r.whole...)
	if r.chat {
		dst = append(dst, `{"index":0,"message":{"role":"assistant","content":`...)
		dst = AppendString(dst, text)
		dst = append(dst, `,"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,`...)
	} else {
		dst = append(dst, `{"index":0,"text":`...)
		dst = AppendString(dst, text)
		dst = append(dst, `,"logprobs":null,`...)
	}
	dst = e.append(dst)
	dst = append(dst, `}]`...)
	dst = u.append(dst, a)
	dst = a.append(dst)
	return append(dst, '}')
}

func (e Ending) append(dst []byte) []byte {
	dst = append(dst, `"finish_reason":`...)
	dst = AppendString(dst, e.Reason)
	dst = append(dst, `,"stop_reason":`...)
	if e.HasStopToken {
		return appendInt(dst, e.StopToken)
	}
	return appendStringOrNull(dst, e.StopString)
}

func (u Usage) append(dst []byte, a Acceptance) []byte {
	dst = append(dst, `,"usage":{"prompt_tokens":`...)
	dst = appendInt(dst, u.Prompt)
	dst = append(dst, `,"total_tokens":`...)
	dst = appendInt(dst, u.Prompt+u.Completion)
	dst = append(dst, `,"completion_tokens":`...)
	dst = appendInt(dst, u.Completion)
	if u.Cached >= 0 {
		dst = append(dst, `,"prompt_tokens_details":{"cached_tokens":`...)
		dst = appendInt(dst, u.Cached)
		dst = append(dst, '}')
	}
	dst = append(dst, `,"completion_tokens_details":{"accepted_prediction_tokens":`...)
	dst = appendInt(dst, a.Accepted)
	dst = append(dst, `,"rejected_prediction_tokens":`...)
	dst = appendInt(dst, a.Drafted-a.Accepted)
	return append(dst, `}}`...)
}

// append writes llama.cpp's and vLLM's forms of the figures.
func (a Acceptance) append(dst []byte) []byte {
	dst = append(dst, `,"timings":{"draft_n":`...)
	dst = appendInt(dst, a.Drafted)
	dst = append(dst, `,"draft_n_accepted":`...)
	dst = appendInt(dst, a.Accepted)
	dst = append(dst, `},"metrics":{"speculative_decoding":{"mean_acceptance_length":`...)
	dst = appendFloat(dst, 1+ratio(a.Accepted, a.Steps))
	dst = append(dst, `,"draft_acceptance_rate":`...)
	dst = appendFloat(dst, ratio(a.Accepted, a.Drafted))
	dst = append(dst, `,"num_spec_steps":`...)
	dst = appendInt(dst, a.Steps)
	dst = append(dst, `,"num_accepted_draft_tokens":`...)
	dst = appendInt(dst, a.Accepted)
	dst = append(dst, `,"num_draft_tokens":`...)
	dst = appendInt(dst, a.Drafted)
	return append(dst, `}}`...)
}
