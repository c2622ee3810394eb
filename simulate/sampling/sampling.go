// Package sampling turns a row of logits into the exact distribution from which
// an engine draws its next token.
//
// It follows vLLM's order of operations, since that is the order against which
// the acceptance rules are proved, and computes in float64. It is pure: there
// is no random generator here, the caller brings the uniform number.
package sampling

import (
	"cmp"
	"math"
	"slices"

	"paceline/vocab"
)

// Params are the sampling settings of one request. The zero value is not
// neutral; start from Neutral.
type Params struct {
	// Temperature divides the logits. 0 is greedy: the most likely token, the
	// lowest id among equals.
	Temperature float64

	// TopK keeps the k most likely tokens and all that equal the last of them;
	// 0, -1 and anything from the vocabulary's size on keep all.
	TopK int

	// TopP keeps the most likely tokens up to and including the one at which
	// their probability reaches TopP, the lower id first among equals; 1 keeps
	// all, 0 the most likely one. It sees what MinP and TopK left, normalised.
	TopP float64

	// MinP drops tokens less likely than MinP times the most likely one; 0 keeps
	// all.
	MinP float64

	// RepetitionPenalty divides positive logits, and multiplies negative ones, of
	// tokens that occur in the prompt or in the output; 1 changes nothing, and
	// so does 0.
	RepetitionPenalty float64

	// PresencePenalty is subtracted from the logits of tokens that occur in the
	// output, FrequencyPenalty once for each time that they occur; 0 changes
	// nothing.
	PresencePenalty, FrequencyPenalty float64

	// LogitBias is added to the logits. Ids outside the vocabulary are ignored,
	// here and below.
	LogitBias map[vocab.Token]float64

	// AllowedTokenIDs, if it is not empty, excludes all other tokens.
	AllowedTokenIDs []vocab.Token

	// BannedTokenIDs excludes these tokens.
	BannedTokenIDs []vocab.Token

	// Seed makes a request's draws repeatable. Nothing here reads it: how the
	// uniform numbers follow from it is a property of the engine.
	Seed *int64
}

// Neutral returns the settings that leave the model's distribution as it is.
func Neutral() Params { return Params{Temperature: 1, TopP: 1, RepetitionPenalty: 1} }

// Distribution returns the probability of every token of the vocabulary, of
// which logits is a row, after the given prompt and output (which only the
// penalties look at). The caller owns the result. It is nil if the settings
// exclude every token.
//
// The order is vLLM's, of both its V1 sampler and its V2 model runner: allowed
// and banned tokens, bias, penalties, temperature, min-p, top-k, top-p.
func Distribution(logits []float32, p Params, prompt, output []vocab.Token) []float64 {
	scores := make([]float64, len(logits))
	for i, v := range logits {
		scores[i] = float64(v)
	}
	p.restrict(scores)
	p.penalize(scores, prompt, output)
	best := 0
	for i, v := range scores {
		if v > scores[best] {
			best = i
		}
	}
	if len(scores) == 0 || math.IsInf(scores[best], -1) {
		return nil
	}
	if p.Temperature == 0 {
		clear(scores)
		scores[best] = 1
		return scores
	}
	// From here on scores are weights: probabilities over that of the best.
	highest := scores[best]
	for i, v := range scores {
		scores[i] = math.Exp((v - highest) / p.Temperature)
	}
	p.truncate(scores)
	total := sum(scores)
	for i := range scores {
		scores[i] /= total
	}
	return scores
}

// restrict excludes tokens and adds the bias.
func (p *Params) restrict(scores []float64) {
	if len(p.AllowedTokenIDs) > 0 {
		allowed := make([]bool, len(scores))
		for _, id := range p.AllowedTokenIDs {
			if within(scores, id) {
				allowed[id] = true
			}
		}
		for i, ok := range allowed {
			if !ok {
				scores[i] = math.Inf(-1)
			}
		}
	}
	for _, id := range p.BannedTokenIDs {
		if within(scores, id) {
			scores[id] = math.Inf(-1)
		}
	}
	for id, bias := range p.LogitBias {
		if within(scores, id) {
			scores[id] += bias
		}
	}
}

// penalize applies the three penalties.
func (p *Params) penalize(scores []float64, prompt, output []vocab.Token) {
	if p.RepetitionPenalty != 1 && p.RepetitionPenalty != 0 {
		seen := make([]bool, len(scores))
		for _, ids := range [][]vocab.Token{prompt, output} {
			for _, id := range ids {
				if !within(scores, id) || seen[id] {
					continue
				}
				seen[id] = true
				if scores[id] > 0 {
					scores[id] /= p.RepetitionPenalty
				} else {
					scores[id] *= p.RepetitionPenalty
				}
			}
		}
	}
	if p.PresencePenalty == 0 && p.FrequencyPenalty == 0 {
		return
	}
	counts := make([]int, len(scores))
	for _, id := range output {
		if within(scores, id) {
			counts[id]++
		}
	}
	for i, n := range counts {
		if n > 0 {
			scores[i] -= p.FrequencyPenalty*float64(n) + p.PresencePenalty
		}
	}
}

// truncate sets the weights of what min-p, top-k and top-p drop to 0. The
// largest weight is 1.
func (p *Params) truncate(weights []float64) {
	drop := func(below float64) {
		for i, w := range weights {
			if w < below {
				weights[i] = 0
			}
		}
	}
	if p.MinP > 0 {
		drop(min(p.MinP, 1))
	}
	if p.TopK > 0 && p.TopK < len(weights) {
		drop(weights[largest(weights, p.TopK)[p.TopK-1]])
	}
	if p.TopP < 1 {
		p.truncateNucleus(weights)
	}
}

// truncateNucleus applies top-p.
func (p *Params) truncateNucleus(weights []float64) {
	total := sum(weights)
	// All tokens below the floor together weigh less than the tail that top-p
	// drops, so that none of them can be in the nucleus and only a few tokens
	// have to be sorted. The factor leaves room for rounding.
	floor := .5 * (1 - p.TopP) * total / float64(len(weights))
	var ids []int
	for i, w := range weights {
		if w > 0 && w >= floor {
			ids = append(ids, i)
		}
	}
	slices.SortFunc(ids, func(a, b int) int {
		if c := cmp.Compare(weights[b], weights[a]); c != 0 {
			return c
		}
		return a - b
	})
	kept := make([]float64, 0, len(ids))
	above := 0. // the weight of the tokens before this one
	for i, id := range ids {
		if i > 0 && above >= p.TopP*total {
			break
		}
		above += weights[id]
		kept = append(kept, weights[id])
	}
	clear(weights)
	for i, w := range kept {
		weights[ids[i]] = w
	}
}

// Draw returns the token at which the distribution's sum, in the order of ids,
// first exceeds u, a number from [0, 1).
func Draw(dist []float64, u float64) vocab.Token {
	drawn, below := -1, 0.
	for i, p := range dist {
		if p <= 0 {
			continue
		}
		drawn = i // the last one, if rounding keeps the sum below u
		if below += p; u < below {
			break
		}
	}
	if drawn < 0 {
		panic("BUG: draw from an empty distribution")
	}
	return vocab.Token(drawn)
}

func sum(values []float64) float64 {
	total := 0.
	for _, v := range values {
		total += v
	}
	return total
}

func within(scores []float64, id vocab.Token) bool { return id >= 0 && int(id) < len(scores) }
