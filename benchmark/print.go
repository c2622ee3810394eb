package benchmark

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes the report as text.
func (r *Report) Print(out io.Writer) {
	s := &r.Setup
	fmt.Fprintf(out, "target %s, draft %s, %d tokens a draft, mode %s\n", s.Target, s.Draft, s.Length, orNone(r.Mode))
	fmt.Fprintf(out, "%d pairs of answers (%d prompts × %d, at most %d tokens) on %d engines in %.0f s\n\n",
		r.Pairs, s.Prompts, s.Repeat, s.MaxTokens, s.Lanes, r.Seconds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ttarget alone\tthrough the proxy\tratio\t")
	row := func(name, format string, a, b float64) {
		fmt.Fprintf(w, "%s\t"+format+"\t"+format+"\t%.2f\t\n", name, a, b, ratio(b, a))
	}
	row("decode tokens/s", "%.2f", r.Plain.TokensPerSecond, r.Proxied.TokensPerSecond)
	row("time to first token p50, ms", "%.1f", r.Plain.FirstP50, r.Proxied.FirstP50)
	row("time to first token p99, ms", "%.1f", r.Plain.FirstP99, r.Proxied.FirstP99)
	row("time per output token p50, ms", "%.1f", r.Plain.PerTokenP50, r.Proxied.PerTokenP50)
	row("time per output token p99, ms", "%.1f", r.Plain.PerTokenP99, r.Proxied.PerTokenP99)
	row("chunk gap p50, ms", "%.1f", r.Plain.GapP50, r.Proxied.GapP50)
	row("chunk gap p99, ms", "%.1f", r.Plain.GapP99, r.Proxied.GapP99)
	w.Flush()

	fmt.Fprintf(out, "\ndecode speed-up     %.2fx (pairs: p10 %.2f, median %.2f, p90 %.2f)\n", r.Speedup, r.PairSpeedupP10, r.PairSpeedupP50, r.PairSpeedupP90)
	fmt.Fprintf(out, "predicted           %.2fx = E·t_ar/(K·t_d + t_v + τ), the rate of an endless answer; %.2fx with the beginnings and ends of these\n", r.Predicted, r.PredictedAnswers)
	fmt.Fprintf(out, "  from              E %.2f, t_ar %.1f ms, t_d %.2f ms, t_v %.1f ms, τ %.1f ms\n", Expected(r.Survival), r.Parts.Token, r.Parts.Draft, r.Parts.Pass, r.Parts.Rest)
	if r.ByProfile > 0 {
		fmt.Fprintf(out, "  by the profiles   %.2fx: their own t_ar, t_d, t_v and network, and nothing for the proxy\n", r.ByProfile)
	}
	fmt.Fprintf(out, "acceptance          %.3f of judged draft tokens; survival by position %s\n", r.Acceptance, fractions(r.Survival))
	fmt.Fprintf(out, "tokens per round    %.2f in %d rounds%s\n", r.TokensPerRound, r.Rounds, r.fallbacks())
	fmt.Fprintf(out, "target passes       %.3f a token\n", r.PassesPerToken)
	if r.PassedThrough > 0 {
		fmt.Fprintf(out, "passed through      %d of %d answers (%s)\n", r.PassedThrough, r.Pairs, strings.Join(r.Reasons, ", "))
	}
	fmt.Fprintf(out, "equal answers       %.1f %%%s\n", 100*r.Equal, r.differences())
	fmt.Fprintln(out, "\ntime per output token = (last token − first token)/(completion tokens − 1); decode tokens/s = sum of (completion tokens − 1)/sum of those times")
}

// fallbacks counts the rounds that were verified in another way than planned.
func (r *Report) fallbacks() string {
	text := ""
	for _, reason := range slices.Sorted(maps.Keys(r.Fallbacks)) {
		text += fmt.Sprintf(", %d not as planned (%s)", r.Fallbacks[reason], reason)
	}
	return text
}

// differences shows where the first answers that differ part.
func (r *Report) differences() string {
	var b strings.Builder
	for i := range r.Samples {
		p := &r.Samples[i]
		if p.Equal() || b.Len() > 2000 {
			continue
		}
		at := common(p.Plain.Text, p.Proxied.Text)
		fmt.Fprintf(&b, "\n  prompt %d parts after %d bytes: alone %.40q (%s, %d tokens), through the proxy %.40q (%s, %d tokens)", p.Prompt, at,
			p.Plain.Text[at:], p.Plain.Finish, p.Plain.Tokens, p.Proxied.Text[at:], p.Proxied.Finish, p.Proxied.Tokens)
	}
	return b.String()
}

// common is the length of the longest common prefix.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func fractions(values []float64) string {
	var b strings.Builder
	for _, v := range values {
		fmt.Fprintf(&b, "%.2f ", v)
	}
	return strings.TrimSpace(b.String())
}

func orNone(s string) string {
	if s == "" {
		return "none (passed through)"
	}
	return s
}

// Write writes the report as JSON.
func (r *Report) Write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the report: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}
