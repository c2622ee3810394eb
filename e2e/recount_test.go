package e2e

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// script makes exchanges a millisecond apart: server, path, body, answer.
func script(lines ...[4]string) []Exchange {
	var list []Exchange
	for i, l := range lines {
		e := Exchange{Server: l[0], Method: "POST", Path: l[1], Body: []byte(l[2]), Status: 200, Response: []byte(l[3])}
		if l[3] == "400" {
			e.Status, e.Response = 400, nil
		}
		e.Began = time.Unix(0, int64(i)*int64(time.Millisecond))
		e.Ended = e.Began.Add(time.Millisecond)
		list = append(list, e)
	}
	return list
}

const (
	chatPath  = "/v1/chat/completions"
	plainPath = "/v1/completions"
	scorePath = "/inference/v1/generate"
)

// chatStream is a chat stream with a prompt of 1, 2 and one chunk a token.
func chatStream(tokens ...int) string {
	var b strings.Builder
	b.WriteString("data: {\"choices\":[{\"index\":0,\"delta\":{}}],\"prompt_token_ids\":[1,2]}\n\n")
	for _, id := range tokens {
		fmt.Fprintf(&b, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"token_ids\":[%d]}]}\n\n", id)
	}
	return b.String()
}

// choices is a batch's answer, backwards, as an engine may send it; a negative
// id ends the answer.
func choices(ids ...int) string {
	var list []string
	for i, id := range ids {
		finish := "length"
		if id < 0 {
			id, finish = -id, "stop"
		}
		list = append([]string{fmt.Sprintf(`{"index":%d,"finish_reason":"%s","token_ids":[%d]}`, i, finish, id)}, list...)
	}
	return `{"choices":[` + strings.Join(list, ",") + `]}`
}

// scored is a score answer: the most likely ids of the last rows, and the bonus.
func scored(cached, bonus int, best ...int) string {
	rows := []string{"null"}
	for _, id := range best {
		rows = append(rows, fmt.Sprintf(`{"777":{"logprob":-9},"%d":{"logprob":-0.5},"776":{"logprob":-0.5}}`, id))
	}
	return fmt.Sprintf(`{"choices":[{"index":0,"token_ids":[%d]}],"prompt_logprobs":[%s],"usage":{"prompt_tokens_details":{"cached_tokens":%d}}}`, bonus, strings.Join(rows, ","), cached)
}

func score(ids string) string {
	return `{"token_ids":[` + ids + `],"sampling_params":{"prompt_logprobs":5}}`
}

