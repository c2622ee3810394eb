package configs

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"paceline/engine"
	"paceline/engine/vllm"
	"paceline/proxy"
	"paceline/proxy/pair"
	"paceline/proxy/plan"
)

var rewrite = flag.Bool("rewrite", false, "write what comes out as the expected messages")

func TestExample(t *testing.T) {
	c, err := Load("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Listen: "127.0.0.1:8787",
		Pairs: []pair.Options{{
			Name: "big", Aliases: []string{"default"}, Length: 4,
			Target: pair.Endpoint{URL: "http://127.0.0.1:8000", Model: "meta-llama/Llama-3.1-405B-Instruct"},
			Drafts: []pair.Endpoint{{Name: "llama-1b", URL: "http://127.0.0.1:8001"}},
			Policy: plan.Policy{Rounds: true},
		}},
	}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
}

// TestExampleIsWhole takes every option out of its comment: the example names
// all of them, and the defaults that it states are valid.
func TestExampleIsWhole(t *testing.T) {
	text, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimLeft(line, " ")
		option, isComment := strings.CutPrefix(bare, "# ")
		name, _, isOption := strings.Cut(option, ": ")
		if isComment && isOption && !strings.Contains(name, " ") && strings.ToLower(name) == name && name != "api_key_file" {
			line = strings.Repeat(" ", len(line)-len(bare)) + option
		}
		lines = append(lines, line)
	}
	t.Setenv("TARGET_KEY", "secret")
	c, err := Parse("example.yaml", []byte(strings.Join(lines, "")))
	if err != nil {
		t.Fatal(err)
	}
	wantServer := proxy.Options{
		MaxBody: 8 << 20, MaxInFlight: 512, QueueWait: 10 * time.Second, MaxDraft: 16,
		ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, Patience: 30 * time.Second, Grace: 20 * time.Second,
	}
	if d := cmp.Diff(wantServer, c.Server); d != "" {
		t.Errorf("server: %s", d)
	}
	wantTarget := pair.Endpoint{
		URL: "http://127.0.0.1:8000", Model: "meta-llama/Llama-3.1-405B-Instruct",
		Client: engine.ClientOptions{
			DialTimeout: 2 * time.Second, Idle: 2 * time.Minute, MaxIdleConn: 4 * time.Second, MaxConns: 1024,
			Header: [][2]string{{"Authorization", "Bearer secret"}},
		},
		VLLM: vllm.Options{EOS: c.Pairs[0].Target.VLLM.EOS},
	}
	if d := cmp.Diff(wantTarget, c.Pairs[0].Target); d != "" {
		t.Errorf("target: %s", d)
	}
	if len(c.Pairs[0].Target.VLLM.EOS) != 3 || c.Pairs[0].ProbeEvery != time.Minute || c.Pairs[0].Patience != 100*time.Millisecond {
		t.Errorf("%+v", c.Pairs[0])
	}
}

func TestGood(t *testing.T) {
	t.Setenv("CONFIGS_TEST_KEY", "k")
	for _, name := range glob(t, "testdata/*.good.yaml") {
		if _, err := Load(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBad loads files with one fault each and compares the whole message with
// the file beside it.
func TestBad(t *testing.T) {
	for _, name := range glob(t, "testdata/*.bad.yaml") {
		_, err := Load(name)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		var placed *Error
		if !errors.As(err, &placed) || placed.Line == 0 && !strings.Contains(name, "empty") {
			t.Errorf("%s: the error has no place: %v", name, err)
		}
		golden := strings.TrimSuffix(name, ".yaml") + ".txt"
		if *rewrite {
			if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, readErr := os.ReadFile(golden)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if d := cmp.Diff(string(want), err.Error()+"\n"); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	t.Setenv("CONFIGS_TEST_KEY", "from-env")
	f := func(option, inFile, wantHeader, wantErr string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(inFile), 0o600); err != nil {
			t.Fatal(err)
		}
		text := "pairs:\n  - name: m\n    target:\n      url: http://127.0.0.1:1\n      " + strings.ReplaceAll(option, "FILE", file) + "\n"
		c, err := Parse("test", []byte(text))
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%s with %q: error %v, want %q", option, inFile, err, wantErr)
			}
			return
		}
		if err != nil {
			t.Errorf("%s: %v", option, err)
			return
		}
		if h := c.Pairs[0].Target.Client.Header; len(h) != 1 || h[0][1] != wantHeader {
			t.Errorf("%s: header %q, want %q", option, h, wantHeader)
		}
	}
	f("api_key_env: CONFIGS_TEST_KEY", "", "Bearer from-env", "")
	f("api_key_file: FILE", "from-file\n", "Bearer from-file", "")
	f("api_key_file: FILE", "\n", "", "is empty")
	f("api_key_file: FILE", "topsecret\nsecond line", "", "control character")
	f("api_key_file: FILE.not", "", "", "no such file")
	f("api_key_env: CONFIGS_TEST_UNSET", "", "", "is not set")
	f("api_key_file: FILE\n      api_key_env: CONFIGS_TEST_KEY", "x", "", "not both")
	f("api_key: topsecret", "", "", "unknown field")
}

func TestCheckListen(t *testing.T) {
	f := func(listen string, remote, ok bool) {
		t.Helper()
		if err := CheckListen(listen, remote); (err == nil) != ok {
			t.Errorf("%q, allow_remote %v: %v", listen, remote, err)
		}
	}
	f("127.0.0.1:8787", false, true)
	f("127.0.0.1:0", false, true)
	f("[::1]:80", false, true)
	f("localhost:80", false, true)
	f("0.0.0.0:80", false, false)
	f("0.0.0.0:80", true, true)
	f(":80", false, false)
	f("10.0.0.1:80", false, false)
	f("example.org:80", false, false)
	f("127.0.0.1", true, false)
	f("127.0.0.1:x", true, false)
	f("127.0.0.1:70000", true, false)
	f("", true, false)
}

func TestSizeIsBounded(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		began := time.Now()
		_, err := Parse("test", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %.200v, want %q", err, want)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v to refuse it", took)
		}
	}
	f("# "+strings.Repeat("x", maxSize), "at most 256 KiB")
	f("a: "+strings.Repeat("[", 100_000), "too many brackets")
	f("a: "+strings.Repeat("[", 1000)+strings.Repeat("]", 1000), "deep")
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 8) + "*" + string(c-1) + "]\n"
	}
	f(bomb, "anchors, aliases and merge keys are not supported")
}

// FuzzParse: whatever the text, parsing ends with a configuration or an error
// that can be printed.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"example.yaml", "testdata/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("fuzz", text)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without a message")
		}
	})
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v %v", pattern, names, err)
	}
	return names
}
