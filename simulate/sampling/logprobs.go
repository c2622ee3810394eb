package sampling

import (
	"cmp"
	"math"
	"slices"

	"paceline/vocab"
)

// Choice is one of the most likely tokens of a row.
type Choice struct {
	ID      vocab.Token
	Logprob float32
	Rank    int // 1 for the most likely
}

// Logprobs returns the logarithm of every token's probability, raw: at a
// temperature of 1 and before any other setting. The caller owns the result.
func Logprobs(logits []float32) []float32 {
	norm := logSum(logits)
	out := make([]float32, len(logits))
	for i, v := range logits {
		out[i] = float32(float64(v) - norm)
	}
	return out
}

// TopN returns the n most likely tokens, or all if there are fewer, the most
// likely first and the lower id first among equals. Logprobs are as those of
// Logprobs.
func TopN(logits []float32, n int) []Choice {
	n = min(n, len(logits))
	if n <= 0 {
		return nil
	}
	norm := logSum(logits)
	out := make([]Choice, n)
	for i, id := range largest(logits, n) {
		out[i] = Choice{ID: vocab.Token(id), Logprob: float32(float64(logits[id]) - norm), Rank: i + 1}
	}
	return out
}

// Rank returns how many tokens are at least as likely as id, itself included:
// the rank that vLLM reports for a sampled token.
func Rank(logits []float32, id vocab.Token) int {
	rank := 0
	for _, v := range logits {
		if v >= logits[id] {
			rank++
		}
	}
	return rank
}

// logSum returns log Σ e^logit.
func logSum(logits []float32) float64 {
	highest := float64(slices.Max(logits))
	total := 0.
	for _, v := range logits {
		total += math.Exp(float64(v) - highest)
	}
	return highest + math.Log(total)
}

// largest returns the indices of the n largest values, 1 ≤ n ≤ len(values), the
// largest first and the lower index first among equals. It is made for an n
// much smaller than the vocabulary: nearly all values are looked at once.
func largest[T cmp.Ordered](values []T, n int) []int {
	top := make([]int, 0, n)
	for i, v := range values {
		if len(top) == n {
			if v <= values[top[n-1]] {
				continue
			}
			top = top[:n-1]
		}
		at, _ := slices.BinarySearchFunc(top, v, func(index int, v T) int {
			if values[index] >= v {
				return -1
			}
			return 1
		})
		top = slices.Insert(top, at, i)
	}
	return top
}
