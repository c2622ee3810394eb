package vllm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

// server makes a fake answer a probe as the recorded server did. Its tokeniser
// takes bytes; 0 is <|end|>, the only id that ends an answer.
func server(t *testing.T) *fake {
	fk := newFake(t)
	fk.on("/version", says(200, real(t, "version")))
	fk.on("/v1/models", says(200, real(t, "models")))
	fk.on("/metrics", says(200, real(t, "metrics")))
	fk.on(pathTokenize, func(body gjson.Result) (int, string) {
		switch m := body.Get("messages"); {
		case body.Get("continue_final_message").Bool():
			return 200, `{"tokens":[1,203,1501,203,2,203,1501]}`
		case len(m.Array()) == 2:
			return 200, `{"tokens":[1,203,1501,203,2,203,1501,0,203]}`
		case m.Exists():
			return 200, real(t, "tokenize_messages")
		}
		var list []vocab.Token
		for i, part := range strings.Split(body.Get("prompt").Str, "<|end|>") {
			if i > 0 {
				list = append(list, 0)
			}
			for _, b := range []byte(part) {
				list = append(list, vocab.Token(b)+500)
			}
		}
		return 200, fmt.Sprintf(`{"tokens":[%s]}`, vocab.AppendIDs(nil, list))
	})
	fk.on(pathDetokenize, func(body gjson.Result) (int, string) {
		var text []byte
		for _, v := range body.Get("tokens").Array() {
			text = append(text, byte(v.Int()-500))
		}
		return 200, fmt.Sprintf(`{"prompt":%s}`, quoted(string(text)))
	})
	fk.on(pathCompletions, func(body gjson.Result) (int, string) {
		switch id := body.Get("allowed_token_ids.0"); {
		case body.Get("logit_bias").Exists():
			return 400, real(t, "error_logit_bias_bad_id")
		case id.Exists():
			return 200, fmt.Sprintf(`{"choices":[{"index":0,"text":"","finish_reason":%q,"stop_reason":null,"token_ids":[%d]}]}`,
				map[bool]string{true: "stop", false: "length"}[id.Int() == 0], id.Int())
		}
		return 200, real(t, "completions_first_byte")
	})
	fk.on(pathChat, says(200, real(t, "chat_stream")))
	fk.on("/v1/chat/completions/render", says(200, real(t, "chat_render")))
	fk.on(pathGenerate, func(body gjson.Result) (int, string) {
		if body.Get("sampling_params.detokenize").Raw != "false" {
			t.Error("detokenize was not switched off: that can end a server")
		}
		if body.Get("sampling_params.prompt_logprobs").Int() > 20 {
			return 400, real(t, "generate_max_logprobs")
		}
		rows := []string{"null"}
		for _, v := range body.Get("token_ids").Array()[1:] {
			rows = append(rows, `{"`+v.Raw+`":{"logprob":-0.5,"rank":1,"decoded_token":null},"9":{"logprob":-2,"rank":2,"decoded_token":null}}`)
		}
		return 200, `{"prompt_logprobs":[` + strings.Join(rows, ",") + `],"choices":[]}`
	})
	return fk
}

func mode(caps engine.Capabilities, m verify.Mode) engine.ModeStatus {
	for _, s := range caps.Modes {
		if s.Mode == m.String() {
			return s
		}
	}
	return engine.ModeStatus{}
}

func TestProbe(t *testing.T) {
	fk := server(t)
	e := New(fk.client, "", Options{})
	caps, err := e.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defaults := string(*caps.Defaults)
	caps.Defaults = nil
	got := fmt.Sprintf("%+v", caps)
	want := fmt.Sprintf("{URL:%s Dialect:vllm Version:0.32.0 Model:target MaxModelLen:2048 VocabSize:2048 BlockSize:32 TokenPrompts:true ChatTokens:true "+
		"RenderChat:true Detokenize:true ScaleOut:true CachedTokens:true PrefixCache:true Reasoning:false MaxTokens:0 MaxLogprobs:20 EOS:[0] NamedEOS:[] Defaults:<nil> "+
		"Fingerprint:%s Modes:[{Mode:score OK:true Reason: Enable:} {Mode:fan-out OK:true Reason: Enable:}]}", fk.url, caps.Fingerprint)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if defaults != strings.Replace(gjson.Get(real(t, "chat_render"), "sampling_params").Raw, `"max_tokens":2042,`, "", 1) || !strings.HasPrefix(caps.Fingerprint, "1:") {
		t.Errorf("defaults %s, fingerprint %s", defaults, caps.Fingerprint)
	}
	if known := e.Capabilities(); known.VocabSize != 2048 {
		t.Errorf("the endpoint knows %+v", known)
	}
	for _, body := range fk.asked(pathCompletions) {
		if n := body.Get("max_tokens").Int(); n != 1 {
			t.Errorf("a probe asked for %d tokens: %s", n, body.Raw)
		}
	}
}

