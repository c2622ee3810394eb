package benchmark

import (
	"math"
	"slices"
	"time"
)

// Sample is what one answer looked like from outside: the same clock and the
// same rules for the target alone and for the proxy.
type Sample struct {
	Text   string `json:"-"`
	Finish string `json:"finish"`
	// Tokens counts the answer's tokens as the server's usage says it.
	Tokens int `json:"tokens"`
	// First is the time from sending the request to the first visible text.
	First time.Duration `json:"first_ns"`
	// Decode is the time from the first visible text to the finish chunk, which
	// engines send with the last token.
	Decode time.Duration `json:"decode_ns"`
	// Gaps are the times between chunks that show text.
	Gaps []time.Duration `json:"-"`
	// Mode and Reason are what the proxy said it planned; empty elsewhere.
	Mode   string `json:"mode,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Rounds are the proxy's own acceptance figures; nil elsewhere.
	Rounds *Rounds `json:"rounds,omitempty"`
}

// Pair is one prompt answered both ways, one after the other on one lane.
type Pair struct {
	Prompt  int    `json:"prompt"`
	Lane    int    `json:"lane"`
	Plain   Sample `json:"plain"`
	Proxied Sample `json:"proxied"`
}

// Equal tells whether the two answers are the same to the last character, and
// ended the same way.
func (p *Pair) Equal() bool {
	return p.Plain.Text == p.Proxied.Text && p.Plain.Finish == p.Proxied.Finish && p.Plain.Tokens == p.Proxied.Tokens
}

// Speedup is the ratio of the pair's decode times a token; 0 when an answer is
// too short to have one.
func (p *Pair) Speedup() float64 {
	plain, proxied := p.Plain.PerToken(), p.Proxied.PerToken()
	if plain == 0 || proxied == 0 {
		return 0
	}
	return float64(plain) / float64(proxied)
}

// PerToken is the time per output token: (last token − first token) divided by
// (tokens − 1). Answers of one token have none.
func (s *Sample) PerToken() time.Duration {
	if s.Tokens < 2 {
		return 0
	}
	return s.Decode / time.Duration(s.Tokens-1)
}

// Side sums up one way of answering.
type Side struct {
	// TokensPerSecond is decode speed: the sum of (tokens − 1) over the sum of
	// decode times, so that long answers weigh more than short ones.
	TokensPerSecond float64 `json:"tokens_per_second"`
	FirstP50        float64 `json:"ttft_p50_ms"`
	FirstP99        float64 `json:"ttft_p99_ms"`
	PerTokenP50     float64 `json:"tpot_p50_ms"`
	PerTokenP99     float64 `json:"tpot_p99_ms"`
	GapP50          float64 `json:"chunk_gap_p50_ms"`
	GapP99          float64 `json:"chunk_gap_p99_ms"`
	Tokens          int     `json:"tokens"`
}

// summarise adds up samples of one side.
func summarise(samples []Sample) Side {
	var side Side
	var decode time.Duration
	var first, perToken, gaps []float64
	inner := 0
	for i := range samples {
		s := &samples[i]
		side.Tokens += s.Tokens
		first = append(first, milliseconds(s.First))
		if s.Tokens > 1 {
			inner += s.Tokens - 1
			decode += s.Decode
			perToken = append(perToken, milliseconds(s.PerToken()))
		}
		for _, gap := range s.Gaps {
			gaps = append(gaps, milliseconds(gap))
		}
	}
	if decode > 0 {
		side.TokensPerSecond = float64(inner) / decode.Seconds()
	}
	side.FirstP50, side.FirstP99 = quantile(first, .5), quantile(first, .99)
	side.PerTokenP50, side.PerTokenP99 = quantile(perToken, .5), quantile(perToken, .99)
	side.GapP50, side.GapP99 = quantile(gaps, .5), quantile(gaps, .99)
	return side
}

// quantile is the nearest-rank quantile; 0 of nothing.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(rank, 0)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ratio is a/b, and 0 where there is no b.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
