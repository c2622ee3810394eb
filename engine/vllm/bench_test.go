package vllm

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

// canned is a server that answers every request with the same bytes, as fast
// as a server can.
func canned(b *testing.B, body string) *engine.Client {
	b.Helper()
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				br := bufio.NewReaderSize(nc, 256<<10)
				for {
					n := 0
					for {
						line, err := br.ReadSlice('\n')
						if err != nil {
							return
						}
						if len(line) <= 2 {
							break
						}
						if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
							for _, c := range bytes.TrimSpace(v) {
								n = n*10 + int(c-'0')
							}
						}
					}
					if _, err := br.Discard(n); err != nil {
						return
					}
					nc.Write(answer)
				}
			}()
		}
	}()
	c, err := engine.NewClient("http://"+ln.Addr().String(), engine.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(); ln.Close() })
	return c
}

const (
	benchContext = 1000
	benchDraft   = 8
)

// benchGeneration stands at a context of 1,000 tokens; the round appends a
// committed token, as a real one does.
func benchGeneration(c *engine.Client, mode verify.Mode) (*Generation, []vocab.Token, []vocab.Token) {
	e := New(c, "target", Options{})
	caps := recorded()
	e.caps.Store(&caps)
	g := e.Generate(Request{Body: []byte(`{"messages":[],"temperature":0}`), Mode: mode, Settings: greedy})
	prompt := make([]vocab.Token, benchContext-8)
	for i := range prompt {
		prompt[i] = vocab.Token(100 + i)
	}
	g.learn(prompt)
	draft := ids(500, 501, 502, 503, 504, 505, 506, 507)
	for _, id := range draft {
		e.specials.Load().set(id, ordinary)
	}
	return g, ids(1, 2, 3, 4, 5, 6, 7, 8), draft
}

func fanOutAnswer() string {
	prompt := strings.TrimSuffix(strings.Repeat("1234,", benchContext), ",")
	var out []string
	for i := range benchDraft + 1 {
		out = append(out, fmt.Sprintf(`{"index":%d,"text":" word","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":[%d],"prompt_logprobs":null,"prompt_token_ids":[%s],"routed_experts":null}`, i, 500+i, prompt))
	}
	return `{"id":"cmpl-b5f9fc1418e542ce","object":"text_completion","created":1795469146,"model":"target","choices":[` + strings.Join(out, ",") +
		`],"service_tier":null,"system_fingerprint":"vllm-0.32.0-8c1979ce","usage":{"prompt_tokens":50,"total_tokens":54,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":992,"created_cache_tokens":null,"multimodal_tokens":null},"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}`
}

// scoreAnswer is that of a V1 runner (a row for every token of the context) or
// of a V2 runner (those of the last block).
func scoreAnswer(rows int) string {
	out := []string{"null"}
	for i := range rows {
		id := 1000
		if i >= rows-benchDraft {
			id = 500 + i - rows + benchDraft
		}
		out = append(out, fmt.Sprintf(`{"%d":{"logprob":-0.00017987063620239496,"rank":1,"decoded_token":null},"18":{"logprob":-11.284998893737793,"rank":2,"decoded_token":null},"487":{"logprob":-12.599501848220825,"rank":3,"decoded_token":null}}`, id))
	}
	return `{"request_id":"generate-tokens-a731e6fec523c105","model":"target","created":1795469183,"usage":{"prompt_tokens":1008,"total_tokens":1009,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":992,"created_cache_tokens":null,"multimodal_tokens":null},"completion_tokens_details":null},"prompt_logprobs":[` +
		strings.Join(out, ",") + `],"prompt_token_id_logprobs":null,"prompt_token_ids":null,"output_mode":"tokens","choices":[{"index":0,"finish_reason":"length","stop_reason":null,"token_ids":[508],"routed_experts":null,"logprobs":null}]}`
}

// BenchmarkRound is a whole round on our side and the canned server's: request
// built, sent, answer read, parsed. Context 1,000, K = 8.
func BenchmarkRound(b *testing.B) {
	for _, c := range []struct {
		name, answer string
		mode         verify.Mode
	}{
		{"fan-out", fanOutAnswer(), verify.FanOut},
		{"score-v1", scoreAnswer(benchContext + benchDraft - 1), verify.Score},
		{"score-v2", scoreAnswer(16), verify.Score},
	} {
		b.Run(c.name, func(b *testing.B) {
			g, after, draft := benchGeneration(canned(b, c.answer), c.mode)
			b.ReportAllocs()
			b.SetBytes(int64(len(c.answer)))
			for b.Loop() {
				pass, err := g.Verify(b.Context(), after, draft)
				if err != nil || pass.Mode != c.mode {
					b.Fatal(pass, err)
				}
			}
		})
	}
}

// BenchmarkRead is the reading of an answer alone.
func BenchmarkRead(b *testing.B) {
	g, _, draft := benchGeneration(canned(b, "{}"), verify.Score)
	w := g.e.take()
	b.Run("fan-out", func(b *testing.B) {
		w.answer = []byte(fanOutAnswer())
		b.ReportAllocs()
		for b.Loop() {
			v, err := w.parse(0)
			if err != nil {
				b.Fatal(err)
			}
			if _, err = choices(v, benchDraft+1, 2048); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, rows := range map[string]int{"score-v1": benchContext + benchDraft - 1, "score-v2": 16} {
		b.Run(name, func(b *testing.B) {
			w.answer = []byte(scoreAnswer(rows))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.readScore(w, benchContext, draft, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkChunk(b *testing.B) {
	s := &stream{g: &Generation{caps: &engine.Capabilities{}, e: New(canned(b, "{}"), "", Options{})}, chat: true}
	event := []byte(`{"id":"chatcmpl-846f65f980f6b5b0","object":"chat.completion.chunk","created":1795469081,"model":"target","choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null,"token_ids":[5]}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := s.chunk(event); !ok || err != nil {
			b.Fatal(err)
		}
	}
}