// A second probe asks less: what is known of the tokens stays, as long as the
// vocabulary does.
func TestProbeAgain(t *testing.T) {
	fk := server(t)
	e := New(fk.client, "", Options{})
	probe := func() (steps int) {
		t.Helper()
		before := len(fk.asked(pathCompletions))
		if _, err := e.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(fk.asked(pathCompletions)) - before
	}
	first, second := probe(), probe()
	inner := fk.routes[pathTokenize]
	fk.on(pathTokenize, func(b gjson.Result) (int, string) {
		status, s := inner(b)
		return status, strings.Replace(s, `"tokens":[`, `"tokens":[700,`, 1)
	})
	bracket := vocab.Token('<' + 500)
	if second >= first || e.specials.Load().get(bracket) == 0 {
		t.Errorf("%d steps, then %d", first, second)
	}
	if probe(); e.specials.Load().get(bracket) != 0 {
		t.Error("what was known of another vocabulary is kept")
	}
}

// What a server lacks, and what is said of it.
func TestProbeWithout(t *testing.T) {
	type change func(fk *fake, o *Options)
	f := func(name string, c change, wantScore, wantFanOut string, check func(engine.Capabilities) bool) {
		t.Helper()
		fk := server(t)
		var o Options
		c(fk, &o)
		caps, err := New(fk.client, "target", o).Probe(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		for m, want := range map[verify.Mode]string{verify.Score: wantScore, verify.FanOut: wantFanOut} {
			s := mode(caps, m)
			if s.OK != (want == "") || !s.OK && (s.Enable == "" || !strings.Contains(s.Reason+" → "+s.Enable, want)) {
				t.Errorf("%s: %+v, want %q", name, s, want)
			}
			if caps.Can(m) != s.OK {
				t.Errorf("%s: Can(%s) is %v", name, m, caps.Can(m))
			}
		}
		if check != nil && !check(caps) {
			t.Errorf("%s: %+v", name, caps)
		}
	}
	gone := func(paths ...string) change {
		return func(fk *fake, _ *Options) {
			for _, p := range paths {
				delete(fk.routes, p)
			}
		}
	}
	f("no scale-out", gone("/v1/chat/completions/render", pathGenerate), "answered 404: Not Found → "+flagScaleOut, "",
		func(c engine.Capabilities) bool { return !c.ScaleOut && c.Defaults == nil && len(c.EOS) == 1 })
	f("no prompt token details", func(fk *fake, _ *Options) {
		inner := fk.routes[pathCompletions]
		fk.on(pathCompletions, func(b gjson.Result) (int, string) {
			status, s := inner(b)
			return status, strings.Replace(s, `"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":null,"multimodal_tokens":null}`, `"prompt_tokens_details":null`, 1)
		})
	}, flagPromptTokens, "", func(c engine.Capabilities) bool { return !c.CachedTokens })
	f("no prefix cache", func(fk *fake, _ *Options) {
		fk.on("/metrics", says(200, strings.Replace(real(t, "metrics"), `enable_prefix_caching="True"`, `enable_prefix_caching="False"`, 1)))
	}, flagPrefixCache, flagPrefixCache, func(c engine.Capabilities) bool { return !c.PrefixCache })
	f("no metrics", gone("/metrics"), "", "", func(c engine.Capabilities) bool { return c.BlockSize == 0 && c.PrefixCache })
	f("no token ids", func(fk *fake, _ *Options) {
		fk.on(pathCompletions, says(200, `{"choices":[{"index":0,"text":"a","finish_reason":"length"}]}`))
	}, "does not return token ids", "does not return token ids", func(c engine.Capabilities) bool { return !c.TokenPrompts && len(c.EOS) == 0 })
	f("chat without ids", func(fk *fake, _ *Options) { fk.on(pathChat, says(200, real(t, "chat_stream_plain"))) }, "", "",
		func(c engine.Capabilities) bool { return !c.ChatTokens && c.RenderChat })
	f("no chat template", func(fk *fake, _ *Options) {
		fk.on(pathChat, says(400, `{"error":{"message":"no template"}}`))
		inner := fk.routes[pathTokenize]
		fk.on(pathTokenize, func(b gjson.Result) (int, string) {
			if b.Get("messages").Exists() {
				return 400, `{"error":{"message":"no template"}}`
			}
			return inner(b)
		})
		fk.on("/v1/completions/render", says(200, real(t, "defaults_completions_render")))
	}, "", "", func(c engine.Capabilities) bool {
		return !c.ChatTokens && !c.RenderChat && c.TokenPrompts && c.ScaleOut
	})
	f("reasoning parser", func(fk *fake, _ *Options) {
		fk.on(pathChat, says(200, strings.Replace(real(t, "chat_stream"), `"completion_tokens":6,`, `"completion_tokens":6,"completion_tokens_details":{"reasoning_tokens":0},`, 1)))
	}, "", "", func(c engine.Capabilities) bool { return c.Reasoning })
	f("detokenize cleans up", func(fk *fake, _ *Options) {
		inner := fk.routes[pathDetokenize]
		fk.on(pathDetokenize, func(b gjson.Result) (int, string) {
			status, s := inner(b)
			return status, strings.ReplaceAll(s, " .", ".")
		})
	}, "does not give back", "does not give back", func(c engine.Capabilities) bool { return !c.Detokenize })
	f("few logprobs", func(fk *fake, _ *Options) {
		inner := fk.routes[pathGenerate]
		fk.on(pathGenerate, func(b gjson.Result) (int, string) {
			status, s := inner(b)
			return status, strings.Replace(s, "max allowed: 20", "max allowed: 1", 1)
		})
	}, "--max-logprobs", "", nil)
	f("other rows", func(fk *fake, _ *Options) { fk.on(pathGenerate, says(200, `{"prompt_logprobs":null}`)) }, "does not return a row", "", nil)
	f("no end is known", func(fk *fake, _ *Options) {
		inner := fk.routes[pathCompletions]
		fk.on(pathCompletions, func(b gjson.Result) (int, string) {
			status, s := inner(b)
			return status, strings.Replace(s, `"stop"`, `"length"`, 1)
		})
		fk.on(pathChat, says(200, real(t, "chat_length")))
	}, "none of the candidates", "", func(c engine.Capabilities) bool { return len(c.EOS) == 0 })
	f("configured end", func(fk *fake, o *Options) {
		o.EOS = ids(777, 5000) // the latter is not in the vocabulary
		inner := fk.routes[pathCompletions]
		fk.on(pathCompletions, func(b gjson.Result) (int, string) {
			if b.Get("allowed_token_ids.0").Int() == 777 {
				return 200, `{"choices":[{"index":0,"text":"","finish_reason":"stop","stop_reason":777,"token_ids":[777]}]}`
			}
			return inner(b)
		})
	}, "", "", func(c engine.Capabilities) bool { return fmt.Sprint(c.EOS) == "[0 777]" })
	f("modes switched off", func(fk *fake, o *Options) { o.Modes = []verify.Mode{verify.FanOut} }, "switched off", "", nil)
	f("own limit on new tokens", func(fk *fake, _ *Options) {
		fk.on("/v1/chat/completions/render", says(200, strings.Replace(real(t, "chat_render"), `"max_tokens":2042`, `"max_tokens":300`, 1)))
	}, "", "", func(c engine.Capabilities) bool { return c.MaxTokens == 300 })
	f("own limit of 16", func(fk *fake, _ *Options) { fk.on("/v1/chat/completions/render", says(200, real(t, "render_16"))) }, "", "",
		func(c engine.Capabilities) bool { return c.MaxTokens == 16 })
	f("not vLLM", gone("/version", pathTokenize, pathDetokenize), "not vLLM", "not vLLM", func(c engine.Capabilities) bool { return c.Dialect == "openai" && c.Model == "target" })
}

func TestProbeErrors(t *testing.T) {
	f := func(name, model string, change func(fk *fake), want string) {
		t.Helper()
		fk := server(t)
		e := New(fk.client, "", Options{})
		if _, err := e.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.model = model
		change(fk)
		if _, err := e.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		if e.Capabilities().VocabSize != 2048 {
			t.Errorf("%s: what was known before is lost", name)
		}
	}
	f("unknown model", "nope", func(fk *fake) {}, `no model "nope", only ["target"]`)
	f("two models", "", func(fk *fake) { fk.on("/v1/models", says(200, `{"data":[{"id":"a"},{"id":"b"}]}`)) }, "cannot choose")
	f("no key", "", func(fk *fake) { fk.on("/v1/models", says(401, `{"error":"Unauthorized"}`)) }, "401")
	f("loading", "", func(fk *fake) { fk.on("/version", says(503, `loading`)) }, "503")
	fk := server(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(fk.client, "", Options{}).Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
