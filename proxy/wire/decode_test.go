package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestDecode(t *testing.T) {
	f := func(chat bool, body string, want Request) {
		t.Helper()
		got, err := Decode(chat, []byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			return
		}
		want.Chat = chat
		if diff := cmp.Diff(&want, got, cmpopts.IgnoreFields(Request{}, "Body", "Root", "Fields")); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
		if string(got.Body) != body {
			t.Errorf("%s: the body became %s", body, got.Body)
		}
	}
	msg := `"messages":[{"role":"user","content":"hi"}]`
	f(true, `{"model":"m",`+msg+`}`, Request{Model: "m", Prompts: 1, PromptTokens: -1})
	f(true, `{`+msg+`}`, Request{Prompts: 1, PromptTokens: -1})
	f(true, `{"model":null,"stream":null,"stream_options":null,"max_tokens":null,`+msg+`}`, Request{Prompts: 1, PromptTokens: -1})
	f(true, ` {"mod\u0065l" : "m\u0065" , "stream":true, `+msg+`} `, Request{Model: "me", Stream: true, Prompts: 1, PromptTokens: -1})
	f(true, `{"stream":true,"stream_options":{"include_usage":true},`+msg+`}`, Request{Stream: true, IncludeUsage: true, Prompts: 1, PromptTokens: -1})
	f(true, `{"stream":true,"stream_options":{"include_usage":null,"continuous_usage_stats":false},`+msg+`}`, Request{Stream: true, Prompts: 1, PromptTokens: -1})
	f(true, `{"stream":true,"stream_options":{"continuous_usage_stats":true},`+msg+`}`, Request{Stream: true, OtherStreamOptions: true, Prompts: 1, PromptTokens: -1})
	f(true, `{"max_tokens":5,`+msg+`}`, Request{MaxTokens: 5, Prompts: 1, PromptTokens: -1})
	f(true, `{"max_tokens":5.0,"max_completion_tokens":7,`+msg+`}`, Request{MaxTokens: 7, Prompts: 1, PromptTokens: -1})
	f(true, `{"max_completion_tokens":7,"max_tokens":5,`+msg+`}`, Request{MaxTokens: 7, Prompts: 1, PromptTokens: -1})
	f(true, `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},"b"]},{"role":"assistant","content":null}]}`, Request{Prompts: 1, PromptTokens: -1})
	f(true, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`, Request{Multimodal: true, Prompts: 1, PromptTokens: -1})
	f(true, `{"messages":[{"role":"user","content":[{"type":"text","type":"image_url"}]}]}`, Request{Multimodal: true, Prompts: 1, PromptTokens: -1})
	f(true, `{"prompt":7,`+msg+`}`, Request{Prompts: 1, PromptTokens: -1})
	f(false, `{"prompt":"hi","messages":7}`, Request{Prompts: 1, PromptTokens: -1})
	f(false, `{"prompt":""}`, Request{Prompts: 1, PromptTokens: -1})
	f(false, `{"prompt":[1,20,3]}`, Request{Prompts: 1, PromptTokens: 3, LargestID: 20})
	f(false, `{"prompt":["a"]}`, Request{Prompts: 1, PromptTokens: -1})
	f(false, `{"prompt":["a","b"]}`, Request{Prompts: 2, PromptTokens: -1})
	f(false, `{"prompt":[[1,2],[3,4,5]]}`, Request{Prompts: 2, PromptTokens: 3, LargestID: 5})
	f(false, `{"prompt":null,"prompt_embeds":"x"}`, Request{Prompts: 1, PromptTokens: -1})
}

func TestFields(t *testing.T) {
	r, err := Decode(false, []byte(`{"prompt":"a","temperature":0,"b\u0061d":[1, 2]}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Fields {
		got = append(got, f.Name+"="+f.Value.Raw)
	}
	if diff := cmp.Diff([]string{`prompt="a"`, `temperature=0`, `bad=[1, 2]`}, got); diff != "" {
		t.Error(diff)
	}
	if r.Get("temperature").Raw != "0" || r.Get("nothing").Exists() {
		t.Error("Get")
	}
}

func TestFor(t *testing.T) {
	f := func(body, name, want string) {
		t.Helper()
		r, err := Decode(false, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(r.For(name)); got != want {
			t.Errorf("%s for %q: %s, want %s", body, name, got, want)
		}
		if string(r.Body) != body {
			t.Errorf("%s became %s", body, r.Body)
		}
	}
	f(`{"model":"a","prompt":"x"}`, "a", `{"model":"a","prompt":"x"}`)
	f(`{"model":"a","prompt":"x"}`, "", `{"model":"a","prompt":"x"}`)
	f(`{"prompt":"x"}`, "b", `{"prompt":"x"}`)
	f(`{"model":"a","prompt":"x"}`, `b"`, `{"model":"b\"","prompt":"x"}`)
	f("  {\n\t\"prompt\" : \"model\", \"mod\\u0065l\" :  \"\\u0061\" }\n", "b", "  {\n\t\"prompt\" : \"model\", \"mod\\u0065l\" :  \"b\" }\n")
	f(`{"model":null,"prompt":"x"}`, "b", `{"model":"b","prompt":"x"}`)
}

// Every refusal is a 400 that names the field, or says what is wrong with the
// whole body.
func TestRefusals(t *testing.T) {
	f := func(chat bool, body, param, message string) {
		t.Helper()
		_, err := Decode(chat, []byte(body))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.80s: %v", body, err)
			return
		}
		if e.Status != 400 || e.Type != "invalid_request_error" || e.Src != Proxy || e.Param != param || !strings.Contains(e.Message, message) {
			t.Errorf("%.80s: %+v, want param %q and %q", body, e, param, message)
		}
	}
	msg := `"messages":[{"role":"user","content":"hi"}]`
	f(true, ``, "", "empty")
	f(true, ` `, "", "not valid JSON")
	f(true, `[]`, "", "must be a JSON object")
	f(true, `"x"`, "", "must be a JSON object")
	f(true, `{"model":"m",`, "", "(byte 13)")
	f(true, `{"model":"m"} x`, "", "not valid JSON")
	f(true, `{"model":"`+"\xff"+`",`+msg+`}`, "", "not valid UTF-8")
	f(true, strings.Repeat("[", 1<<20), "", "nested")
	f(true, `{"a":`+strings.Repeat(`{"a":`, 300)+`1`+strings.Repeat(`}`, 300)+`,`+msg+`}`, "", "nested")
	f(true, `{`+strings.Repeat(`"\u0061":1,`, 2)+msg+`}`, "a", "twice")
	f(true, `{"model":"m","mod\u0065l":"n",`+msg+`}`, "model", "twice")
	f(true, `{"stream":false,"stream":true,`+msg+`}`, "stream", "twice")
	f(true, `{"stream":null,"stream":true,`+msg+`}`, "stream", "twice")
	f(true, `{`+manyFields(600)+msg+`}`, "", "more than 512 fields")
	f(true, `{"model":7,`+msg+`}`, "model", "string")
	f(true, `{"model":"",`+msg+`}`, "model", "empty")
	f(true, `{"stream":"true",`+msg+`}`, "stream", "true or false")
	f(true, `{"stream":1,`+msg+`}`, "stream", "true or false")
	f(true, `{"stream":true,"stream_options":true,`+msg+`}`, "stream_options", "object")
	f(true, `{"stream":true,"stream_options":{"include_usage":1},`+msg+`}`, "stream_options.include_usage", "true or false")
	f(true, `{"stream":true,"stream_options":{"include_usage":true,"include_usage":false},`+msg+`}`, "stream_options.include_usage", "twice")
	f(true, `{"stream_options":{"include_usage":true},`+msg+`}`, "stream_options", "only allowed with stream")
	f(true, `{"max_tokens":0,`+msg+`}`, "max_tokens", "at least 1")
	f(true, `{"max_tokens":-3,`+msg+`}`, "max_tokens", "at least 1")
	f(true, `{"max_tokens":1.5,`+msg+`}`, "max_tokens", "whole number")
	f(true, `{"max_tokens":"5",`+msg+`}`, "max_tokens", "whole number")
	f(true, `{"max_tokens":1e999,`+msg+`}`, "max_tokens", "whole number")
	f(true, `{"max_completion_tokens":99999999999,`+msg+`}`, "max_completion_tokens", "whole number")
	f(true, `{"max_completion_tokens":5,"max_tokens":0,`+msg+`}`, "max_tokens", "at least 1")
	f(true, `{"model":"m"}`, "messages", "missing")
	f(true, `{"messages":null}`, "messages", "missing")
	f(true, `{"messages":[]}`, "messages", "empty")
	f(true, `{"messages":{}}`, "messages", "array")
	f(true, `{"messages":"hi"}`, "messages", "array")
	f(true, `{"messages":["hi"]}`, "messages[0]", "object")
	f(true, `{"messages":[{"role":"user","content":"a"},{"content":"a"}]}`, "messages[1].role", "missing")
	f(true, `{"messages":[{"role":1,"content":"a"}]}`, "messages[0].role", "string")
	f(true, `{"messages":[{"role":"user","role":"system"}]}`, "messages[0]", "twice")
	f(true, `{"messages":[{"role":"user","content":5}]}`, "messages[0].content", "string or an array")
	f(true, `{"messages":[{"role":"user","content":[5]}]}`, "messages[0].content", "parts")
	f(false, `{"model":"m"}`, "prompt", "missing")
	f(false, `{"prompt":null}`, "prompt", "missing")
	f(false, `{"prompt":7}`, "prompt", "string")
	f(false, `{"prompt":[]}`, "prompt", "empty")
	f(false, `{"prompt":[[]]}`, "prompt", "empty")
	f(false, `{"prompt":[1,-2]}`, "prompt", "the one at 1")
	f(false, `{"prompt":[1,2.5]}`, "prompt", "token ids")
	f(false, `{"prompt":[1,"a"]}`, "prompt", "token ids")
	f(false, `{"prompt":[1,99999999999]}`, "prompt", "token ids")
	f(false, `{"prompt":["a",1]}`, "prompt", "array of strings")
	f(false, `{"prompt":[[1],"a"]}`, "prompt", "array of strings")
	f(false, `{"prompt":[{}]}`, "prompt", "array of strings")
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`"f`)
		b.Write(appendInt(nil, i))
		b.WriteString(`":1,`)
	}
	return b.String()
}

