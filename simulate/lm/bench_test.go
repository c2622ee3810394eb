//go:build unix

package lm

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Benchmarks report positions per second of processor time, which is what one
// core does when it is left alone; the time per operation is the clock's.
//
//	go test -run - -bench . -benchmem -cpu 1 ./simulate/lm

var embedded = []struct {
	name string
	open func() (*Model, error)
}{{"target", Target}, {"draft", Draft}, {"draft-b", DraftB}}

// reportRate is called before the loop and what it returns after it.
func reportRate(b *testing.B, positions int) func() {
	start := processorSeconds()
	return func() {
		b.ReportMetric(float64(b.N*positions)/(processorSeconds()-start), "tok/core-s")
	}
}

// processorSeconds returns the time that this process has computed.
func processorSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// BenchmarkDecode is one token a step, from the given context on.
func BenchmarkDecode(b *testing.B) {
	for _, model := range embedded {
		for _, context := range []int{128, 1024} {
			b.Run(fmt.Sprintf("%s/context=%d", model.name, context), func(b *testing.B) {
				m := load(b, model.open)
				start := prefilled(m, context)
				token := someTokens(m, 1)
				c := start.Fork(context)
				report := reportRate(b, 1)
				for b.Loop() {
					if c.Len() == context+32 {
						c = start.Fork(context)
					}
					m.Forward([]Span{{c, token, 1}})
				}
				report()
			})
		}
	}
}

// BenchmarkPrefill is a prompt of which only the last token's logits are
// wanted.
func BenchmarkPrefill(b *testing.B) {
	for _, model := range embedded {
		for _, length := range []int{128, 1024} {
			b.Run(fmt.Sprintf("%s/length=%d", model.name, length), func(b *testing.B) {
				m := load(b, model.open)
				tokens := someTokens(m, length)
				report := reportRate(b, length)
				for b.Loop() {
					m.Forward([]Span{{m.NewCache(), tokens, 1}})
				}
				report()
			})
		}
	}
}

// BenchmarkVerify is a verification: 9 positions of one sequence, all logits
// wanted; and the same as 9 sequences of one position.
func BenchmarkVerify(b *testing.B) {
	const positions = 9
	m := load(b, Target)
	start := prefilled(m, 128)
	tokens := someTokens(m, positions)
	b.Run("sequences=1", func(b *testing.B) {
		report := reportRate(b, positions)
		for b.Loop() {
			m.Forward([]Span{{start.Fork(128), tokens, positions}})
		}
		report()
	})
	b.Run("sequences=9", func(b *testing.B) {
		batch := make([]Span, positions)
		report := reportRate(b, positions)
		for b.Loop() {
			for i := range batch {
				batch[i] = Span{start.Fork(128), tokens[i : i+1], 1}
			}
			m.Forward(batch)
		}
		report()
	})
}

// BenchmarkWorkers shows what splitting a step costs and yields: the same
// positions with one worker and with as many as there are processors.
func BenchmarkWorkers(b *testing.B) {
	for _, model := range embedded {
		m := load(b, model.open)
		start := prefilled(m, 128)
		for _, positions := range []int{1, 2, 4, 8, 32} {
			tokens := someTokens(m, positions)
			for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
				b.Run(fmt.Sprintf("%s/positions=%d/workers=%d", model.name, positions, workers), func(b *testing.B) {
					s := newStep(m)
					logits := newRows(positions, m.config.VocabSize)
					report := reportRate(b, positions)
					for b.Loop() {
						c := start.Fork(128)
						c.reserve(positions)
						for i, token := range tokens {
							s.push(row{c, 128 + i, token, logits[i]})
						}
						s.run(workers)
					}
					report()
				})
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	t := load(b, Draft).Tokenizer()
	for _, c := range []struct{ name, text string }{
		{"prose", strings.Repeat("There was a shy fox named Max, who lived by the river. ", 20_000)},
		{"one word", strings.Repeat("abracadabra", 100_000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.text)))
			for b.Loop() {
				t.Encode(c.text, true)
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := loadEmbedded("models/target"); err != nil {
			b.Fatal(err)
		}
	}
}
