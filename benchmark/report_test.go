package benchmark

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"paceline/speculate"
)

var rewrite = flag.Bool("rewrite", false, "write what comes out as the expected text")

// example is a run of two prompts: an answer that is 4 times as fast, and one
// that came out different.
func example() Run {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	side := func(text string, tokens int, first, decode, gap time.Duration, r *Rounds) Sample {
		return Sample{Text: text, Finish: "stop", Tokens: tokens, First: first, Decode: decode, Gaps: []time.Duration{gap, gap}, Rounds: r, Mode: map[bool]string{true: "score"}[r != nil]}
	}
	return Run{
		Took: 20 * time.Second,
		Pairs: []Pair{
			{
				Plain:   side("one two three", 101, ms(160), ms(16_000), ms(160), nil),
				Proxied: side("one two three", 101, ms(164), ms(4_000), ms(200), &Rounds{Steps: 2, Drafted: 8, Accepted: 5}),
			},
			{
				Prompt: 1, Lane: 1,
				Plain:   side("four five", 11, ms(160), ms(1_600), ms(160), nil),
				Proxied: side("four six", 11, ms(164), ms(800), ms(200), &Rounds{Steps: 1, Drafted: 4, Accepted: 4}),
			},
		},
		Rounds: []speculate.Round{
			{Drafted: 4, Judged: 4, Accepted: 4, Emitted: 5, DraftTime: 0, VerifyTime: ms(170)},
			{Drafted: 4, Judged: 2, Accepted: 1, Emitted: 2, DraftTime: ms(24), VerifyTime: ms(170)},
			{Drafted: 4, Judged: 4, Accepted: 4, Emitted: 5, DraftTime: ms(24), VerifyTime: ms(170), Fallback: "short_rows"},
		},
	}
}

func TestReport(t *testing.T) {
	r := NewReport(Setup{}, example())
	f := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6 {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	f("plain", r.PlainPerSecond, 110/17.6)
	f("proxied", r.TokensPerSecond, 110/4.8)
	f("speedup", r.Speedup, 17.6/4.8)
	f("equal", r.Equal, .5)
	f("ttft", r.TTFTRatio, 164./160)
	f("acceptance", r.Acceptance, 9./10)
	f("tokens per round", r.TokensPerRound, 4)
	f("passes", r.PassesPerToken, (3+112-12)/112.)
	f("predicted", r.Predicted, Predict([]float64{1, 2. / 3, 2. / 3, 2. / 3}, Costs{Token: 160 * time.Millisecond, Draft: 6 * time.Millisecond, Pass: 170 * time.Millisecond}))
	if d := cmp.Diff([]int{1}, r.Different); d != "" {
		t.Error(d)
	}
}

// TestReportOwn: with the engines' own times known, what a round took beyond
// them is τ, and the prediction is the same.
func TestReportOwn(t *testing.T) {
	run := example()
	measured := NewReport(Setup{}, run)
	run.Own = Costs{Token: 150 * time.Millisecond, Draft: 5 * time.Millisecond, Pass: 150 * time.Millisecond, Rest: time.Millisecond}
	own := NewReport(Setup{}, run)
	if own.Parts.Rest != 24 || own.Parts.Draft != 5 || own.Parts.Pass != 150 {
		t.Errorf("parts: %+v", own.Parts)
	}
	if math.Abs(own.Predicted-measured.Predicted) > 1e-9 || own.ByProfile <= own.Predicted {
		t.Errorf("predicted %v and %v, by profile %v", own.Predicted, measured.Predicted, own.ByProfile)
	}
}

func TestReportOfNothingSpeculated(t *testing.T) {
	run := example()
	run.Rounds = nil
	for i := range run.Pairs {
		run.Pairs[i].Proxied.Rounds, run.Pairs[i].Proxied.Reason = nil, "no_draft"
	}
	r := NewReport(Setup{}, run)
	if r.PassedThrough != 2 || r.Predicted != 0 || r.PassesPerToken != 1 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	r.Print(&out)
	if !strings.Contains(out.String(), "passed through      2 of 2 answers (no_draft)") {
		t.Error(out.String())
	}
	if _, err := json.Marshal(r); err != nil {
		t.Errorf("a report without rounds does not encode: %v", err)
	}
}

func TestPrint(t *testing.T) {
	run := example()
	run.Own = Costs{Token: 150 * time.Millisecond, Draft: 5 * time.Millisecond, Pass: 150 * time.Millisecond, Rest: time.Millisecond}
	var out bytes.Buffer
	NewReport(Setup{Target: "dense-6.5", Draft: "draft-1b", Length: 4, Lanes: 2, Prompts: 2, Repeat: 1, MaxTokens: 192}, run).Print(&out)
	const golden = "testdata/report.txt"
	if *rewrite {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), out.String()); d != "" {
		t.Error(d)
	}
}

func TestWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	if err := NewReport(Setup{}, example()).Write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	var back Report
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || back.Pairs != 2 || back.Speedup == 0 {
		t.Errorf("%v: %+v", err, back)
	}
}

// TestBarIsSilent: what is no terminal gets nothing.
func TestBarIsSilent(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := NewBar(f, 2)
	b.Step()
	b.Clear()
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%v: wrote %d bytes", err, info.Size())
	}
}

func TestBarDraws(t *testing.T) {
	var out bytes.Buffer
	b := &Bar{total: 4, began: time.Now(), out: &out}
	b.Step()
	b.Step()
	b.Clear()
	if got := out.String(); !strings.Contains(got, "[====================                    ] 2/4 answers") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("%q", got)
	}
}

// TestPrompts: every prompt is there once.
func TestPrompts(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Prompts() {
		if p == "" || seen[p] {
			t.Errorf("%q is empty or there twice", p)
		}
		seen[p] = true
	}
	if len(seen) < 40 {
		t.Errorf("%d prompts", len(seen))
	}
}

// TestRecorder: rounds are kept from Start on.
func TestRecorder(t *testing.T) {
	r := NewRecorder(5, true)
	c := r.Controller()
	c.Observe(speculate.Round{Drafted: 1})
	r.Start()
	c.Observe(speculate.Round{Drafted: 2})
	if got := r.Rounds(); len(got) != 1 || got[0].Drafted != 2 {
		t.Errorf("%+v", got)
	}
	if got := c.Length(speculate.View{}); got != 5 {
		t.Errorf("length %d", got)
	}
}
