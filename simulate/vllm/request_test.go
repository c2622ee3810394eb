package vllm

import (
	"strings"
	"testing"
)

// TestReadCompletion lists bodies and what is wrong with them: the type of the
// refusal, its parameter and a piece of its message. The recordings of the real
// server cover more, see package simulate.
func TestReadCompletion(t *testing.T) {
	f := func(body, kind, param, message string) {
		t.Helper()
		_, err := ReadCompletion([]byte(body), &Defaults{})
		checkError(t, body, err, kind, param, message)
	}
	const schema, own = "Bad Request", "BadRequestError"
	f(`{"prompt":"x"}`, "", "", "")
	f(`{"prompt":[1,2]}`, "", "", "")
	f(`{"prompt":["a","b"]}`, "", "", "")
	f(`{"prompt":[[1],[2,3]]}`, "", "", "")
	f(`{"prompt":5}`, schema, "body.prompt", "4 validation errors")
	f(`{"prompt":[1,"x"]}`, schema, "body.prompt.1", "unable to parse string as an integer")
	f(`{"prompt":[[1],"x"]}`, schema, "body.prompt.0", "Input should be a valid integer")
	f(`{"prompt":[[-1]]}`, schema, "body.prompt.0", "greater than or equal to 0")
	f(`{"prompt":null}`, own, "prompt", "Either prompt or prompt_embeds")
	f(`{}`, own, "prompt", "Either prompt or prompt_embeds")
	f(`{"prompt":"x","max_tokens":"many"}`, schema, "body.max_tokens", "'type': 'int_parsing'")
	f(`{"prompt":"x","max_tokens":[1]}`, schema, "body.max_tokens", "'input': '<list of 1 items>'")
	f(`{"prompt":"x","max_tokens":1.5}`, schema, "body.max_tokens", "int_from_float")
	f(`{"prompt":"x","max_tokens":"7","temperature":"0.5","stream":"yes","n":true}`, "", "", "")
	f(`{"prompt":"x","stream":"perhaps"}`, schema, "body.stream", "unable to interpret input")
	f(`{"prompt":"x","stream":{}}`, schema, "body.stream", "Input should be a valid boolean")
	f(`{"prompt":"x","temperature":{}}`, schema, "body.temperature", "Input should be a valid number")
	f(`{"prompt":"x","stop":5}`, schema, "body.stop", "2 validation errors")
	f(`{"prompt":"x","stop":["a",5]}`, schema, "body.stop", "'loc': 'body.stop.1'")
	f(`{"prompt":"x","logit_bias":[]}`, schema, "body.logit_bias", "valid dictionary")
	f(`{"prompt":"x","logit_bias":{"a":1}}`, schema, "body.logit_bias", "integer")
	f(`{"prompt":"x","model":5}`, schema, "body.model", "valid string")
	f(`{"prompt":"x","stream_options":{}}`, "", "", "")
	f(`{"prompt":"x","stream_options":{"include_usage":true}}`, own, "stream_options", "stream=True")
	f(`{"prompt":"x","stream":true,"prompt_logprobs":1}`, own, "prompt_logprobs", "not available")
	f(`{"prompt":"x","prompt_logprobs":-2}`, own, "prompt_logprobs", "positive value or -1")
	f(`{"prompt":"x","logprobs":"2"}`, own, "logprobs", "must be an integer")
	f(`{"prompt":"x","cache_salt":""}`, own, "cache_salt", "non-empty string")
	f(`{"prompt":"x","cache_salt":"a/b"}`, own, "cache_salt", "must not contain")
	f(`{"prompt":"x","use_beam_search":true}`, own, "", "Beam search")
	f(`{"prompt":"x","temperature":"a","top_p":"b"}`, schema, "body.temperature", "2 validation errors")
	f(`{"prompt":"x","unknown":{"a":[1]},"user":"u","seed":-1,"min_tokens":0}`, "", "", "")
}

func checkError(t *testing.T, body string, err *Error, kind, param, message string) {
	t.Helper()
	switch {
	case err == nil && kind == "":
	case err == nil:
		t.Errorf("%s is read, want %s about %s", body, kind, param)
	case err.Type != kind || err.Param != param || !strings.Contains(err.Message, message) || err.Status != 400:
		t.Errorf("%s: %d %s, want %s about %s: …%s…", body, err.Status, err.Body(), kind, param, message)
	}
}