func TestRecount(t *testing.T) {
	f := func(name string, chat bool, tokens int, list []Exchange, want Tally) {
		t.Helper()
		got, err := Recount(list, chat, tokens)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
	f("plain to the end", true, 2, script([4]string{"target", chatPath, `{"stream":true}`, chatStream(10, 11)}),
		Tally{Prompt: []int{1, 2}, Answer: []int{10, 11}, Plain: 2})
	f("a stop string in the stream", true, 1, script([4]string{"target", chatPath, `{"stream":true}`, chatStream(10, 11)}),
		Tally{Prompt: []int{1, 2}, Answer: []int{10}, Plain: 1})

	fanOut := script(
		[4]string{"target", chatPath, `{"stream":true}`, chatStream(10, 11, 12)}, // 12 was not read
		[4]string{"draft", plainPath, `{"prompt":[1,2,10,11]}`, choices(12)},
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10,11],[1,2,10,11,12],[1,2,10,11,12,13]]}`, choices(12, 14, 15)},
		[4]string{"target", "/detokenize", `{"tokens":[12,14]}`, `{"prompt":"x"}`},
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10,11,12,14],[1,2,10,11,12,14,9]]}`, choices(-9, 4)},
	)
	f("fan-out: one of two accepted, then the end as drafted", true, 5, fanOut,
		Tally{Prompt: []int{1, 2}, Answer: []int{10, 11, 12, 14, 9}, Plain: 2, Rounds: 2, Drafted: 3, Accepted: 2, Agreed: 2, FanOut: 2})

	labelled := `{"choices":[{"index":0,"logprobs":{"tokens":["token_id:11","token_id:12"]}}]}`
	rounds := script(
		[4]string{"target", plainPath, `{"stream":true,"prompt":"hi"}`, chatStream(10, 11)},
		[4]string{"draft", plainPath, `{"prompt":[1,2,10]}`, labelled},
		[4]string{"target", scorePath, score("1,2,10,11,12"), scored(0, 13, 5, 5, 11, 12)},
		[4]string{"target", scorePath, score("1,2,10,11,12,13,20,21"), scored(5, 23, 5, 5, 5, 5, 5, 20, 22)},
		[4]string{"target", scorePath, score("1,2,10,11,12,13,20,22,8,8"), scored(8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0)},
		[4]string{"target", scorePath, score("1,2,10,11,12,13,20,22,8,8"), "400"},
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10,11,12,13,20,22],[1,2,10,11,12,13,20,22,8],[1,2,10,11,12,13,20,22,8,8]]}`, choices(8, 8, 8)},
	)
	f("score; over-deep and refused ones answered by fan-out", false, 9, rounds, Tally{Prompt: []int{1, 2},
		Answer: []int{10, 11, 12, 13, 20, 22, 8, 8, 8}, Plain: 1, Rounds: 3, Drafted: 6, Accepted: 5, Agreed: 5, Score: 2, FanOut: 1, OverDeep: 1, Refused: 1})
	f("a stream that ends by itself, and a draft that was made beside it", true, 4, script(
		[4]string{"target", chatPath, `{"stream":true,"max_tokens":2}`, strings.Replace(chatStream(10, 11), `"token_ids":[11]`, `"finish_reason":"length","token_ids":[11]`, 1)},
		[4]string{"draft", plainPath, `{"prompt":[1,2,10]}`, `{"choices":[{"index":0,"token_ids":[11,12]}]}`},
		[4]string{"target", scorePath, score("1,2,10,11,12"), scored(0, 13, 5, 5, 11, 12)},
	), Tally{Prompt: []int{1, 2}, Answer: []int{10, 11, 12, 13}, Plain: 2, Rounds: 1, Drafted: 1, Accepted: 1, Agreed: 1, Score: 1})
	cut := script(
		[4]string{"target", chatPath, `{"stream":true}`, chatStream(10)},
		[4]string{"target", plainPath, `{"stream":true,"prompt":[1,2,10]}`, ""},
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10],[1,2,10,5]]}`, choices(6, 7)},
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[1463]}`, choices(6)}, // not of this generation
	)
	cut[1].Status, cut[1].Gone = 0, true
	f("a stream that was cut before its first token", true, 2, cut,
		Tally{Prompt: []int{1, 2}, Answer: []int{10, 6}, Plain: 1, Rounds: 1, Drafted: 1, FanOut: 1})
	f("a stop string inside a round, and more rounds before it was found", false, 5, rounds, Tally{Prompt: []int{1, 2},
		Answer: []int{10, 11, 12, 13, 20}, Plain: 1, Rounds: 2, Drafted: 4, Accepted: 3, Agreed: 3, Score: 2})
	f("a stop string inside the last round", false, 7, rounds, Tally{Prompt: []int{1, 2},
		Answer: []int{10, 11, 12, 13, 20, 22, 8}, Plain: 1, Rounds: 3, Drafted: 6, Accepted: 4, Agreed: 5, Score: 2, FanOut: 1, OverDeep: 1, Refused: 1})
}

func TestRecountRefuses(t *testing.T) {
	round0 := [4]string{"target", chatPath, `{"stream":true}`, chatStream(10, 11)}
	f := func(name string, tokens int, list []Exchange, want string) {
		t.Helper()
		if got, err := Recount(list, true, tokens); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", name, got, err, want)
		}
	}
	f("no stream", 1, nil, "no stream")
	f("more tokens than came", 3, script(round0), "usage says 3")
	f("a token that was never streamed", 4, script(round0, [4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10,12]]}`, choices(5)}), "at most [10 11]")
	f("a round that ignores the verdict before", 5, script(round0,
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10,11],[1,2,10,11,5]]}`, choices(6, 7)},
		[4]string{"target", plainPath, `{"max_tokens":1,"prompt":[[1,2,10,11,5,7]]}`, choices(6)}), "request 2")
	f("a score request after a stream without a draft", 4, script(round0, [4]string{"target", scorePath, score("1,2,10,11,5"), scored(0, 1, 1, 1, 1, 5)}), "no draft")
}
