// Package benchmark compares a target alone with the same target behind the
// proxy: the same prompts, interleaved in one run, and whether the answers are
// the same.
//
// Every figure is taken outside of both, by a client that reads the stream.
// Definitions, the same for both sides:
//
//   - time to first token: from sending the request to the first chunk that
//     shows text;
//   - decode time: from there to the finish chunk, which comes with the last
//     token; time per output token: decode time/(completion tokens − 1);
//   - decode tokens/s: the sum of (completion tokens − 1) over the sum of
//     decode times; speed-up: the ratio of the two sides' decode tokens/s;
//   - chunk gap: between two chunks that show text.
package benchmark

import (
	"slices"
	"time"

	"paceline/speculate"
)

// Setup says what was compared.
type Setup struct {
	Target    string `json:"target"` // profile of the built-in target, or URL
	Draft     string `json:"draft"`
	Length    int    `json:"length"`
	Lanes     int    `json:"lanes"`
	Prompts   int    `json:"prompts"`
	Repeat    int    `json:"repeat"`
	MaxTokens int    `json:"max_tokens"`
}

// Report is the result of a run.
type Report struct {
	Setup   Setup   `json:"setup"`
	Seconds float64 `json:"seconds"`

	Speedup   float64 `json:"speedup"`
	Equal     float64 `json:"equal"` // share of pairs whose two answers are the same
	Pairs     int     `json:"pairs"`
	Different []int   `json:"different"` // prompts whose answers were not
	TTFTRatio float64 `json:"ttft_ratio"`

	Acceptance      float64        `json:"acceptance"` // share of judged draft tokens that were right
	TokensPerRound  float64        `json:"tokens_per_round"`
	PassesPerToken  float64        `json:"target_passes_per_token"`
	Survival        []float64      `json:"survival"`
	Rounds          int            `json:"rounds"`
	Fallbacks       map[string]int `json:"fallback_rounds"` // verified in another way than planned, by reason
	Mode            string         `json:"mode"`
	PassedThrough   int            `json:"passed_through"`
	Reasons         []string       `json:"reasons,omitempty"` // why
	PairSpeedupP10  float64        `json:"pair_speedup_p10"`
	PairSpeedupP50  float64        `json:"pair_speedup_p50"`
	PairSpeedupP90  float64        `json:"pair_speedup_p90"`
	PlainPerSecond  float64        `json:"plain_tokens_per_second"`
	TokensPerSecond float64        `json:"tokens_per_second"`
	Plain           Side           `json:"plain"`
	Proxied         Side           `json:"proxied"`

	Predicted        float64 `json:"predicted_speedup"`           // of an endless answer
	PredictedAnswers float64 `json:"predicted_speedup_with_ends"` // of these answers
	ByProfile        float64 `json:"predicted_speedup_by_profile,omitempty"`
	Parts            Parts   `json:"parts_ms"`

	Samples []Pair `json:"samples"`
}

// Parts are what the prediction is made from, in milliseconds.
type Parts struct {
	Token float64 `json:"t_ar"`
	Draft float64 `json:"t_d"`
	Pass  float64 `json:"t_v"`
	Rest  float64 `json:"tau"`
}

// Run is what a run measured.
type Run struct {
	Pairs  []Pair
	Rounds []speculate.Round
	Took   time.Duration
	// Own are the engines' own times, if known; Rest is then their network's.
	Own Costs
}

// NewReport adds up a run.
func NewReport(setup Setup, run Run) *Report {
	pairs, rounds := run.Pairs, run.Rounds
	r := &Report{Setup: setup, Seconds: run.Took.Seconds(), Pairs: len(pairs), Samples: pairs, Rounds: len(rounds), Different: []int{}, Fallbacks: map[string]int{}}
	var plain, proxied []Sample
	var speedups []float64
	var tokens []int
	same := 0
	for i := range pairs {
		p := &pairs[i]
		plain, proxied = append(plain, p.Plain), append(proxied, p.Proxied)
		if p.Equal() {
			same++
		} else {
			r.Different = append(r.Different, p.Prompt)
		}
		if s := p.Speedup(); s > 0 {
			speedups = append(speedups, s)
		}
		if p.Proxied.Rounds == nil {
			r.PassedThrough++
			if reason := p.Proxied.Reason; !slices.Contains(r.Reasons, reason) {
				r.Reasons = append(r.Reasons, reason)
			}
		} else {
			r.Mode = p.Proxied.Mode
		}
		tokens = append(tokens, p.Proxied.Tokens)
	}
	r.Equal = ratio(float64(same), float64(len(pairs)))
	r.Plain, r.Proxied = summarise(plain), summarise(proxied)
	r.PlainPerSecond, r.TokensPerSecond = r.Plain.TokensPerSecond, r.Proxied.TokensPerSecond
	r.Speedup = ratio(r.TokensPerSecond, r.PlainPerSecond)
	r.TTFTRatio = ratio(r.Proxied.FirstP50, r.Plain.FirstP50)
	r.PairSpeedupP10, r.PairSpeedupP50, r.PairSpeedupP90 = quantile(speedups, .1), quantile(speedups, .5), quantile(speedups, .9)
	r.addRounds(rounds)
	r.predict(rounds, tokens, run.Own)
	return r
}

// addRounds sums up what the rounds yielded.
func (r *Report) addRounds(rounds []speculate.Round) {
	trace := speculate.Trace{Rounds: rounds}
	judged, accepted, emitted := 0, 0, 0
	for _, round := range rounds {
		judged += round.Judged
		accepted += round.Accepted
		emitted += round.Emitted
		if round.Fallback != "" {
			r.Fallbacks[round.Fallback]++
		}
	}
	r.Survival = trace.Survival()
	r.Acceptance = ratio(float64(accepted), float64(judged))
	r.TokensPerRound = ratio(float64(emitted), float64(len(rounds)))
	// Every token that no round emitted came from plain streaming: a pass each.
	streamed := r.Proxied.Tokens - emitted
	r.PassesPerToken = ratio(float64(len(rounds)+streamed), float64(r.Proxied.Tokens))
}

// predict puts the measured survival and times into the formula. What a round
// takes is measured around its calls. own are an engine's own times, where they
// are known (a built-in engine's profile): then τ is what the round took beyond
// them; otherwise it is in t_d and t_v.
func (r *Report) predict(rounds []speculate.Round, tokens []int, own Costs) {
	var drafting, passing time.Duration
	drafted := 0
	for _, round := range rounds {
		if round.DraftTime > 0 { // not made beside plain streaming
			drafting += round.DraftTime
			drafted += round.Drafted
		}
		passing += round.VerifyTime
	}
	if len(rounds) == 0 || drafted == 0 || r.PlainPerSecond == 0 {
		return
	}
	c := Costs{
		Token: time.Duration(float64(time.Second) / r.PlainPerSecond),
		Draft: drafting / time.Duration(drafted),
		Pass:  passing / time.Duration(len(rounds)),
	}
	if k := len(r.Survival); own.Pass > 0 {
		c.Rest = max(c.round(k)-own.round(k)+own.Rest, 0)
		c.Draft, c.Pass = own.Draft, own.Pass
		r.ByProfile = Predict(r.Survival, own)
	}
	r.Parts = Parts{Token: milliseconds(c.Token), Draft: milliseconds(c.Draft), Pass: milliseconds(c.Pass), Rest: milliseconds(c.Rest)}
	r.Predicted = Predict(r.Survival, c)
	r.PredictedAnswers = PredictAnswers(r.Survival, c, tokens)
}
