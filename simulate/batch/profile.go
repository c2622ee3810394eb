package batch

import (
	"math"
	"time"
)

// Profile is what a machine and a model cost. The zero Profile costs nothing.
type Profile struct {
	Name string

	// Token is the time of a step that decodes one token.
	Token time.Duration
	// Prefill is the rate, in tokens a second, at which a step computes when it
	// computes so much that arithmetic is the limit; 0 is no limit.
	Prefill float64
	// Flat is the number of tokens in a step up to which a dense model's step
	// takes as long as for one token: reading the weights is what costs.
	Flat int

	// Experts is the number of routed experts of a mixture, 0 for a dense
	// model; Active of them are used by a token, and Routed is the share of a
	// one-token step that goes into reading them.
	Experts, Active int
	Routed          float64

	// Block is the size of a prefix cache block in tokens.
	Block int

	// Network is the delay between a client and the engine, one way; Jitter is
	// added to it, uniformly drawn.
	Network, Jitter time.Duration
}

// StepTime is the time of a step that computes so many tokens, over all its
// sequences:
//
//	t(m) = max(b(m), m/Prefill)
//
// where b is the time to read the weights that m tokens need. For a mixture it
// grows with the distinct experts that they choose between them,
//
//	b(m) = Token·(1 − ρ + ρ·D(m)/D(1)),  D(m) = E·(1 − (1 − k/E)^m)
//
// with ρ = Routed, E = Experts and k = Active (arXiv 2506.20675). For a dense
// model b is Token up to Flat tokens; from there on arithmetic no longer hides
// behind the reading, and every further token costs its share of the prefill
// rate: b(m) = Token + (m − Flat)/Prefill. Both are continuous and never
// decrease; a long chunk runs at the prefill rate, less the one reading of the
// weights that a dense model's chunk cannot hide.
func (p Profile) StepTime(tokens int) time.Duration {
	if tokens <= 0 {
		return 0
	}
	m := float64(tokens)
	read := p.Token.Seconds()
	compute := 0.0
	if p.Prefill > 0 {
		compute = m / p.Prefill
	}
	switch {
	case p.Experts > 0:
		read *= 1 - p.Routed + p.Routed*p.distinct(m)/p.distinct(1)
	case tokens > p.Flat && p.Prefill > 0:
		read += (m - float64(p.Flat)) / p.Prefill
	}
	return time.Duration(math.Round(max(read, compute) * float64(time.Second)))
}

// distinct is the expected number of different experts that m tokens use.
func (p Profile) distinct(m float64) float64 {
	e := float64(p.Experts)
	return e * (1 - math.Pow(1-float64(p.Active)/e, m))
}

// perToken turns tokens a second into the time of one.
func perToken(rate float64) time.Duration {
	return time.Duration(math.Round(float64(time.Second) / rate))
}

// lan is the network of every profile of a real machine: one switch between
// the proxy and the engine.
const (
	lan       = 200 * time.Microsecond
	lanJitter = 50 * time.Microsecond
)

// profiles are the machines that the project is for. The decode and prefill
// rates are what the first users reported of them; where a figure can be
// checked, the check is in the comment. A DGX Spark reads 273 GB/s.
var profiles = []Profile{
	// Nothing takes time but the computing itself: for tests over HTTP.
	{Name: "fast", Block: 16},

	// Llama 4 Maverick (400B, 17B active, 128 experts, one a token) on four
	// DGX Sparks: 5 to 8 tokens/s reported, 6.5 taken; about 3B of the 17B
	// that a token reads are its routed expert, so ρ ≈ .18.
	{Name: "spark4-maverick", Token: perToken(6.5), Prefill: 2100, Experts: 128, Active: 1, Routed: .18,
		Block: 16, Network: lan, Jitter: lanJitter},

	// DeepSeek-V3 (671B, 37B active, 256 experts, eight a token) on four DGX
	// Sparks: about 12 tokens/s reported; about 20B of the 37B are routed
	// experts, so ρ ≈ .55.
	{Name: "spark4-deepseek-v3", Token: perToken(12), Prefill: 2100, Experts: 256, Active: 8, Routed: .55,
		Block: 16, Network: lan, Jitter: lanJitter},

	// A dense model at Maverick's pace: what speculation could give if the
	// step did not grow with the tokens verified. A construction, not a
	// machine.
	{Name: "dense-6.5", Token: perToken(6.5), Prefill: 2100, Flat: 64,
		Block: 16, Network: lan, Jitter: lanJitter},

	// Llama 3.1 405B at 4 bits on four DGX Sparks: 203 GB over 4 × 273 GB/s is
	// 186 ms a token.
	{Name: "spark4-405b-dense", Token: perToken(5.4), Prefill: 2100, Flat: 64,
		Block: 16, Network: lan, Jitter: lanJitter},

	// A 70B model on one DGX Spark with a context of 128k: about 100 GB a
	// token (8-bit weights and a long context's keys and values) over
	// 273 GB/s is 370 ms.
	{Name: "spark-70b", Token: perToken(2.7), Prefill: 2100, Flat: 64,
		Block: 16, Network: lan, Jitter: lanJitter},

	// The same 70B model on a Mac Studio: 15 % faster decode than a Spark
	// node, prefill at 600 tokens/s.
	{Name: "mac-studio", Token: perToken(2.7 * 1.15), Prefill: 600, Flat: 64,
		Block: 16, Network: lan, Jitter: lanJitter},

	// Draft models on a gaming GPU: 5 ms a token for 1B and 26 ms for 8B were
	// reported; the prefill rates are assumed, of the order that such a card
	// reaches.
	{Name: "draft-1b", Token: 5 * time.Millisecond, Prefill: 20000, Flat: 64,
		Block: 16, Network: lan, Jitter: lanJitter},
	{Name: "draft-8b", Token: 26 * time.Millisecond, Prefill: 5000, Flat: 64,
		Block: 16, Network: lan, Jitter: lanJitter},
}

// ProfileNamed returns the profile of that name.
func ProfileNamed(name string) (Profile, bool) {
	for _, p := range profiles {
		if p.Name == name {
			return p, true
		}
	}
	return Profile{}, false
}

// Profiles returns all profiles.
func Profiles() []Profile { return append([]Profile(nil), profiles...) }
