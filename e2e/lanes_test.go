//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configuration is a lane's file. Lanes differ in how they verify. The draft is
// asked only after a plain stream was cut (eager), so that the recording tells
// what was committed; it has time on a slow machine; and no probe comes between
// requests.
const configuration = `listen: 127.0.0.1:0
log: {level: debug, format: json}
pairs:
  - name: target
    target: {url: %q, model: target}
    drafts: [{name: draft, url: %q, model: draft}]
    speculation: {verify: %s, length: %d, eager: true, patience: 10s}
    probe_every: 12h
`

// length is the draft length.
const length = 5

// verification is what the lanes' files say: score mode stands for "score where
// it is exact".
var verification = map[string]string{"score": "auto", "fan-out": "fan-out"}

// A lane is one running proxy with a relay of its own in front of each engine.
type lane struct {
	mode      string
	url       string
	recording *Recording
	relays    [2]*Relay
	process   *exec.Cmd
	exited    chan error
	log       string
}

// lanes are started when first used, and ended with the tests.
var lanes = map[string]*lane{}

func laneOf(t *testing.T, mode string) *lane {
	t.Helper()
	l := lanes[mode]
	if l == nil {
		l = &lane{mode: mode, recording: NewRecording(), exited: make(chan error, 1)}
		lanes[mode] = l
		if err := l.start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *lane) start(ctx context.Context) error {
	var err error
	if l.relays[0], err = StartRelay("target", targetURL, l.recording); err != nil {
		return err
	}
	if l.relays[1], err = StartRelay("draft", draftURL, l.recording); err != nil {
		return err
	}
	dir := filepath.Join(directory, l.mode)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config, ready := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "ready.json")
	l.log = filepath.Join(dir, "proxy.log")
	text := fmt.Sprintf(configuration, l.relays[0].URL(), l.relays[1].URL(), verification[l.mode], length)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	log, err := os.Create(l.log)
	if err != nil {
		return err
	}
	defer log.Close()
	_ = os.Remove(ready)
	l.process = exec.Command(binary, "serve", "--config", config, "--ready", ready)
	l.process.Stdout, l.process.Stderr = log, log
	if err := l.process.Start(); err != nil {
		return err
	}
	go func() { l.exited <- l.process.Wait() }()
	// For the script, should this process be killed.
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, l.process.Process.Pid), 0o644); err != nil {
		return err
	}
	return l.wait(ctx, ready)
}

// wait waits for the ready file.
func (l *lane) wait(ctx context.Context, ready string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		text, err := os.ReadFile(ready)
		var r struct {
			Proxy string `json:"proxy"`
			PID   int    `json:"pid"`
		}
		if err == nil && json.Unmarshal(text, &r) == nil && r.Proxy != "" {
			if r.PID != l.process.Process.Pid {
				return fmt.Errorf("the ready file says pid %d, it is %d", r.PID, l.process.Process.Pid)
			}
			l.url = r.Proxy
			return nil
		}
		select {
		case err := <-l.exited:
			return fmt.Errorf("the proxy ended: %w\n%s", err, l.tail())
		case <-ctx.Done():
			return fmt.Errorf("the proxy was not ready within a minute\n%s", l.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail is the end of the proxy's log.
func (l *lane) tail() string {
	text, _ := os.ReadFile(l.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "the proxy's log ends:\n" + strings.Join(lines[max(0, len(lines)-4):], "\n")
}

// close ends the proxy as a supervisor would.
func (l *lane) close() {
	if l.process != nil && l.process.Process != nil {
		_ = l.process.Process.Signal(os.Interrupt)
		select {
		case <-l.exited:
		case <-time.After(30 * time.Second):
			fmt.Fprintf(os.Stderr, "e2e: the %s proxy did not end within 30 s\n", l.mode)
			_ = l.process.Process.Kill()
		}
	}
	for _, r := range l.relays {
		if r != nil {
			r.Close()
		}
	}
}

// ask sends one request through the proxy, alone, and recounts it.
func (l *lane) ask(t *testing.T, p *prompt, fields ...any) (*reply, Tally) {
	t.Helper()
	mark := l.recording.Mark()
	r, err := post(within(t, time.Minute), l.url, p, fields...)
	if err != nil {
		t.Fatalf("%v\n%s", err, l.tail())
	}
	if r.status != 200 {
		t.Fatalf("status %d: %s", r.status, r.raw)
	}
	if mode := r.header.Get("X-Paceline-Mode"); mode == "pass-through" {
		t.Fatalf("it was passed through, reason %q", r.header.Get("X-Paceline-Reason"))
	}
	exchanges, err := l.recording.Since(within(t, 10*time.Second), mark)
	if err != nil {
		t.Fatalf("%v: %s", err, describe(exchanges))
	}
	tally, err := Recount(exchanges, p.chat, r.usage.Completion)
	if err != nil {
		t.Fatalf("cannot follow the recording: %v\n%s", err, describe(exchanges))
	}
	return r, tally
}

// describe prints the last exchanges, a few lines each.
func describe(list []Exchange) string {
	var b strings.Builder
	for i, e := range list {
		if i < len(list)-12 {
			continue
		}
		short := func(s []byte) []byte {
			s = bytes.ReplaceAll(s, []byte("\n"), []byte(" "))
			if len(s) > 240 {
				return append(append(bytes.Clone(s[:80]), " … "...), s[len(s)-160:]...)
			}
			return s
		}
		fmt.Fprintf(&b, "%3d %s %s %s %d %d ms gone=%v\n      → %s\n      ← %s\n", i, e.Server, e.Method, e.Path, e.Status, e.Ended.Sub(e.Began).Milliseconds(), e.Gone, short(e.Body), short(e.Response))
	}
	return b.String()
}

// failures lists the answers of the engines with 5xx or none.
func (l *lane) failures(t *testing.T) (bad []Exchange) {
	t.Helper()
	list, err := l.recording.Since(within(t, 10*time.Second), 0)
	if err != nil {
		t.Errorf("%v", err)
	}
	for _, e := range list {
		if e.Status >= 500 || e.Status == 0 && !e.Gone {
			bad = append(bad, e)
		}
	}
	return bad
}
