// Package lm runs small Llama models in pure Go: the language models behind
// the built-in engines.
//
// It reads a Hugging Face directory as it is (the same one that vLLM and
// SGLang load), keeps the weights in float32 and computes the logits of
// batches of sequences that share the pages of their key-value caches. Three
// models are embedded: Target, and the two drafts that were distilled from it.
//
// The promise on which the rest of the project rests: the logits of a position
// depend on the tokens up to it and on nothing else, bit for bit. How positions
// are batched, cut into steps, shared between forks or spread over workers does
// not show. design.md says how.
package lm

import (
	"embed"
	"fmt"
	"io/fs"
	"sync"
)

// models holds the Hugging Face directories of the embedded models; where they
// come from is told in train/README.md.
//
//go:embed models/target models/draft models/draft-b
var models embed.FS

var (
	target = sync.OnceValues(func() (*Model, error) { return loadEmbedded("models/target") })
	draft  = sync.OnceValues(func() (*Model, error) { return loadEmbedded("models/draft") })
	draftB = sync.OnceValues(func() (*Model, error) { return loadEmbedded("models/draft-b") })
)

// Target returns the embedded target: 3 layers of width 192, 1.6 M parameters.
// It is loaded on the first call and shared by all.
func Target() (*Model, error) { return target() }

// Draft returns the embedded draft: 1 layer of width 64, .2 M parameters,
// right about the target's next token 87 times in 100 on its own text.
func Draft() (*Model, error) { return draft() }

// DraftB returns the weaker embedded draft: 1 layer of width 32, right 67
// times in 100, there to be compared with Draft.
func DraftB() (*Model, error) { return draftB() }

// Model is a Llama model. It is immutable after Load and safe for concurrent
// use.
type Model struct {
	config    Config
	tokenizer *Tokenizer
	weights   weights
	steps     sync.Pool // of *step: the scratch memory of one Forward
}

// Load reads a model from a Hugging Face directory: config.json,
// model.safetensors (one file, F16, BF16 or F32), tokenizer.json (byte-level
// BPE) and, if there is one, generation_config.json. Everything is checked
// before anything is computed; what is not a plain Llama model is refused.
func Load(fsys fs.FS) (*Model, error) {
	config, err := readConfig(fsys)
	if err != nil {
		return nil, err
	}
	tokenizer, err := readTokenizer(fsys)
	if err != nil {
		return nil, err
	}
	if tokenizer.Size() > config.VocabSize {
		return nil, fmt.Errorf("cannot use tokenizer.json: it has %d ids, the model %d", tokenizer.Size(), config.VocabSize)
	}
	file, err := fs.ReadFile(fsys, "model.safetensors")
	if err != nil {
		return nil, fmt.Errorf("cannot read the weights: %w", err)
	}
	weights, err := readWeights(file, config)
	if err != nil {
		return nil, fmt.Errorf("cannot use model.safetensors: %w", err)
	}
	m := &Model{config: config, tokenizer: tokenizer, weights: weights}
	m.steps.New = func() any { return newStep(m) }
	return m, nil
}

func loadEmbedded(dir string) (*Model, error) {
	fsys, err := fs.Sub(models, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the embedded %s: %w", dir, err)
	}
	m, err := Load(fsys)
	if err != nil {
		return nil, fmt.Errorf("cannot load the embedded %s: %w", dir, err)
	}
	return m, nil
}

// Config returns the model's shape. Its EOS slice is shared: do not modify it.
func (m *Model) Config() Config { return m.config }

// Tokenizer returns the model's tokenizer.
func (m *Model) Tokenizer() *Tokenizer { return m.tokenizer }
