package lm

import (
	"fmt"
	"math"

	"paceline/vocab"
)

// oracle computes a Llama model's logits for every position in float64, from
// Hugging Face's tensors and in the order of the textbook: no cache, no
// batching, no layout.
func oracle(c Config, tensors map[string]floatTensor, tokens []vocab.Token) [][]float64 {
	weights := func(name string) []float32 { return tensors[name].values }
	x := make([][]float64, len(tokens))
	for i, token := range tokens {
		x[i] = widen(weights("model.embed_tokens.weight")[int(token)*c.Hidden:][:c.Hidden])
	}
	for l := range c.Layers {
		of := func(name string) []float32 { return weights(fmt.Sprintf("model.layers.%d.%s.weight", l, name)) }
		var queries, keys, values [][]float64
		for i := range x {
			h := rmsNorm(x[i], of("input_layernorm"), c.NormEps)
			queries = append(queries, rope(c, apply(of("self_attn.q_proj"), h), i))
			keys = append(keys, rope(c, apply(of("self_attn.k_proj"), h), i))
			values = append(values, apply(of("self_attn.v_proj"), h))
		}
		for i := range x {
			mixed := attention(c, queries[i], keys[:i+1], values[:i+1])
			x[i] = sum(x[i], apply(of("self_attn.o_proj"), mixed))
			h := rmsNorm(x[i], of("post_attention_layernorm"), c.NormEps)
			hidden := apply(of("mlp.gate_proj"), h)
			for j, up := range apply(of("mlp.up_proj"), h) {
				hidden[j] *= up / (1 + math.Exp(-hidden[j]))
			}
			x[i] = sum(x[i], apply(of("mlp.down_proj"), hidden))
		}
	}
	head := weights("lm_head.weight")
	if c.TiedEmbeddings {
		head = weights("model.embed_tokens.weight")
	}
	for i := range x {
		x[i] = apply(head, rmsNorm(x[i], weights("model.norm.weight"), c.NormEps))
	}
	return x
}

func widen(values []float32) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = float64(v)
	}
	return out
}

func sum(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] + b[i]
	}
	return out
}

// apply multiplies a row-major matrix by x.
func apply(matrix []float32, x []float64) []float64 {
	out := make([]float64, len(matrix)/len(x))
	for i := range out {
		for k, v := range x {
			out[i] += float64(matrix[i*len(x)+k]) * v
		}
	}
	return out
}

func rmsNorm(x []float64, gain []float32, eps float64) []float64 {
	mean := 0.
	for _, v := range x {
		mean += v * v / float64(len(x))
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v / math.Sqrt(mean+eps) * float64(gain[i])
	}
	return out
}

// rope turns every head of x by its position.
func rope(c Config, x []float64, position int) []float64 {
	half := c.HeadDim / 2
	out := make([]float64, len(x))
	for head := 0; head < len(x); head += c.HeadDim {
		for i := range half {
			angle := float64(position) * math.Pow(c.RopeTheta, -2*float64(i)/float64(c.HeadDim))
			sin, cos := math.Sincos(angle)
			a, b := x[head+i], x[head+half+i]
			out[head+i], out[head+half+i] = a*cos-b*sin, b*cos+a*sin
		}
	}
	return out
}

func attention(c Config, query []float64, keys, values [][]float64) []float64 {
	out := make([]float64, len(query))
	for head := range c.Heads {
		at, from := head*c.HeadDim, head*c.KVHeads/c.Heads*c.HeadDim
		weights := make([]float64, len(keys))
		total := 0.
		for i := range keys {
			dot := 0.
			for d := range c.HeadDim {
				dot += query[at+d] * keys[i][from+d]
			}
			weights[i] = math.Exp(dot / math.Sqrt(float64(c.HeadDim)))
			total += weights[i]
		}
		for i := range values {
			for d := range c.HeadDim {
				out[at+d] += weights[i] / total * values[i][from+d]
			}
		}
	}
	return out
}
