package lm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"paceline/vocab"
)

// someTokens returns n tokens of ordinary text.
func someTokens(m *Model, n int) []vocab.Token {
	text := strings.Repeat("Once upon a time there was a shy fox named Max. Max lived by the river. 3 times 9 is 27.\n", n/20+1)
	return m.Tokenizer().Encode(text, false)[:n]
}

// prefilled returns a cache of n positions.
func prefilled(m *Model, n int) *Cache {
	c := m.NewCache()
	m.Forward([]Span{{c, someTokens(m, n), 0}})
	return c
}

// randomWeights gives every tensor of a Llama model of a shape random values.
func randomWeights(c Config, random *rand.Rand) map[string]floatTensor {
	tensors := map[string]floatTensor{}
	put := func(name string, scale float64, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(random.NormFloat64() * scale)
		}
		tensors[name] = floatTensor{shape, values}
	}
	queries, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	scale := 1 / math.Sqrt(float64(c.Hidden))
	put("model.embed_tokens.weight", 1, c.VocabSize, c.Hidden)
	put("model.norm.weight", 1, c.Hidden)
	if !c.TiedEmbeddings {
		put("lm_head.weight", scale, c.VocabSize, c.Hidden)
	}
	for i := range c.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		put(prefix+"input_layernorm.weight", 1, c.Hidden)
		put(prefix+"post_attention_layernorm.weight", 1, c.Hidden)
		put(prefix+"self_attn.q_proj.weight", 2*scale, queries, c.Hidden)
		put(prefix+"self_attn.k_proj.weight", 2*scale, keys, c.Hidden)
		put(prefix+"self_attn.v_proj.weight", scale, keys, c.Hidden)
		put(prefix+"self_attn.o_proj.weight", scale, c.Hidden, queries)
		put(prefix+"mlp.gate_proj.weight", scale, c.Intermediate, c.Hidden)
		put(prefix+"mlp.up_proj.weight", scale, c.Intermediate, c.Hidden)
		put(prefix+"mlp.down_proj.weight", scale, c.Hidden, c.Intermediate)
	}
	return tensors
}

// floatTensor is a tensor to be written as F32.
type floatTensor struct {
	shape  []int
	values []float32
}

// safetensorsFile writes tensors in the order of their names.
func safetensorsFile(tensors map[string]floatTensor) []byte {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		begin := data.Len()
		if err := binary.Write(&data, binary.LittleEndian, tensors[name].values); err != nil {
			panic(err)
		}
		header[name] = map[string]any{"dtype": "F32", "shape": tensors[name].shape, "data_offsets": []int{begin, data.Len()}}
	}
	return safetensorsBytes(header, data.Bytes())
}

func safetensorsBytes(header any, data []byte) []byte {
	text, err := json.Marshal(header)
	if err != nil {
		panic(err)
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return append(append(file, text...), data...)
}

// directory is a Hugging Face directory of a model of the given shape, with
// just enough of a tokeniser: one token per byte.
func directory(c Config, tensors map[string]floatTensor) fstest.MapFS {
	config, err := json.Marshal(map[string]any{
		"model_type": "llama", "vocab_size": c.VocabSize, "hidden_size": c.Hidden, "num_hidden_layers": c.Layers,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim,
		"intermediate_size": c.Intermediate, "max_position_embeddings": c.Context,
		"rms_norm_eps": c.NormEps, "rope_theta": c.RopeTheta, "tie_word_embeddings": c.TiedEmbeddings,
	})
	if err != nil {
		panic(err)
	}
	vocabulary := map[string]int{}
	for b, r := range byteLevel {
		vocabulary[string(r)] = b
	}
	tokenizer, err := json.Marshal(map[string]any{
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "use_regex": true},
		"model":         map[string]any{"type": "BPE", "vocab": vocabulary, "merges": []any{}},
	})
	if err != nil {
		panic(err)
	}
	return fstest.MapFS{
		"config.json":       {Data: config},
		"tokenizer.json":    {Data: tokenizer},
		"model.safetensors": {Data: safetensorsFile(tensors)},
	}
}

