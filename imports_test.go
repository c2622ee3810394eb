package paceline_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// arrows says which of our packages a package may import, one row a package.
// A package without a row fails the test: to add an arrow or a package, edit
// the table in the same change and say why in its commit.
var arrows = map[string]string{
	"":                  "",
	"vocab":             "",
	"draft":             "vocab",
	"draft/model":       "draft vocab",
	"verify":            "draft vocab",
	"speculate":         "draft verify vocab",
	"engine":            "draft speculate verify vocab",
	"engine/vllm":       "draft engine speculate verify vocab",
	"proxy":             "draft engine proxy/depart proxy/plan proxy/wire speculate verify vocab",
	"proxy/depart":      "",
	"proxy/pair":        "draft draft/model engine engine/vllm proxy proxy/plan speculate verify vocab",
	"proxy/plan":        "engine proxy/wire verify vocab",
	"proxy/wire":        "speculate verify vocab",
	"simulate":          "simulate/batch simulate/lm simulate/sampling simulate/vllm vocab",
	"simulate/batch":    "vocab",
	"simulate/lm":       "vocab",
	"simulate/sampling": "vocab",
	"simulate/vllm":     "vocab",
	"configs":           "draft/model engine engine/vllm proxy proxy/pair proxy/plan speculate vocab",
	"benchmark":         "engine speculate",
	"cmd/paceline":      "benchmark configs engine engine/vllm proxy proxy/pair proxy/plan simulate simulate/batch simulate/lm",
	"e2e":               "",
}

// testArrows are what the tests of a package may import beyond its row.
var testArrows = map[string]string{
	"draft/model": "engine engine/vllm simulate",
	"engine":      "simulate",
	"engine/vllm": "draft/model simulate simulate/batch simulate/lm simulate/sampling",
	"speculate":   "draft/model engine engine/vllm simulate simulate/batch simulate/lm",
	"proxy":       "simulate simulate/batch simulate/lm",
	"proxy/pair":  "simulate simulate/batch simulate/lm simulate/sampling",
}

// rooms says in which top-level folders a third-party module may be imported
// outside tests. A module that is not named here may not be imported at all.
var rooms = map[string]string{
	"github.com/alecthomas/kong":  "cmd",
	"github.com/goccy/go-yaml":    "configs",
	"github.com/tidwall/gjson":    "engine proxy simulate",
	"github.com/tidwall/sjson":    "engine proxy simulate",
	"github.com/valyala/fasthttp": "engine proxy simulate",
	"github.com/valyala/fastjson": "engine proxy simulate",
	"golang.org/x/sys":            "proxy",
}

// testRooms are modules that any test may import.
var testRooms = []string{
	"github.com/google/go-cmp",
	"github.com/sashabaranov/go-openai",
	"github.com/tidwall/gjson",
	"github.com/tidwall/sjson",
	"github.com/valyala/fasthttp",
	"go.uber.org/goleak",
	"gonum.org/v1/gonum",
	"pgregory.net/rapid",
}

// forbidden are folder names that say nothing of what a package provides.
var forbidden = []string{"internal", "pkg", "util", "utils", "common", "core", "helper", "helpers", "types", "handlers", "misc"}

func TestFolders(t *testing.T) {
	for dir := range packages(t) {
		for part := range strings.SplitSeq(dir, "/") {
			if slices.Contains(forbidden, part) {
				t.Errorf("%s: a folder is named for what it provides, not %q", dir, part)
			}
		}
	}
}

func TestDocComments(t *testing.T) {
	for dir, files := range packages(t) {
		var with []string
		code := 0
		for name, f := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			code++
			if f.Doc != nil {
				with = append(with, name)
			}
		}
		if code > 0 && len(with) != 1 {
			sort.Strings(with)
			t.Errorf("package %q: want one doc comment, have %d %v", dir, len(with), with)
		}
	}
}

func TestArrows(t *testing.T) {
	all := packages(t)
	for dir, files := range all {
		row, ok := arrows[dir]
		if !ok {
			t.Errorf("package %q has no row in arrows", dir)
		}
		for name, f := range files {
			allowed := strings.Fields(row)
			if strings.HasSuffix(name, "_test.go") {
				allowed = append(append(allowed, strings.Fields(testArrows[dir])...), dir)
			}
			for _, path := range ours(f) {
				if !slices.Contains(allowed, path) {
					t.Errorf("%s imports %s: not in its row of arrows", filepath.Join(dir, name), path)
				}
			}
		}
	}
}

func TestThirdParty(t *testing.T) {
	for dir, files := range packages(t) {
		for name, f := range files {
			for _, path := range foreign(f) {
				module, room := moduleOf(path), strings.SplitN(dir, "/", 2)[0]
				if slices.Contains(strings.Fields(rooms[module]), room) {
					continue
				}
				if strings.HasSuffix(name, "_test.go") && slices.Contains(testRooms, module) {
					continue
				}
				t.Errorf("%s imports %s: this module has no place in this room", filepath.Join(dir, name), path)
			}
		}
	}
}

// TestSelfContained fails on a mention of the folder beside the repository:
// what the project needs is in the project.
func TestSelfContained(t *testing.T) {
	outside := []byte(".." + "/shared")
	walk(t, func(path string, d fs.DirEntry) {
		if info, err := d.Info(); err != nil || !info.Mode().IsRegular() || info.Size() > 4<<20 {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(text, outside); i >= 0 {
			t.Errorf("%s:%d mentions %s", path, 1+bytes.Count(text[:i], []byte("\n")), outside)
		}
	})
}

// packages parses the imports and package clauses of every Go file of the
// module, by folder ("" is the root) and file name.
func packages(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	found := map[string]map[string]*ast.File{}
	walk(t, func(path string, _ fs.DirEntry) {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata/") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if dir == "." {
			dir = ""
		}
		if found[dir] == nil {
			found[dir] = map[string]*ast.File{}
		}
		found[dir][filepath.Base(path)] = f
	})
	return found
}

// walk visits the files of the repository that a commit can hold.
func walk(t *testing.T, visit func(path string, d fs.DirEntry)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "out", "__pycache__"}, d.Name()):
			return filepath.SkipDir
		case !d.IsDir():
			visit(path, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// imported lists a file's import paths that keep answers.
func imported(f *ast.File, keep func(path string) bool) []string {
	var paths []string
	for _, spec := range f.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil && keep(path) {
			paths = append(paths, path)
		}
	}
	return paths
}

func ours(f *ast.File) []string {
	var dirs []string
	for _, path := range imported(f, func(p string) bool { return p == "paceline" || strings.HasPrefix(p, "paceline/") }) {
		dirs = append(dirs, strings.TrimPrefix(strings.TrimPrefix(path, "paceline"), "/"))
	}
	return dirs
}

func foreign(f *ast.File) []string {
	return imported(f, func(p string) bool {
		first, _, _ := strings.Cut(p, "/")
		return strings.Contains(first, ".")
	})
}

// moduleOf cuts an import path to the module that the tables name.
func moduleOf(path string) string {
	known := slices.Clone(testRooms)
	for module := range rooms {
		known = append(known, module)
	}
	for _, module := range known {
		if path == module || strings.HasPrefix(path, module+"/") {
			return module
		}
	}
	return path
}
