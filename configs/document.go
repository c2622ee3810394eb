package configs

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxSize bounds a configuration file. What is larger is no configuration, and
// the parser's work grows with it.
const maxSize = 256 << 10

// maxDepth bounds how deep values may nest: ours nest four deep.
const maxDepth = 32

// Error is a fault in a configuration, with the place it stands at.
type Error struct {
	File         string
	Line, Column int // from 1; 0 when the fault has no place (an empty file)
	Message      string
	Excerpt      string // the line at fault, the ones around it, and a mark
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": " + e.Message)
	if e.Excerpt != "" {
		b.WriteString("\n" + e.Excerpt)
	}
	return b.String()
}

// document is a parsed file: the values, and where each of them stands.
type document struct {
	name  string
	lines []string
	root  ast.Node // a mapping
}

// parse reads the text of one YAML document whose top is a mapping. Anchors,
// aliases and merge keys are refused: a few hundred bytes of them can unfold
// to gigabytes, and no option needs one.
func parse(name string, text []byte) (*document, error) {
	d := &document{name: name}
	if len(text) > maxSize {
		return nil, d.at(nil, "a configuration has at most %d KiB, this file has %d", maxSize>>10, len(text)>>10)
	}
	if strings.Count(string(text), "[")+strings.Count(string(text), "{") > maxSize/64 {
		return nil, d.at(nil, "too many brackets for a configuration")
	}
	d.lines = strings.Split(string(text), "\n")
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, d.explain(err)
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case d.root != nil:
			return nil, d.at(head(doc.Body), "a configuration is one document, this is a second one")
		default:
			d.root = doc.Body
		}
	}
	if d.root == nil {
		return nil, d.at(nil, "the configuration is empty")
	}
	if t := d.root.Type(); t != ast.MappingType && t != ast.MappingValueType {
		return nil, d.at(d.root.GetToken(), "a configuration is a mapping of options")
	}
	return d, d.plain(d.root, 0)
}

// plain refuses what makes a document larger than its text.
func (d *document) plain(n ast.Node, depth int) error {
	if n == nil {
		return nil
	}
	if depth > maxDepth {
		return d.at(n.GetToken(), "values nest more than %d deep", maxDepth)
	}
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return d.at(n.GetToken(), "anchors, aliases and merge keys are not supported")
	case *ast.TagNode:
		return d.at(n.GetToken(), "tags are not supported")
	case *ast.MappingNode:
		for _, value := range n.Values {
			if err := d.plain(value, depth); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		if err := d.plain(n.Key, depth+1); err != nil {
			return err
		}
		return d.plain(n.Value, depth+1)
	case *ast.SequenceNode:
		for _, value := range n.Values {
			if err := d.plain(value, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// decode stores the document's values; an option that into does not have is an
// error, and so is one given twice.
func (d *document) decode(into any) error {
	if err := yaml.NodeToValue(d.root, into, yaml.Strict()); err != nil {
		return d.explain(err)
	}
	return nil
}

// fault makes an error about the value at a path such as
// "pairs[0].target.url"; when the option is not in the file, its place is that
// of the nearest mapping above it that is.
func (d *document) fault(path, format string, args ...any) *Error {
	message := path + ": " + fmt.Sprintf(format, args...)
	for {
		if path == "" {
			return d.at(head(d.root), "%s", message)
		}
		if p, err := yaml.PathString("$." + path); err == nil {
			if n, err := p.FilterNode(d.root); err == nil && n != nil {
				return d.at(head(n), "%s", message)
			}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// head is the token at which a value begins: a mapping's own is a colon.
func head(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 {
			return head(n.Values[0])
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	case *ast.SequenceNode:
		if len(n.Values) > 0 {
			return head(n.Values[0])
		}
	}
	return n.GetToken()
}

// explain puts an error of the YAML package into our form.
func (d *document) explain(err error) *Error {
	var wrong *yaml.TypeError
	if errors.As(err, &wrong) {
		return d.at(wrong.Token, "want %s here, not %s", kind(wrong.DstType), kind(wrong.SrcType))
	}
	var located yaml.Error
	if errors.As(err, &located) {
		return d.at(located.GetToken(), "%s", located.GetMessage())
	}
	return d.at(nil, "%s", err.Error())
}

// duration is a time with its unit.
type duration time.Duration

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (v *duration) UnmarshalYAML(n ast.Node) error {
	text := n.GetToken().Value
	d, err := time.ParseDuration(text)
	if _, scalar := n.(ast.ScalarNode); err != nil || !scalar {
		return &yaml.SyntaxError{Message: `want a time with its unit here ("2s", "500ms")`, Token: head(n)}
	}
	*v = duration(d)
	return nil
}

// kind says what a type is in the words of a configuration.
func kind(t reflect.Type) string {
	if t == nil {
		return "another kind of value"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	}
	return "another kind of value"
}

// at makes an error at a token.
func (d *document) at(tk *token.Token, format string, args ...any) *Error {
	e := &Error{File: d.name, Message: fmt.Sprintf(format, args...)}
	if tk == nil || tk.Position == nil {
		return e
	}
	e.Line = min(max(tk.Position.Line, 1), len(d.lines))
	e.Column = max(tk.Position.Column, 1)
	var b strings.Builder
	for n := max(e.Line-2, 1); n <= min(e.Line+1, len(d.lines)); n++ {
		mark := ' '
		if n == e.Line {
			mark = '>'
		}
		fmt.Fprintf(&b, "%c %3d | %s\n", mark, n, clip(d.lines[n-1]))
		if n == e.Line {
			fmt.Fprintf(&b, "      | %s^\n", strings.Repeat(" ", min(e.Column, 160)-1))
		}
	}
	e.Excerpt = strings.TrimRight(b.String(), "\n")
	return e
}

// secrets is what an excerpt must not repeat, since it ends up in logs: keys
// written where they do not belong, and passwords in URLs.
var secrets = regexp.MustCompile(`(?i)((?:api_?key|token|secret|password|authorization)["']?\s*:\s*)[^,}]+|(://[^/@\s]*:)[^/@\s]*@`)

// clip keeps an excerpt readable when a line is endless, and secrets out of it.
func clip(line string) string {
	line = secrets.ReplaceAllString(strings.TrimRight(line, "\r"), "$1$2…")
	if len(line) > 160 {
		return strings.ToValidUTF8(line[:160], "") + "…"
	}
	return line
}