// shapes cover what the embedded models do not: an output matrix of its own, a
// vocabulary that is no multiple of 4, one key head for all queries, a head that
// is wider than its share of the residual stream.
var shapes = []Config{
	{VocabSize: 257, Hidden: 24, Layers: 2, Heads: 4, KVHeads: 1, HeadDim: 8, Intermediate: 44, Context: 400},
	{VocabSize: 258, Hidden: 40, Layers: 1, Heads: 6, KVHeads: 2, HeadDim: 16, Intermediate: 20, Context: 400, TiedEmbeddings: true},
	{VocabSize: 260, Hidden: 64, Layers: 3, Heads: 2, KVHeads: 2, HeadDim: 24, Intermediate: 256, Context: 400},
}

// randomModel returns a model of one of the shapes and its weights.
func randomModel(t testing.TB, shape int) (*Model, map[string]floatTensor) {
	t.Helper()
	c := shapes[shape]
	c.NormEps, c.RopeTheta = 1e-5, 10000
	tensors := randomWeights(c, rand.New(rand.NewPCG(1, uint64(shape))))
	m, err := Load(directory(c, tensors))
	if err != nil {
		t.Fatal(err)
	}
	return m, tensors
}

func TestLoadEmbedded(t *testing.T) {
	for _, c := range []struct {
		open func() (*Model, error)
		want Config
	}{
		{Target, Config{Hidden: 192, Layers: 3, Heads: 6, KVHeads: 3, Intermediate: 512}},
		{Draft, Config{Hidden: 64, Layers: 1, Heads: 2, KVHeads: 2, Intermediate: 176}},
		{DraftB, Config{Hidden: 32, Layers: 1, Heads: 1, KVHeads: 1, Intermediate: 88}},
	} {
		m := load(t, c.open)
		c.want.VocabSize, c.want.HeadDim, c.want.Context, c.want.TiedEmbeddings = 2048, 32, 2048, true
		c.want.RopeTheta, c.want.NormEps = 10000, 1e-5
		got := m.Config()
		if len(got.EOS) != 1 || got.EOS[0] != 0 {
			t.Errorf("EOS is %v, want [0]", got.EOS)
		}
		got.EOS = nil
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
		if again := load(t, c.open); again != m {
			t.Error("loaded twice")
		}
	}
}