// FuzzDecode: nothing crashes, and what is accepted means the same to another
// reader of JSON.
func FuzzDecode(f *testing.F) {
	for _, chat := range []bool{true, false} {
		for _, body := range []string{
			`{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}],"max_tokens":5}`,
			`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"é"}]}],"temperature":0.7,"stop":["a"]}`,
			`{"prompt":[1,2,3],"max_tokens":1}`, `{"prompt":["a","b"]}`, `{"prompt":[[1],[2]]}`, `{"a":"\ud800","prompt":"\\"}`,
			`{`, `[[[[`, `{"model":"m","model":"n"}`, `{"stream":tru`, "{\"prompt\":\"\xff\"}", ``, `null`, `{"prompt":[1,2`, `{"max_tokens":1e5}`,
		} {
			f.Add(chat, []byte(body))
		}
	}
	real, _ := filepath.Glob("../../engine/vllm/testdata/real/*.req.json")
	for _, path := range real {
		body, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(strings.Contains(path, "chat"), body)
	}
	f.Fuzz(func(t *testing.T, chat bool, body []byte) {
		before := bytes.Clone(body)
		r, err := Decode(chat, body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Status != 400 || e.Message == "" || !json.Valid(e.Append(nil)) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		var other map[string]json.RawMessage
		if err := json.Unmarshal(body, &other); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if len(other) != len(r.Fields) {
			t.Fatalf("%d fields, encoding/json sees %d", len(r.Fields), len(other))
		}
		var want struct {
			Model         *string `json:"-"`
			Stream        *bool   `json:"-"`
			MaxTokens     *float64
			MaxCompletion *float64
		}
		for name, into := range map[string]any{"model": &want.Model, "stream": &want.Stream, "max_tokens": &want.MaxTokens, "max_completion_tokens": &want.MaxCompletion} {
			if raw, ok := other[name]; ok {
				if err := json.Unmarshal(raw, into); err != nil {
					t.Fatalf("accepted %s: %s", name, raw)
				}
			}
		}
		if want.Model != nil && *want.Model != r.Model || want.Stream != nil && *want.Stream != r.Stream {
			t.Fatalf("model %q, stream %v", r.Model, r.Stream)
		}
		max := 0
		if want.MaxTokens != nil {
			max = int(*want.MaxTokens)
		}
		if want.MaxCompletion != nil {
			max = int(*want.MaxCompletion)
		}
		if max != r.MaxTokens {
			t.Fatalf("max_tokens %d, want %d", r.MaxTokens, max)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(`{"model":"m","stream":true,"temperature":0,"max_tokens":512,"messages":[{"role":"system","content":"` +
		strings.Repeat("You are a helpful assistant. ", 40) + `"},{"role":"user","content":"` + strings.Repeat("word ", 1600) + `"}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(true, body); err != nil {
			b.Fatal(err)
		}
	}
}
