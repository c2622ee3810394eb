package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the program as a user builds it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "paceline")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "paceline")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// run runs the binary to its end.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, binary, args...)
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// server is a running `paceline serve`.
type server struct {
	ready
	command *exec.Cmd
	file    string
	stdout  output
	stderr  output
	done    chan struct{}
}

// output keeps what a process that still runs has printed.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// serve starts the binary and waits for its ready file.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{file: filepath.Join(t.TempDir(), "ready.json"), done: make(chan struct{})}
	s.command = exec.Command(binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--ready", s.file}, args...)...)
	s.command.Stdout, s.command.Stderr = &s.stdout, &s.stderr
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.command.Wait() // its exit code is asked for by stop
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.command.Process.Kill() // it may have ended
		<-s.done
	})
	for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		text, err := os.ReadFile(s.file)
		if err == nil {
			if err := json.Unmarshal(text, &s.ready); err != nil {
				t.Fatalf("the ready file holds %q: %v", text, err)
			}
			return s
		}
		select {
		case <-s.done:
			t.Fatalf("serve ended: %s", s.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve is not ready: %s", s.stderr.String())
		}
	}
}

// printed waits until the server has printed text, which it does after it wrote
// the ready file.
func (s *server) printed(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.stdout.String(), text); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it printed %q", s.stdout.String())
		}
	}
}

// stop sends a signal and returns the exit code.
func (s *server) stop(t *testing.T, sig os.Signal) int {
	t.Helper()
	if err := s.command.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		t.Fatal("serve did not stop")
	}
	return s.command.ProcessState.ExitCode()
}

const question = `{"model":"target","temperature":0,"max_tokens":60,"stream":%v,"messages":[{"role":"user","content":"Explain speculative decoding."}]}`

func post(t *testing.T, base, body string) (text string, header http.Header) {
	t.Helper()
	r, err := http.Post(base+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("status %d, %v: %s", r.StatusCode, err, b)
	}
	return string(b), r.Header
}

// content is the text of an unstreamed answer.
func content(t *testing.T, body string) string {
	t.Helper()
	var r struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal([]byte(body), &r); err != nil || len(r.Choices) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	return r.Choices[0].Message.Content
}

func TestServeBuiltin(t *testing.T) {
	s := serve(t, "--profile", "fast", "--draft-profile", "fast")
	if s.PID != s.command.Process.Pid || len(s.Targets) != 1 || len(s.Drafts) != 1 {
		t.Errorf("ready: %+v", s.ready)
	}
	s.printed(t, "curl ")
	if !strings.Contains(s.stdout.String(), `{"proxy":"`+s.Proxy+`","targets":["`) || !strings.Contains(s.stdout.String(), "\ncurl -N "+s.Proxy) {
		t.Errorf("it printed %q", s.stdout.String())
	}
	through, header := post(t, s.Proxy, fmt.Sprintf(question, false))
	alone, _ := post(t, s.Targets[0], fmt.Sprintf(question, false))
	if header.Get("X-Paceline-Mode") != "score" || !strings.Contains(through, `"num_spec_steps"`) {
		t.Errorf("not speculated: %v %s", header, through)
	}
	if a, b := content(t, alone), content(t, through); a != b || a == "" {
		t.Errorf("the target alone says %q, the proxy %q", a, b)
	}
	if out, errs, code := run(t, "health", s.Proxy); code != 0 || out != "healthy\n" {
		t.Errorf("health: %d %q %q", code, out, errs)
	}
	if code := s.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	if _, err := os.Stat(s.file); err == nil {
		t.Error("the ready file is still there")
	}
	if _, errs, code := run(t, "health", s.Proxy); code != 1 || !strings.Contains(errs, "refused") {
		t.Errorf("health of a stopped proxy: %d %q", code, errs)
	}
}

// TestCurlLine runs the line that serve prints.
func TestCurlLine(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl")
	}
	s := serve(t, "--profile", "fast", "--draft-profile", "fast", "--quiet")
	s.printed(t, "curl ")
	lines := strings.Split(s.stdout.String(), "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "curl ") })
	if at < 0 {
		t.Fatalf("no curl line in %q", s.stdout.String())
	}
	out, err := exec.Command("sh", "-c", strings.Replace(lines[at], "curl", "curl -sS --max-time 30", 1)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Mia") || !strings.HasSuffix(string(out), "data: [DONE]\n\n") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestServeConfig puts a configured proxy in front of engines that run already.
func TestServeConfig(t *testing.T) {
	engines := serve(t, "--profile", "fast", "--draft-profile", "fast", "--quiet")
	config := filepath.Join(t.TempDir(), "paceline.yaml")
	text := fmt.Sprintf("listen: 127.0.0.1:1\nlog: {format: json}\npairs:\n  - name: big\n    target: {url: %q}\n    drafts: [{url: %q}]\n    speculation: {length: 6, verify: fan-out}\n", engines.Targets[0], engines.Drafts[0])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := run(t, "check", "--config", config); code != 0 || !strings.Contains(out, "ok") {
		t.Errorf("check: %d %q %q", code, out, errs)
	}
	s := serve(t, "--config", config)
	if !slices.Equal(s.Targets, engines.Targets) || !slices.Equal(s.Drafts, engines.Drafts) {
		t.Errorf("ready: %+v", s.ready)
	}
	through, header := post(t, s.Proxy, strings.Replace(fmt.Sprintf(question, false), `"target"`, `"big"`, 1))
	alone, _ := post(t, engines.Targets[0], fmt.Sprintf(question, false))
	if a, b := content(t, alone), content(t, through); a != b || header.Get("X-Paceline-Mode") != "fan-out" {
		t.Errorf("%v: the target alone says %q, the proxy %q", header, a, b)
	}
	if code := s.stop(t, os.Interrupt); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	for line := range strings.Lines(s.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a line of JSON: %q", line)
		}
	}
}

// TestStopLetsAnswersEnd: an answer that is running when the signal comes is
// complete.
func TestStopLetsAnswersEnd(t *testing.T) {
	s := serve(t, "--profile", "draft-8b", "--draft-profile", "draft-1b")
	r, err := http.Post(s.Proxy+"/v1/chat/completions", "application/json", strings.NewReader(fmt.Sprintf(question, true)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r.Body, first); err != nil {
		t.Fatal(err)
	}
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r.Body)
	if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("%v: the answer ends %q", err, rest[max(0, len(rest)-200):])
	}
	<-s.done
	if code := s.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
}