func TestSamplingCheck(t *testing.T) {
	f := func(fields, message string) {
		t.Helper()
		c, err := ReadCompletion([]byte(`{"prompt":"x",`+fields+`}`), &Defaults{})
		if err == nil {
			c.Sampling.MaxTokens = c.Limit(1, 2048)
			err = c.Sampling.Check()
		}
		switch {
		case err == nil && message != "":
			t.Errorf("%s passes, want: %s", fields, message)
		case err != nil && (message == "" || !strings.Contains(err.Message, message)):
			t.Errorf("%s: %s, want: %s", fields, err.Message, message)
		}
	}
	f(`"temperature":2`, "")
	f(`"temperature":-0.1`, "temperature must be non-negative, got -0.1. (parameter=temperature, value=-0.1)")
	f(`"temperature":"inf"`, "temperature must be a finite number, got inf.")
	f(`"top_p":0`, "top_p must be in (0, 1], got 0.0.")
	f(`"top_k":-2`, "top_k must be 0 (disable), or at least 1, got -2.")
	f(`"top_k":-1`, "")
	f(`"min_p":1.5`, "min_p must be in [0, 1], got 1.5.")
	f(`"presence_penalty":3`, "presence_penalty must be in [-2, 2], got 3.0.")
	f(`"frequency_penalty":-3`, "frequency_penalty must be in [-2, 2], got -3.0.")
	f(`"repetition_penalty":0`, "repetition_penalty must be greater than zero, got 0.0.")
	f(`"n":0`, "n must be at least 1, got 0.")
	f(`"n":20000`, "n must be at most 16384")
	f(`"min_tokens":-1`, "min_tokens must be greater than or equal to 0, got -1.")
	f(`"min_tokens":20`, "min_tokens must be less than or equal to max_tokens=16, got 20.")
	f(`"max_tokens":0`, "max_tokens must be at least 1, got 0.")
	f(`"stop":["a",""]`, "stop cannot contain an empty string.")
	f(`"bad_words":["a",""]`, "bad_words cannot contain an empty string. Got bad_words=['a', '']")
	f(`"stream_interval":0`, "stream_interval must be at least 1, got 0.")
	f(`"n":2,"temperature":0`, "n must be 1 when using greedy sampling, got 2.")
}

func TestSamplingVerify(t *testing.T) {
	e := Engine{Vocabulary: 100, MaxLogprobs: 20}
	f := func(e Engine, fields, message string) {
		t.Helper()
		g, err := ReadGenerate([]byte(`{"token_ids":[1,2,3],"sampling_params":{` + fields + `}}`))
		if err == nil {
			err = g.Sampling.Verify(e, 3)
		}
		switch {
		case err == nil && message != "":
			t.Errorf("%s passes, want: %s", fields, message)
		case err != nil && (message == "" || !strings.Contains(err.Message, message)):
			t.Errorf("%s: %s, want: %s", fields, err.Message, message)
		}
	}
	f(e, ``, "")
	f(e, `"logprobs":21`, "Requested sample logprobs of 21, which is greater than max allowed: 20")
	f(e, `"logprobs":-1`, "Requested sample logprobs of 100")
	f(Engine{Vocabulary: 100, MaxLogprobs: -1}, `"logprobs":-1`, "")
	f(e, `"prompt_logprobs":21`, "Requested prompt logprobs of 21")
	f(e, `"logit_bias":{"100":1,"-1":2,"5":1}`, "token_id(s) [-1, 100] in logit_bias contain out-of-vocab token ids. Vocabulary size: 100")
	f(e, `"stop_token_ids":[100]`, "token_id(s) [100] in stop_token_ids")
	f(e, `"allowed_token_ids":[]`, "allowed_token_ids is not None and empty!")
	f(e, `"allowed_token_ids":[100]`, "allowed_token_ids contains out-of-vocab token id!")
	f(e, `"prompt_logprob_start":1`, "prompt_logprob_start requires prompt_logprob_token_ids.")
	f(e, `"prompt_logprob_token_ids":[[1]]`, "requires the V2 model runner")
	e.V2 = true
	f(e, `"prompt_logprob_token_ids":[[1]]`, "has 1 rows, but the prompt has 2 scored rows")
	f(e, `"prompt_logprob_token_ids":[[1],[2]]`, "")
	f(e, `"prompt_logprob_token_ids":[[1]],"prompt_logprob_start":1`, "")
	f(e, `"prompt_logprob_token_ids":[[1],[100]]`, "out-of-vocab")
	f(e, `"prompt_logprob_token_ids":[[],[]]`, "non-empty integer array")
	e.Speculates = true
	f(e, `"min_p":0.1`, "not yet supported with speculative decoding")
}

