package lm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"paceline/vocab"
)

// Config is the shape of a Llama model, from config.json and
// generation_config.json.
type Config struct {
	VocabSize    int // ids are 0 … VocabSize-1
	Hidden       int // width of the residual stream
	Layers       int
	Heads        int // query heads
	KVHeads      int // key and value heads; divides Heads, each serves Heads/KVHeads query heads
	HeadDim      int // width of one head
	Intermediate int // width of the MLP
	Context      int // the largest number of positions of one sequence

	RopeTheta float64 // base of the rotary embedding's wavelengths
	NormEps   float64 // added to the mean square in RMSNorm

	// TiedEmbeddings says that the output matrix is the embedding table.
	TiedEmbeddings bool

	// EOS are the ids that end a generation: generation_config.json's, else
	// config.json's; nil if neither names one.
	EOS []vocab.Token
}

// maxDim bounds every number in a config.json, so that products of two of them
// cannot overflow an int and a damaged file cannot ask for all of memory.
const maxDim = 1 << 24

// hfConfig is the part of config.json that decides whether and how we can run
// the model. Transformers 5 moved rope_theta into rope_parameters.
type hfConfig struct {
	ModelType    string          `json:"model_type"`
	HiddenAct    string          `json:"hidden_act"`
	VocabSize    int             `json:"vocab_size"`
	Hidden       int             `json:"hidden_size"`
	Layers       int             `json:"num_hidden_layers"`
	Heads        int             `json:"num_attention_heads"`
	KVHeads      int             `json:"num_key_value_heads"`
	HeadDim      int             `json:"head_dim"`
	Intermediate int             `json:"intermediate_size"`
	Context      int             `json:"max_position_embeddings"`
	NormEps      float64         `json:"rms_norm_eps"`
	Tied         bool            `json:"tie_word_embeddings"`
	AttnBias     bool            `json:"attention_bias"`
	MLPBias      bool            `json:"mlp_bias"`
	EOS          json.RawMessage `json:"eos_token_id"`
	RopeTheta    float64         `json:"rope_theta"`
	RopeScaling  *ropeParameters `json:"rope_scaling"`
	Rope         *ropeParameters `json:"rope_parameters"`
}

type ropeParameters struct {
	Theta float64 `json:"rope_theta"`
	Type  string  `json:"rope_type"`
}

// readConfig reads config.json and generation_config.json and refuses what
// Forward could not compute.
func readConfig(fsys fs.FS) (Config, error) {
	var hf hfConfig
	if err := readJSON(fsys, "config.json", &hf); err != nil {
		return Config{}, err
	}
	c, err := hf.config()
	if err != nil {
		return Config{}, fmt.Errorf("cannot use config.json: %w", err)
	}
	var generation struct {
		EOS json.RawMessage `json:"eos_token_id"`
	}
	err = readJSON(fsys, "generation_config.json", &generation)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, err
	}
	eos := generation.EOS
	if isNull(eos) {
		eos = hf.EOS
	}
	if c.EOS, err = parseIDs(eos, c.VocabSize); err != nil {
		return Config{}, fmt.Errorf("cannot use eos_token_id: %w", err)
	}
	return c, nil
}

// config checks hf and fills in Hugging Face's defaults.
func (hf *hfConfig) config() (Config, error) {
	rope := ropeParameters{Theta: hf.RopeTheta}
	for _, r := range []*ropeParameters{hf.RopeScaling, hf.Rope} {
		if r != nil {
			rope = ropeParameters{Theta: max(rope.Theta, r.Theta), Type: r.Type}
		}
	}
	if hf.KVHeads == 0 {
		hf.KVHeads = hf.Heads
	}
	if hf.HeadDim == 0 && hf.Heads > 0 {
		hf.HeadDim = hf.Hidden / hf.Heads
	}
	if hf.HiddenAct == "" {
		hf.HiddenAct = "silu"
	}
	switch {
	case hf.ModelType != "llama":
		return Config{}, fmt.Errorf("model_type is %q, want llama", hf.ModelType)
	case hf.HiddenAct != "silu":
		return Config{}, fmt.Errorf("hidden_act is %q, want silu", hf.HiddenAct)
	case hf.AttnBias || hf.MLPBias:
		return Config{}, errors.New("attention_bias and mlp_bias must be false")
	case rope.Type != "" && rope.Type != "default":
		return Config{}, fmt.Errorf("rope_type is %q, want default", rope.Type)
	case !(rope.Theta > 0) || !(hf.NormEps > 0):
		return Config{}, errors.New("rope_theta and rms_norm_eps must be positive")
	}
	c := Config{
		VocabSize: hf.VocabSize, Hidden: hf.Hidden, Layers: hf.Layers,
		Heads: hf.Heads, KVHeads: hf.KVHeads, HeadDim: hf.HeadDim,
		Intermediate: hf.Intermediate, Context: hf.Context,
		RopeTheta: rope.Theta, NormEps: hf.NormEps, TiedEmbeddings: hf.Tied,
	}
	return c, c.check()
}

// check says why the kernels cannot run the shape, if they cannot.
func (c *Config) check() error {
	for _, d := range []struct {
		name            string
		value, multiple int
	}{
		{"vocab_size", c.VocabSize, 1},
		{"hidden_size", c.Hidden, 4},
		{"num_hidden_layers", c.Layers, 1},
		{"num_attention_heads", c.Heads, 1},
		{"num_key_value_heads", c.KVHeads, 1},
		{"head_dim", c.HeadDim, 8}, // RoPE pairs the two halves, four values at a time
		{"intermediate_size", c.Intermediate, 4},
		{"max_position_embeddings", c.Context, 1},
	} {
		if d.value <= 0 || d.value > maxDim || d.value%d.multiple != 0 {
			return fmt.Errorf("%s is %d, want a multiple of %d from 1 to %d", d.name, d.value, d.multiple, maxDim)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("num_attention_heads (%d) is not a multiple of num_key_value_heads (%d)", c.Heads, c.KVHeads)
	}
	return nil
}

// parseIDs reads an id or a list of ids, as Hugging Face writes eos_token_id.
func parseIDs(raw json.RawMessage, vocabSize int) ([]vocab.Token, error) {
	if isNull(raw) {
		return nil, nil
	}
	var ids []vocab.Token
	if err := json.Unmarshal(raw, &ids); err != nil {
		var id vocab.Token
		if err := json.Unmarshal(raw, &id); err != nil {
			return nil, fmt.Errorf("%s is neither an id nor a list of ids", raw)
		}
		ids = []vocab.Token{id}
	}
	for _, id := range ids {
		if id < 0 || int(id) >= vocabSize {
			return nil, fmt.Errorf("%d is outside the vocabulary of %d", id, vocabSize)
		}
	}
	return ids, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func readJSON(fsys fs.FS, name string, into any) error {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("cannot parse %s: %w", name, err)
	}
	return nil
}