func TestProbe(t *testing.T) {
	s := serve(t, "--profile", "fast", "--draft-profile", "fast", "--quiet")
	out, errs, code := run(t, "probe", s.Targets[0])
	if code != 0 || !strings.Contains(out, "the proxy would use") || !strings.Contains(out, "score") {
		t.Errorf("probe: %d %q %q", code, out, errs)
	}
	out, errs, code = run(t, "probe", "--json", s.Targets[0])
	var caps struct {
		Model string
		Modes []struct {
			Mode string
			OK   bool
		}
	}
	if err := json.Unmarshal([]byte(out), &caps); code != 0 || err != nil || caps.Model != "target" || len(caps.Modes) != 2 {
		t.Errorf("probe --json: %d %v %q %q", code, err, out, errs)
	}
	if _, errs, code := run(t, "probe", "http://127.0.0.1:1"); code != 1 || !strings.Contains(errs, "cannot probe") {
		t.Errorf("probe of nothing: %d %q", code, errs)
	}
}

func TestBench(t *testing.T) {
	s := serve(t, "--profile", "fast", "--draft-profile", "fast", "--quiet")
	f := func(args ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "bench.json")
		out, errs, code := run(t, append([]string{"bench", "--json", file, "--prompts", "4", "--max-tokens", "24"}, args...)...)
		if code != 0 || errs != "" {
			t.Fatalf("%q: %d %q", args, code, errs)
		}
		for _, want := range []string{"decode speed-up", "equal answers       100.0 %", "tokens per round", "survival"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q: no %q in %s", args, want, out)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var report map[string]any
		if err := json.Unmarshal(text, &report); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"speedup", "equal", "ttft_ratio", "acceptance", "tokens_per_round", "plain_tokens_per_second", "tokens_per_second", "predicted_speedup"} {
			if v, ok := report[key].(float64); !ok || v <= 0 {
				t.Errorf("%q: %s is %v", args, key, report[key])
			}
		}
		if report["equal"] != 1. || report["passed_through"] != 0. {
			t.Errorf("%q: equal %v, passed through %v", args, report["equal"], report["passed_through"])
		}
	}
	f("--profile", "fast", "--draft-profile", "fast", "--lanes", "2", "--forced", "--repeat", "2")
	f("--profile", "draft-8b", "--draft-profile", "draft-1b", "--verify", "fan-out", "--length", "3")
	f("--target", s.Targets[0], "--draft", s.Drafts[0], "--forced")
	f("--target", s.Targets[0], "--draft", s.Drafts[0], "--model", "target", "--forced", "--verify", "score")
}

func TestRefusals(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		out, errs, code := run(t, args...)
		if code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%q: exit code %d, %q %q, want %q", args, code, out, errs, want)
		}
	}
	bad := "../../configs/testdata/unknown-option.bad.yaml"
	f("unknown-option.bad.yaml:5:7: unknown field", "check", "--config", bad)
	f("unknown-option.bad.yaml:5:7: unknown field", "serve", "--config", bad)
	f("not-there.yaml", "check", "--config", "not-there.yaml")
	f("other machines", "serve", "--listen", "0.0.0.0:0")
	f("no profile is called", "serve", "--profile", "abacus")
	f("go together", "bench", "--target", "http://127.0.0.1:1")
	f("--length 1 to 64", "bench", "--length", "0")
	f("--prompts 1 to", "bench", "--prompts", "1000")
	f("expected", "probe")
	f("unexpected argument", "serve", "x")
}

func TestVersion(t *testing.T) {
	out, errs, code := run(t, "version")
	if code != 0 || !strings.HasPrefix(out, "paceline ") || !strings.Contains(out, " go1.") {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

// TestServeWaitsForTheTarget: while the target does not answer the proxy is up
// and says so, but is not ready.
func TestServeWaitsForTheTarget(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	config, file := filepath.Join(dir, "paceline.yaml"), filepath.Join(dir, "ready.json")
	text := "listen: 127.0.0.1:" + port + "\npairs: [{name: m, target: {url: \"http://127.0.0.1:1\"}}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr output
	c := exec.Command(binary, "serve", "--config", config, "--ready", file)
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(stderr.String(), "waiting for the target"); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it logged %q", stderr.String())
		}
	}
	if _, errs, code := run(t, "health", "http://127.0.0.1:"+port); code != 0 {
		t.Errorf("health: %d %q", code, errs)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it says that it is ready")
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