func TestReadChat(t *testing.T) {
	f := func(body, kind, param, message string) {
		t.Helper()
		_, err := ReadChat([]byte(body), &Defaults{})
		checkError(t, body, err, kind, param, message)
	}
	const schema, own = "Bad Request", "BadRequestError"
	f(`{"messages":[{"role":"user","content":"x"}]}`, "", "", "")
	f(`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}`, "", "", "")
	f(`{"messages":[{"content":"x"}]}`, schema, "body.messages.0.role", "Field required")
	f(`{"messages":"x"}`, schema, "body.messages", "valid list")
	f(`{"messages":[1]}`, schema, "body.messages.0", "valid dictionary")
	f(`{"messages":[],"tools":[]}`, own, "tools", "must not be an empty array")
	f(`{"messages":[],"tool_choice":"auto"}`, own, "tool_choice", "`tools` must be set")
	f(`{"messages":[],"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"some"}`, own, "tool_choice", "Invalid value for `tool_choice`: some!")
	f(`{"messages":[],"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"function":{"name":"g"}}}`, own, "tool_choice", "does not match any")
	f(`{"messages":[],"tools":[{"type":"function"}]}`, schema, "body.tools.0.function", "Field required")
	f(`{"messages":[],"top_logprobs":2}`, own, "top_logprobs", "`logprobs` must be set to true")
	f(`{"messages":[],"continue_final_message":true,"add_generation_prompt":true}`, own, "", "Cannot set both")
}

// TestMessages: contents of parts are joined, and arguments of calls are
// objects.
func TestMessages(t *testing.T) {
	c, err := ReadChat([]byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
		{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"b\": 1, \"a\": 2}"}},{"function":{"name":"g","arguments":""}}]}],
		"tools":[{"function":{"parameters":{"z":1,"a":2},"name":"f","other":1},"type":"function"}]}`), &Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	calls := c.Messages[1].ToolCalls
	if c.Messages[0].Content != "a\nb" || string(calls[0].Arguments) != `{"b":1,"a":2}` || string(calls[1].Arguments) != "{}" {
		t.Errorf("%+v", c.Messages)
	}
	if want := `{"type":"function","function":{"name":"f","description":null,"parameters":{"z":1,"a":2}}}`; string(c.Tools[0]) != want {
		t.Errorf("tool is %s, want %s", c.Tools[0], want)
	}
	if c.ToolChoice != "auto" {
		t.Errorf("tool choice is %q", c.ToolChoice)
	}
}

// FuzzRead: no body makes a reader panic, and every refusal is a body itself.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"prompt":[[1,2],[3]],"max_tokens":3,"stop":["a"],"logit_bias":{"5":1},"stream":true,"stream_options":{"include_usage":true}}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a"}],"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":{"function":{"name":"f"}}}`,
		`{"token_ids":[1,2],"sampling_params":{"prompt_logprobs":2,"prompt_logprob_token_ids":[[1],[2]],"n":2,"seed":"7"},"output_mode":"text"}`,
		`{"generate_response":{"request_id":"x","choices":[{"index":0,"token_ids":[5,6]}]},"chat_request":{"skip_special_tokens":false},"prompt_token_ids":[1]}`,
		`{"stream":true,"generate_chunk":{"choices":[{"token_ids":[5]}]},"stream_state":{"prev_tokens":["a"],"prefix_offset":0,"read_offset":1}}`,
		`{"generate_responses":[],"prompt_tokens":[1]}`, `{"tokens":[1,2]}`, `{"request_ids":["a"]}`, `[]`, ``,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		body := []byte(text)
		errs := make([]*Error, 0, 8)
		note := func(s *Sampling, err *Error) {
			if err == nil && s != nil {
				if err = s.Check(); err == nil {
					err = s.Verify(Engine{Vocabulary: 100, MaxLogprobs: 20, V2: true}, 3)
					newParamsObject(s)
				}
			}
			errs = append(errs, err)
		}
		if c, err := ReadCompletion(body, &Defaults{}); err == nil {
			c.Sampling.MaxTokens = c.Limit(3, 100)
			NewRender(&c.Common, []int64{1})
			note(&c.Sampling, nil)
		} else {
			note(nil, err)
		}
		if c, err := ReadChat(body, &Defaults{}); err == nil {
			c.Sampling.MaxTokens = c.Limit(3, 100, &Defaults{})
			note(&c.Sampling, nil)
		} else {
			note(nil, err)
		}
		if g, err := ReadGenerate(body); err == nil {
			note(&g.Sampling, nil)
		} else {
			note(nil, err)
		}
		_, err := ReadTokenize(body)
		note(nil, err)
		_, _, err = ReadDetokenize(body)
		note(nil, err)
		_, err = ReadAbort(body)
		note(nil, err)
		for _, chat := range []bool{true, false} {
			_, err = ReadDerender(body, chat)
			note(nil, err)
		}
		for _, err := range errs {
			if err != nil && (err.Body() == nil || err.Event() == nil || err.Status < 400) {
				t.Fatalf("%q: %+v", text, err)
			}
		}
	})
}
