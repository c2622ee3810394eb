//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestContainer does what the Dockerfile says, without Docker: it copies what
// .dockerignore lets through, runs the build lines there, and starts the
// binary as the last stage would: alone in a root directory that holds nothing
// else, under the user's number, with the health check's own command.
func TestContainer(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program again")
	}
	d := readDockerfile(t, "../../Dockerfile")
	source, root := t.TempDir(), t.TempDir()
	copyContext(t, "../..", source)
	for _, line := range d["RUN"] {
		line = strings.ReplaceAll(line, "/out/", filepath.Join(source, "out")+"/")
		c := exec.Command("sh", "-ec", line)
		c.Dir, c.Env = source, append(os.Environ(), "VERSION=test")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("RUN %s: %v\n%s", line, err, out)
		}
	}
	for _, line := range d["COPY --from=build"] {
		from, to, _ := strings.Cut(line, " ")
		copyFile(t, filepath.Join(source, from), filepath.Join(root, to), 0o755)
	}
	checkStatic(t, filepath.Join(root, "paceline"))
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}

	port := freePort(t)
	command := append(execForm(t, d["ENTRYPOINT"][0]), execForm(t, d["CMD"][0])...)
	health := regexp.MustCompile(`CMD (\[.*\])$`).FindStringSubmatch(d["HEALTHCHECK"][0])
	check := execForm(t, health[1])
	for _, words := range [][]string{command, check} {
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], d["EXPOSE"][0], port)
		}
	}
	if inside(t, root, d["USER"][0], check).Run() == nil {
		t.Error("the health check succeeds while nothing runs")
	}
	var log bytes.Buffer
	server := inside(t, root, d["USER"][0], command)
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := server.Wait(); err != nil {
			t.Errorf("%v: %s", err, log.String())
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Millisecond) {
		err := inside(t, root, d["USER"][0], check).Run()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not healthy: %v: %s", err, log.String())
		}
	}
	r, err := http.Get("http://127.0.0.1:" + port + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != 200 {
		t.Errorf("/v1/models: %d", r.StatusCode)
	}
}

// readDockerfile groups a Dockerfile's instructions by their first word; a
// COPY from the build stage is told apart, and its paths are made relative.
func readDockerfile(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		if from, ok := strings.CutPrefix(line, "COPY --from=build "); ok {
			word, rest = "COPY --from=build", from
		}
		d[word] = append(d[word], rest)
	}
	for _, want := range []string{"RUN", "COPY --from=build", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"} {
		if len(d[want]) == 0 {
			t.Fatalf("the Dockerfile has no %s", want)
		}
	}
	return d
}

func execForm(t *testing.T, text string) []string {
	t.Helper()
	var words []string
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		t.Fatalf("%s is no list of words: %v", text, err)
	}
	return words
}

// inside makes a command that sees root as its whole file system and runs as
// user "uid:gid"; without the right to do that, one that runs outside.
func inside(t *testing.T, root, user string, words []string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		return exec.Command(filepath.Join(root, words[0]), words[1:]...)
	}
	uid, gid, _ := strings.Cut(user, ":")
	u, uErr := strconv.ParseUint(uid, 10, 32)
	g, gErr := strconv.ParseUint(gid, 10, 32)
	if uErr != nil || gErr != nil || u == 0 || g == 0 {
		t.Fatalf("USER %s: want numbers, and not root", user)
	}
	c := &exec.Cmd{Path: words[0], Args: words, Dir: "/", Env: []string{"PATH=/"}}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uint32(u), Gid: uint32(g)}}
	return c
}

// checkStatic fails if the binary needs anything but the kernel.
func checkStatic(t *testing.T, name string) {
	t.Helper()
	f, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("it needs %q (%v)", libraries, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a dynamic linker")
		}
	}
}

// copyContext copies what .dockerignore lets through.
func copyContext(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(from, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	patterns := strings.Fields(string(text))
	err = filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, name)
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() == ".git":
			return filepath.SkipDir
		case e.Type().IsRegular() && !ignored(patterns, filepath.ToSlash(relative)):
			copyFile(t, name, filepath.Join(to, relative), 0o644)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ignored applies .dockerignore's rules: the last pattern that matches a path
// or a folder above it decides.
func ignored(patterns []string, name string) bool {
	out := false
	for _, p := range patterns {
		p, keep := strings.CutPrefix(p, "!")
		tail, anywhere := strings.CutPrefix(p, "**/")
		segments := strings.Split(name, "/")
		for i := range segments {
			candidate := strings.Join(segments[:i+1], "/")
			if anywhere {
				candidate = segments[i]
			} else {
				tail = p
			}
			if ok, err := path.Match(tail, candidate); ok && err == nil {
				out = !keep
			}
		}
	}
	return out
}

func TestIgnored(t *testing.T) {
	patterns := []string{"*", "!a", "!*.go", "**/testdata", "**/*_test.go"}
	f := func(name string, want bool) {
		t.Helper()
		if got := ignored(patterns, name); got != want {
			t.Errorf("%s: ignored %v, want %v", name, got, want)
		}
	}
	f("a/b/c.txt", false)
	f("a/b/testdata/c.txt", true)
	f("a/b_test.go", true)
	f("doc.go", false)
	f("b/c.txt", true)
	f("README.md", true)
}

func copyFile(t *testing.T, from, to string, mode fs.FileMode) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, text, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}
