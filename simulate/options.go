package simulate

import (
	"fmt"
	"time"

	"paceline/simulate/batch"
	"paceline/simulate/lm"
	"paceline/simulate/vllm"
	"paceline/vocab"
)

// Runner is which of vLLM's two model runners is simulated. A client cannot
// see it, but by what an over-deep cache hit does to prompt log-probabilities.
type Runner uint8

const (
	// V1 is the runner on CPUs: the list of prompt log-probabilities always has
	// full length; rows of tokens that were in the prefix cache are
	// uninitialised memory. With a seed, every request draws the same noise.
	V1 Runner = iota
	// V2 is the runner on GPUs: rows of cached tokens are missing. With a seed,
	// the noise depends on the seed and the position.
	V2
)

// Options configure an engine. The zero value is the built-in target on
// loopback, as fast as it computes, with every feature of the server switched
// on.
type Options struct {
	Addr  string    // to listen on ("127.0.0.1:0")
	Name  string    // of the served model ("target")
	Root  string    // where the model seems to come from (Name)
	Model *lm.Model // (lm.Target())

	// Profile is what steps and the network cost. The zero profile costs nothing.
	Profile batch.Profile

	MaxModelLen int // prompt and answer together, in tokens (the model's context)
	BlockSize   int // of the prefix cache, in tokens (the profile's, or 16)
	CacheTokens int // capacity of the key-value cache (131,072); at least MaxModelLen
	StepTokens  int // computed in one step at most (8,192)
	MaxRunning  int // sequences at once (256)

	Runner Runner
	// JoinLists lets all prompts of one request begin in the same step. The real
	// engine gets them one after the other and begins with the first alone when
	// it is idle.
	JoinLists bool

	// MergeChunks puts tokens that a reader was too slow to take into one chunk
	// of a stream, as the real server does. Without it every token has its own,
	// however fast the engine runs.
	MergeChunks bool

	NoScaleOut     bool // no /inference, /render and /derender: 404
	NoCachedTokens bool // usage does not tell how deep the prefix cache was hit
	NoPrefixCache  bool // nothing is found in the prefix cache
	ToolParser     bool // tool calls are parsed out of answers; without it tool_choice auto is refused
	MaxLogprobs    int  // (20); −1 no limit

	// Defaults are the generation_config's sampling parameters.
	Defaults vllm.Defaults
	// EOS ends an answer, the tokenizer's own id first (the model's).
	EOS []vocab.Token

	// Seed starts the engine's own noise: for unseeded requests, garbage and
	// jitter. 0 takes one from the clock.
	Seed uint64
	// Garbage shapes the uninitialised rows of V1.
	Garbage Garbage

	// Memo keeps the logits of so many contexts, so that drawing again after the
	// same context computes nothing (0: none). It changes no result.
	Memo int

	// FaultsOverHTTP opens POST and DELETE /simulate/faults.
	FaultsOverHTTP bool
	// Key guards /v1 and /inference: without it in the Authorization header
	// they answer 401 ("": open).
	Key string
	// KeepAlive is how long an idle connection stays open (5 s).
	KeepAlive time.Duration
}

// Garbage says what stands in rows that were never computed. Chances are in
// [0, 1]; the zero value takes the defaults in parentheses, a negative one is
// never.
type Garbage struct {
	// Plausible is the chance of a row that looks computed and is wrong (.5);
	// other rows hold ids that no vocabulary has.
	Plausible float64
	// NaN is the chance that an answer with such rows holds a NaN and is refused
	// as not representable in JSON (.1).
	NaN float64
}

func (o *Options) fill() error {
	if o.Model == nil {
		m, err := lm.Target()
		if err != nil {
			return fmt.Errorf("cannot load the built-in model: %w", err)
		}
		o.Model = m
	}
	c := o.Model.Config()
	setDefault(&o.Addr, "127.0.0.1:0")
	setDefault(&o.Name, "target")
	setDefault(&o.Root, o.Name)
	setDefault(&o.MaxModelLen, c.Context)
	setDefault(&o.BlockSize, o.Profile.Block)
	setDefault(&o.BlockSize, 16)
	setDefault(&o.CacheTokens, 1<<17)
	setDefault(&o.MaxRunning, 256)
	setDefault(&o.MaxLogprobs, 20)
	setDefault(&o.Garbage.Plausible, .5)
	setDefault(&o.Garbage.NaN, .1)
	setDefault(&o.KeepAlive, 5*time.Second)
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	if o.EOS == nil {
		o.EOS = c.EOS
	}
	switch {
	case o.MaxModelLen > c.Context || o.MaxModelLen < 2:
		return fmt.Errorf("cannot serve a context of %d tokens with a model of %d", o.MaxModelLen, c.Context)
	case o.CacheTokens < o.MaxModelLen+o.BlockSize:
		return fmt.Errorf("cannot serve a context of %d tokens with a cache of %d", o.MaxModelLen, o.CacheTokens)
	case o.BlockSize < 1:
		return fmt.Errorf("cannot use a block size of %d", o.BlockSize)
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) batchOptions() batch.Options {
	return batch.Options{
		Profile: o.Profile, BlockSize: o.BlockSize, Blocks: o.CacheTokens / o.BlockSize,
		StepTokens: o.StepTokens, MaxRunning: o.MaxRunning,
	}
}