// TestLoadRefuses changes one thing in a directory that loads.
func TestLoadRefuses(t *testing.T) {
	replace := func(name, old, replacement string) func(fstest.MapFS) {
		return func(dir fstest.MapFS) {
			text := string(dir[name].Data)
			if !strings.Contains(text, old) {
				t.Fatalf("there is no %s in %s", old, name)
			}
			dir[name] = &fstest.MapFile{Data: []byte(strings.Replace(text, old, replacement, 1))}
		}
	}
	remove := func(name string) func(fstest.MapFS) {
		return func(dir fstest.MapFS) { delete(dir, name) }
	}
	write := func(name, text string) func(fstest.MapFS) {
		return func(dir fstest.MapFS) { dir[name] = &fstest.MapFile{Data: []byte(text)} }
	}
	for _, c := range []struct {
		change func(fstest.MapFS)
		want   string
	}{
		{remove("config.json"), "cannot read config.json: "},
		{write("config.json", "{"), "cannot parse config.json: "},
		{replace("config.json", `"llama"`, `"mistral"`), `model_type is "mistral", want llama`},
		{replace("config.json", `{`, `{"hidden_act": "gelu",`), `hidden_act is "gelu", want silu`},
		{replace("config.json", `{`, `{"attention_bias": true,`), "attention_bias and mlp_bias must be false"},
		{replace("config.json", `{`, `{"rope_scaling": {"rope_type": "llama3"},`), `rope_type is "llama3", want default`},
		{replace("config.json", `"rope_theta":10000`, `"rope_theta":0`), "rope_theta and rms_norm_eps must be positive"},
		{replace("config.json", `"head_dim":8`, `"head_dim":12`), "head_dim is 12, want a multiple of 8 "},
		{replace("config.json", `"hidden_size":24`, `"hidden_size":99999999`), "hidden_size is 99999999, want "},
		{replace("config.json", `"num_key_value_heads":1`, `"num_key_value_heads":3`), "is not a multiple of num_key_value_heads"},
		{replace("config.json", `"num_hidden_layers":2`, `"num_hidden_layers":-1`), "num_hidden_layers is -1, want "},
		{replace("config.json", `"num_hidden_layers":2`, `"num_hidden_layers":3`), `there is no tensor "model.layers.2.`},
		{replace("config.json", `"intermediate_size":44`, `"intermediate_size":48`), "has shape [44 24], want [48 24]"},
		{replace("config.json", `{`, `{"eos_token_id": 257,`), "257 is outside the vocabulary of 257"},
		{write("generation_config.json", `{"eos_token_id": "x"}`), `"x" is neither an id nor a list of ids`},
		{write("generation_config.json", `x`), "cannot parse generation_config.json: "},
		{remove("tokenizer.json"), "cannot read tokenizer.json: "},
		{replace("tokenizer.json", `"BPE"`, `"Unigram"`), `model is "Unigram", want BPE`},
		{replace("tokenizer.json", `"ByteLevel"`, `"Metaspace"`), "pre_tokenizer must be ByteLevel"},
		{replace("tokenizer.json", `{`, `{"normalizer": {"type": "NFC"},`), "a normalizer is not supported"},
		{replace("tokenizer.json", `"merges":[]`, `"merges":[["a","bc"]]`), `merge ["a" "bc"] names tokens that do not exist`},
		{replace("tokenizer.json", `"merges":[]`, `"merges":["a b c"]`), "is no pair of tokens"},
		{replace("tokenizer.json", `"merges":[]`, `"ignore_merges":true`), "ignore_merges are not supported"},
		{replace("tokenizer.json", `"a":97`, `"a":256`), `id 256 of "a" is outside the 256 ids`},
		{replace("tokenizer.json", `"a":97`, `"aa":97`), "there is no token for byte 0x61"},
		{replace("tokenizer.json", `{`, `{"added_tokens":[{"id":256,"content":"<x>","lstrip":true}],`), `added token "<x>": `},
		{replace("tokenizer.json", `{`, `{"added_tokens":[{"id":256,"content":"<x>"},{"id":257,"content":"<y>"}],`), "it has 258 ids, the model 257"},
		{remove("model.safetensors"), "cannot read the weights: "},
		{write("model.safetensors", "short"), "cannot use model.safetensors: the file is shorter than its header"},
		{replace("model.safetensors", `"lm_head.weight"`, `"lm_head.height"`), `there is no tensor "lm_head.weight"`},
	} {
		config := shapes[0]
		config.NormEps, config.RopeTheta = 1e-5, 10000
		dir := directory(config, randomWeights(config, rand.New(rand.NewPCG(0, 0))))
		c.change(dir)
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got error %v, want %q", err, c.want)
		}
	}
}

func TestLoadEOS(t *testing.T) {
	for _, c := range []struct {
		config, generation string // eos_token_id; "" for none
		want               string
	}{
		{"", "", "[]"},
		{"7", "", "[7]"},
		{"null", "", "[]"},
		{"7", "8", "[8]"},
		{"7", "null", "[7]"},
		{"", "[8, 9]", "[8 9]"},
	} {
		shape := shapes[0]
		shape.NormEps, shape.RopeTheta = 1e-5, 10000
		dir := directory(shape, nil)
		if c.config != "" {
			text := strings.Replace(string(dir["config.json"].Data), "{", `{"eos_token_id": `+c.config+",", 1)
			dir["config.json"] = &fstest.MapFile{Data: []byte(text)}
		}
		if c.generation != "" {
			dir["generation_config.json"] = &fstest.MapFile{Data: []byte(`{"eos_token_id": ` + c.generation + "}")}
		}
		got, err := readConfig(fs.FS(dir))
		if err != nil || fmt.Sprint(got.EOS) != c.want {
			t.Errorf("%q, %q: got %v, %v, want %s", c.config, c.generation, got.EOS, err, c.want)
		}
	}
}
