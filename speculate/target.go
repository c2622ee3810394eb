package speculate

import (
	"context"

	"paceline/verify"
	"paceline/vocab"
)

// Target is one generation on the target endpoint. The prompt, the sampling
// settings and the limits of the request are bound in it by whoever made it;
// the token slices passed in are the answer so far (the prompt excluded),
// owned by the caller and unchanged while the call runs.
//
// A Target is used by one generation; Decode may be called while a Stream is
// open or a Verify is out, Stream and Verify never at the same time.
type Target interface {
	// Stream starts plain decoding after the answer so far. The first call of a
	// generation comes with none: that is round 0, the client's own request.
	// Closing the stream ends the work in the engine. limit > 0 bounds this
	// stream's tokens (sent as its max_tokens where that is less than what
	// the answer may still have): the engine then stops by itself with finish
	// reason "length", and no step of it is wasted on a token that would be cut
	// off.
	Stream(ctx context.Context, after []vocab.Token, limit int) (Stream, error)
	// Verify asks what the target writes after the answer so far and after each
	// prefix of the draft, in one pass. An empty draft asks for one token.
	// It is called only after the first chunk of round 0 was read.
	Verify(ctx context.Context, after, draft []vocab.Token) (verify.Pass, error)
	// Decode returns the text of a run of tokens as the request wants it shown
	// (special tokens skipped or not); an incomplete UTF-8 tail comes out as
	// U+FFFD, as engines do it.
	Decode(ctx context.Context, tokens []vocab.Token) (string, error)
}

// Stream is a running plain decoding.
type Stream interface {
	// Next returns the next chunk; io.EOF after the finish chunk was returned;
	// an error when the stream broke before that.
	Next() (Chunk, error)
	// Close ends the work in the engine and releases the connection. What was
	// already received can still be read with Next until it returns io.EOF or
	// an error; nothing more is awaited from the network. It may be called
	// from another goroutine than Next and more than once.
	Close() error
}

// Chunk is what a plain stream delivered at once.
type Chunk struct {
	// Prompt holds the rendered prompt, on the first chunk of round 0 only.
	Prompt []vocab.Token
	// Tokens are the new ids; the one that ended the answer is included, as
	// engines count it. A chunk without tokens may still carry text.
	Tokens []vocab.Token
	// Text is the engine's text of what became complete with these tokens.
	Text string
	// Finish is the engine's finish reason ("stop", "length") on the last
	// chunk (an aborted stream has none: Next returns an error), StopReason the stop token id that it named, if any.
	Finish     string
	StopReason vocab.Token
	HasReason  bool
	// Opaque says that the engine turned tokens into something else than
	// content (reasoning, tool calls): the answer cannot be taken over and has
	// to be streamed to its end.
	Opaque bool
	// CachedTokens counts prompt tokens found in the prefix cache; -1 unknown.
	// It may come with any chunk of the stream.
	CachedTokens int
}
