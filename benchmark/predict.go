package benchmark

import "time"

// Rounds are the acceptance figures that the proxy puts on the final chunk.
type Rounds struct {
	Steps    int `json:"num_spec_steps"`
	Drafted  int `json:"num_draft_tokens"`
	Accepted int `json:"num_accepted_draft_tokens"`
}

// Costs are what the parts of a round take.
type Costs struct {
	Token time.Duration // one token of plain decoding, t_ar
	Draft time.Duration // one drafted token, t_d
	Pass  time.Duration // one verification of K drafted tokens and the bonus, t_v
	Rest  time.Duration // round trips and the proxy itself, τ
}

// round is the time of a round with a draft of k tokens.
func (c Costs) round(k int) time.Duration {
	return time.Duration(k)*c.Draft + c.Pass + c.Rest
}

// Expected is E(K) = 1 + s_1 + … + s_K, the tokens of a round with drafts of K
// tokens: s_i is the share of rounds in which the first i drafted tokens were
// all accepted, and the one on top is the target's own (arXiv 2211.17192,
// equation 1, with measured survival in place of a constant rate).
func Expected(survival []float64) float64 {
	e := 1.0
	for _, s := range survival {
		e += s
	}
	return e
}

// Predict is the decode speed of synchronous rounds over plain decoding:
//
//	E(K)·t_ar / (K·t_d + t_v + τ)
//
// It is the speed of an endless answer: it knows nothing of the step that runs
// in the engine when the first round wants to begin, nor of the tokens that
// the last round has in vain.
func Predict(survival []float64, c Costs) float64 {
	return ratio(Expected(survival)*float64(c.Token), float64(c.round(len(survival))))
}

// PredictAnswers is the same for answers that begin and end: the second token
// of each comes at the plain pace, while the first draft is made, and of the
// last round half of the tokens on average are of no use.
func PredictAnswers(survival []float64, c Costs, tokens []int) float64 {
	e := Expected(survival)
	round := float64(c.round(len(survival)))
	draft := round - float64(c.Pass+c.Rest) // the first is made beside plain streaming
	plain, proxied := 0.0, 0.0
	for _, n := range tokens {
		if n < 2 {
			continue
		}
		plain += float64(n-1) * float64(c.Token)
		proxied += float64(c.Token)
		if n > 2 {
			proxied += (float64(n-2)+(e-1)/2)/e*round - draft
		}
	}
	return ratio(plain, proxied)
}
