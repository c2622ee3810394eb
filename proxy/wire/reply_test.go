package wire

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

// golden compares got with a file as raw text.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

var (
	stop   = Ending{Reason: "stop"}
	usage  = Usage{Prompt: 10, Completion: 7, Cached: 4}
	accept = Acceptance{Steps: 2, Drafted: 6, Accepted: 3}
)

func TestStreams(t *testing.T) {
	f := func(name string, chat, wantUsage bool, e Ending, text ...string) {
		t.Helper()
		r := NewReply(chat, "req-1", 1795469081, "target")
		var out []byte
		if chat {
			out = r.Role(out)
		}
		for _, s := range text {
			out = r.Content(out, s)
		}
		if wantUsage {
			out = r.Finish(out, e, nil)
			out = r.Usage(out, usage, accept)
		} else {
			out = r.Finish(out, e, &accept)
		}
		golden(t, name, r.Done(out))
	}
	f("chat_usage.sse", true, true, stop, "こんにちは", "!", " 👋\n\"quoted\" \\ \x01")
	f("chat.sse", true, false, Ending{Reason: "length"}, "12", " plus", " 7")
	f("chat_stop_string.sse", true, false, Ending{Reason: "stop", StopString: "very sm"}, "Hello! I am a ")
	f("completion_usage.sse", false, true, Ending{Reason: "stop", HasStopToken: true, StopToken: 244}, "こんにちは", "!")
	f("completion.sse", false, false, stop)
}

func TestBodies(t *testing.T) {
	f := func(name string, chat bool, text string, e Ending, u Usage, a Acceptance) {
		t.Helper()
		golden(t, name, append(NewReply(chat, "req-1", 1795469081, "target").Body(nil, text, e, u, a), '\n'))
	}
	f("chat.json", true, "こんにちは! 👋", stop, usage, accept)
	f("chat_plain.json", true, "", Ending{Reason: "length"}, Usage{Prompt: 10, Cached: -1}, Acceptance{})
	f("completion.json", false, "a\u2028<b>&\x7f", Ending{Reason: "stop", StopString: "\n\n"}, usage, accept)
}

func TestErrors(t *testing.T) {
	golden(t, "error.sse", (&Error{Status: 502, Type: "upstream_error", Code: "target_unreachable", Message: "the target broke off", Src: Upstream}).AppendEvent(nil))
	golden(t, "error.json", append(Invalid("messages", `messages must not be "empty"`).Append(nil), '\n'))
	golden(t, "too_large.json", append(TooLarge(8<<20).Append(nil), '\n'))
}

func TestModels(t *testing.T) {
	golden(t, "models.json", append(AppendModels(nil, []Model{{"a", 1, 2048}, {"b", 1, 0}}), '\n'))
}

// Every field that vLLM writes in a chunk is written in ours, with a value of
// the same JSON type, except those named here.
func TestLikeVLLM(t *testing.T) {
	not := []string{
		"system_fingerprint", "service_tier", // the engine's own, unknown here
		"prompt_token_ids", "token_ids", "prompt_text", "prompt_logprobs", // null unless asked for with return_token_ids: passed through
		"routed_experts", "kv_transfer_params", "ec_transfer_params",
		"created_cache_tokens", "multimodal_tokens",
		"content.finish", "content.stop_reason", // ours have a finish chunk apart
	}
	r := NewReply(true, "x", 1, "m")
	c := NewReply(false, "x", 1, "m")
	f := func(file string, event int, ours []byte) {
		t.Helper()
		raw, err := os.ReadFile("../../engine/vllm/testdata/real/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".sse") {
			raw = bytes.Split(raw, []byte("\n\n"))[event]
		}
		var want, got any
		for into, from := range map[*any][]byte{&want: raw, &got: ours} {
			if err := json.Unmarshal(bytes.TrimPrefix(from, []byte("data: ")), into); err != nil {
				t.Fatalf("%s: %v in %s", file, err, from)
			}
		}
		missing(t, file, "", not, want, got)
	}
	f("chat_stream.sse", 0, r.Role(nil))
	f("chat_stream.sse", 1, r.Content(nil, "a"))
	f("chat_stream.sse", 6, r.Finish(nil, stop, nil))
	f("chat_stream.sse", 7, r.Usage(nil, usage, accept))
	f("completions_stream.sse", 0, c.Content(nil, "a"))
	f("completions_stream.sse", 5, c.Finish(nil, stop, nil))
	f("completions_stream.sse", 6, c.Usage(nil, usage, accept))
	f("chat.resp.json", 0, r.Body(nil, "a", stop, usage, accept))
	f("completions.resp.json", 0, c.Body(nil, "a", stop, usage, accept))
}

func missing(t *testing.T, file, path string, not []string, want, got any) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s: %s is %T, want an object", file, path, got)
			return
		}
	keys:
		for k, v := range w {
			for _, n := range not {
				if n == k {
					continue keys
				}
			}
			if _, ok := g[k]; !ok {
				t.Errorf("%s: %s.%s is missing", file, path, k)
				continue
			}
			if v != nil {
				missing(t, file, path+"."+k, not, v, g[k])
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			t.Errorf("%s: %s is %v, want %v", file, path, got, want)
			return
		}
		for i := range w {
			missing(t, file, path, not, w[i], g[i])
		}
	case float64:
		if _, ok := got.(float64); !ok {
			t.Errorf("%s: %s is %T, want a number", file, path, got)
		}
	case string:
		if _, ok := got.(string); !ok {
			t.Errorf("%s: %s is %T, want a string", file, path, got)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	r := NewReply(true, "req-1", 1, "target")
	buf := make([]byte, 0, 4096)
	f := func(name string, write func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, write); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	f("role", func() { r.Role(buf) })
	f("content", func() { r.Content(buf, "こんにちは \"x\"\n") })
	f("finish", func() { r.Finish(buf, stop, &accept) })
	f("usage", func() { r.Usage(buf, usage, accept) })
	f("body", func() { r.Body(buf, "text", stop, usage, accept) })
}

// FuzzAppendString: any text reads back as encoding/json would send it.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "abc", "\x00\x1f\x7f", `"\/`, "é👋\u2028\u2029", "\xff\xfe", "a\xc3", "\xed\xa0\x80", "<script>&", "\b\f\n\r\t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ours := AppendString([]byte("x"), s)[1:]
		std, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got, want string
		if err := json.Unmarshal(ours, &got); err != nil {
			t.Fatalf("%q: %v", ours, err)
		}
		if err := json.Unmarshal(std, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%q reads back as %q, want %q", s, got, want)
		}
		if bytes.ContainsAny(ours, "\n\r") {
			t.Fatalf("%q: a line break would end the event", ours)
		}
	})
}

func BenchmarkContent(b *testing.B) {
	r := NewReply(true, "req-1", 1, "target")
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = r.Content(buf[:0], " and then a few words more")
	}
}
