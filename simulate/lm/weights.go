package lm

import (
	"fmt"
	"math"
	"slices"
)

// weights are a model's parameters in the layout of the kernels.
type weights struct {
	embedding []quad // [VocabSize][Hidden/4]
	layers    []layer
	norm      []quad // the last RMSNorm's gain
	head      matrix // Hidden → VocabSize, rounded up to a multiple of 4

	// cos and sin of the rotary embedding, [Context][HeadDim/8].
	cos, sin []quad
}

// layer is one transformer block.
type layer struct {
	attentionNorm, mlpNorm []quad
	qkv                    matrix // Hidden → queries, keys, values, one after another
	output                 matrix // Heads·HeadDim → Hidden
	gateUp                 matrix // Hidden → the MLP's gate, then its up projection
	down                   matrix // Intermediate → Hidden
}

// matrix maps vectors of in quads to vectors of out quads. tiles holds out
// panels of in tiles: panel p gives output quad p.
type matrix struct {
	in, out int
	tiles   []tile
}

// panel returns the tiles that compute output quad p.
func (w *matrix) panel(p int) []tile { return w.tiles[p*w.in : (p+1)*w.in] }

// newMatrix lays out row-major rows of width in (a multiple of 4). If their
// number is no multiple of 4, rows of zeros are added.
func newMatrix(rows []float32, in int) matrix {
	n := len(rows) / in
	w := matrix{in: in / 4, out: (n + 3) / 4}
	w.tiles = make([]tile, w.in*w.out)
	for r := range n {
		panel := w.panel(r / 4)
		for k, v := range rows[r*in : (r+1)*in] {
			panel[k/4][k%4*4+r%4] = v
		}
	}
	return w
}

// quads copies a vector of 4n values.
func quads(values []float32) []quad {
	out := make([]quad, len(values)/4)
	for i := range out {
		out[i] = quad(values[4*i:])
	}
	return out
}

// weightReader takes tensors out of a safetensors file; the first error stays.
type weightReader struct {
	tensors map[string]tensor
	err     error
}

// take converts the named tensor, which must have the given shape; nil after an
// error.
func (r *weightReader) take(name string, shape ...int) []float32 {
	if r.err != nil {
		return nil
	}
	t, ok := r.tensors[name]
	if !ok {
		r.err = fmt.Errorf("there is no tensor %q", name)
		return nil
	}
	if !slices.Equal(t.shape, shape) {
		r.err = fmt.Errorf("tensor %q has shape %v, want %v", name, t.shape, shape)
		return nil
	}
	values, err := t.floats()
	if err != nil {
		r.err = fmt.Errorf("tensor %q: %w", name, err)
		return nil
	}
	return values
}

// readWeights converts a safetensors file with Hugging Face's names for a Llama
// model of the given shape.
func readWeights(file []byte, c Config) (weights, error) {
	tensors, err := parseSafetensors(file)
	if err != nil {
		return weights{}, err
	}
	r := &weightReader{tensors: tensors}
	embedding := r.take("model.embed_tokens.weight", c.VocabSize, c.Hidden)
	head := embedding
	if !c.TiedEmbeddings {
		head = r.take("lm_head.weight", c.VocabSize, c.Hidden)
	}
	w := weights{
		embedding: quads(embedding),
		norm:      quads(r.take("model.norm.weight", c.Hidden)),
		head:      newMatrix(head, c.Hidden),
	}
	for i := 0; i < c.Layers && r.err == nil; i++ {
		w.layers = append(w.layers, r.layer(fmt.Sprintf("model.layers.%d.", i), c))
	}
	if r.err != nil {
		return weights{}, r.err
	}
	w.cos, w.sin = rotary(c)
	return w, nil
}

// layer converts the block whose tensors' names start with prefix.
func (r *weightReader) layer(prefix string, c Config) layer {
	queries, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	qkv := r.take(prefix+"self_attn.q_proj.weight", queries, c.Hidden)
	qkv = append(qkv, r.take(prefix+"self_attn.k_proj.weight", keys, c.Hidden)...)
	qkv = append(qkv, r.take(prefix+"self_attn.v_proj.weight", keys, c.Hidden)...)
	gateUp := r.take(prefix+"mlp.gate_proj.weight", c.Intermediate, c.Hidden)
	gateUp = append(gateUp, r.take(prefix+"mlp.up_proj.weight", c.Intermediate, c.Hidden)...)
	return layer{
		attentionNorm: quads(r.take(prefix+"input_layernorm.weight", c.Hidden)),
		mlpNorm:       quads(r.take(prefix+"post_attention_layernorm.weight", c.Hidden)),
		qkv:           newMatrix(qkv, c.Hidden),
		output:        newMatrix(r.take(prefix+"self_attn.o_proj.weight", c.Hidden, queries), queries),
		gateUp:        newMatrix(gateUp, c.Hidden),
		down:          newMatrix(r.take(prefix+"mlp.down_proj.weight", c.Hidden, c.Intermediate), c.Intermediate),
	}
}

// rotary tabulates the rotary embedding's angles: position · theta^(-2i/HeadDim)
// for pair i, rounded to float32 at each step as Hugging Face does.
func rotary(c Config) (cos, sin []quad) {
	pairs := c.HeadDim / 2
	cos = make([]quad, c.Context*pairs/4)
	sin = make([]quad, c.Context*pairs/4)
	for i := range pairs {
		frequency := float32(1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim)))
		for position := range c.Context {
			angle := float64(float32(position) * frequency)
			at := position*pairs + i
			cos[at/4][at%4] = float32(math.Cos(angle))
			sin[at/4][at%4] = float32(math.Sin(angle))
		}
	}
	return cos, sin
}
