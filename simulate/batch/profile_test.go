package batch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flag"

	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

// golden compares text with a file in testdata, or writes it.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs; have:\n%s\nwant:\n%s", path, text, want)
	}
}

func TestStepTimes(t *testing.T) {
	var b strings.Builder
	sizes := []int{1, 2, 3, 5, 9, 17, 33, 64, 65, 128, 512, 2048, 8192}
	fmt.Fprintf(&b, "%-20s", "step of m tokens")
	for _, m := range sizes {
		fmt.Fprintf(&b, "%11d", m)
	}
	b.WriteByte('\n')
	for _, p := range Profiles() {
		fmt.Fprintf(&b, "%-20s", p.Name)
		for _, m := range sizes {
			fmt.Fprintf(&b, "%9.2fms", float64(p.StepTime(m).Microseconds())/1000)
		}
		b.WriteByte('\n')
	}
	golden(t, "steptimes.txt", b.String())
}

func TestProfileNamed(t *testing.T) {
	for _, name := range []string{"fast", "spark4-maverick", "spark4-deepseek-v3", "dense-6.5", "spark4-405b-dense",
		"spark-70b", "mac-studio", "draft-1b", "draft-8b"} {
		p, ok := ProfileNamed(name)
		if !ok || p.Name != name || p.Block == 0 {
			t.Errorf("ProfileNamed(%q) = %+v, %v", name, p, ok)
		}
	}
	if _, ok := ProfileNamed("abacus"); ok {
		t.Error("found a profile that does not exist")
	}
}

// TestStepTimeShape: a step of more tokens never takes less time, a decode
// step takes the profile's time, the curve has no jumps, and nothing computes
// faster than the prefill rate.
func TestStepTimeShape(t *testing.T) {
	for _, p := range Profiles() {
		if got := p.StepTime(1); p.Token != 0 && got != p.Token {
			t.Errorf("%s: step of one token takes %v, want %v", p.Name, got, p.Token)
		}
		if p.Flat > 0 && p.StepTime(p.Flat) != p.Token {
			t.Errorf("%s: not flat to %d tokens: %v", p.Name, p.Flat, p.StepTime(p.Flat))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(Profiles()).Draw(t, "profile")
		m := rapid.IntRange(1, 20000).Draw(t, "tokens")
		a, b := p.StepTime(m), p.StepTime(m+1)
		if b < a {
			t.Fatalf("%s: %d tokens take %v, %d take %v", p.Name, m, a, m+1, b)
		}
		if jump := b - a; jump.Seconds() > 1/max(p.Prefill, 1)+p.Token.Seconds()*max(p.Routed, 1e-9)+1e-8 {
			t.Fatalf("%s: jumps by %v at %d tokens", p.Name, jump, m)
		}
		if p.Prefill > 0 && a.Seconds() < float64(m)/p.Prefill-1e-8 {
			t.Fatalf("%s: %d tokens in %v is above the prefill rate", p.Name, m, a)
		}
	})
}
