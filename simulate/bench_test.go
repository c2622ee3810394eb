package simulate

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkStreams writes tokens over HTTP, one to many streams at once.
func BenchmarkStreams(b *testing.B) {
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			s := start(b, Options{})
			body := `{"prompt":"Tell me a story.","stream":true,"max_tokens":100,"ignore_eos":true,"temperature":0,"return_token_ids":true}`
			for b.Loop() {
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() { post(b, s, "/v1/completions", body) })
				}
				wg.Wait()
			}
			b.ReportMetric(float64(b.N*clients*100)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// BenchmarkRound is one verification of four tokens over a context of 200.
func BenchmarkRound(b *testing.B) {
	s := start(b, Options{Memo: 1000})
	prompt := longPrompt(204)
	body := score(prompt, `,"detokenize":false`)
	for b.Loop() {
		post(b, s, scorePath, body)
	}
}
