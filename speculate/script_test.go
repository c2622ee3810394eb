package speculate

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"paceline/draft"
	"paceline/verify"
	"paceline/vocab"
)

var rewrite = flag.Bool("rewrite", false, "write the golden scripts anew")

// TestScripts plays testdata/*.txt: a line is an event (or a setting), the
// lines behind it that begin with "  →" are what the session wants then.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts: ", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(old))
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("the session does otherwise (go test ./speculate -rewrite writes it):\n%s", got)
			}
		})
	}
}

// lengths is a controller that is told what to say.
type lengths struct {
	k    int
	seen []Round
}

func (l *lengths) Length(View) int { return l.k }
func (l *lengths) Observe(r Round) { l.seen = append(l.seen, r) }

func play(t *testing.T, script string) string {
	var (
		out    strings.Builder
		limits Limits
		eager  bool
		costs  Costs
		k      = &lengths{}
		s      *Session
	)
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  →") {
			continue
		}
		out.WriteString(line + "\n")
		word, rest, _ := strings.Cut(line, " ")
		args := fields(rest)
		switch word {
		case "", "#":
			continue
		case "limits":
			limits = Limits{MaxTokens: num(args["max"]), MinTokens: num(args["min"]), Context: num(args["context"]), Ends: ids(args["ends"]), AnyPrompt: args["anyprompt"] != ""}
			continue
		case "eager":
			eager = true
			continue
		case "k":
			k.k = num(rest)
			continue
		case "costs":
			costs = Costs{Token: time.Duration(num(args["token"])), FirstDraft: time.Duration(num(args["draft"]))}
			continue
		case "start":
			s = NewSession(limits, k, args["drafter"] != "no", eager)
			s.SetCosts(costs)
		default:
			s.Step(event(t, word, args))
		}
		for range 8 { // Next until it wants nothing new
			r := describe(s, s.Next())
			if r == "" {
				break
			}
			out.WriteString("  → " + r + "\n")
			if strings.Contains(r, "done") {
				break
			}
		}
	}
	return out.String()
}

func event(t *testing.T, word string, a map[string]string) Event {
	fail := func() error {
		if a["err"] == "" {
			return nil
		}
		return errors.New(a["err"])
	}
	switch word {
	case "chunk":
		c := Chunk{Prompt: ids(a["prompt"]), Tokens: ids(a["tokens"]), Text: a["text"], Finish: a["finish"]}
		if r := ids(a["reason"]); r != nil {
			c.StopReason, c.HasReason = r[0], true
		}
		return Delivered{c}
	case "ended":
		return Ended{fail()}
	case "draft":
		return Drafted{Draft: draft.Draft{Tokens: ids(a["tokens"]), Source: "model"}, Err: fail(), Elapsed: time.Millisecond}
	case "choices":
		p := verify.Pass{Mode: verify.FanOut}
		for _, id := range ids(a["tokens"]) {
			p.Choices = append(p.Choices, verify.Choice{Token: id, Stop: id == 0})
		}
		return Verified{Pass: p, Err: fail(), Elapsed: time.Millisecond}
	case "rows":
		p := verify.Pass{Mode: verify.Score, Bonus: verify.Choice{Token: ids(a["bonus"])[0]}}
		for _, id := range ids(a["tokens"]) {
			p.Rows = append(p.Rows, verify.Row{{Token: id, Logprob: -.1}, {Token: id + 1, Logprob: -3}})
		}
		return Verified{Pass: p, Elapsed: time.Millisecond}
	case "stopstring":
		return StopFound{Tokens: num(a["at"])}
	}
	t.Fatalf("no such event: %q", word)
	return nil
}

func describe(s *Session, r Ready) string {
	var w []string
	for _, c := range r.Commits {
		w = append(w, fmt.Sprintf("commit %v", c.Tokens))
	}
	if r.Drop {
		w = append(w, "drop draft")
	}
	if r.Cut {
		w = append(w, "cut")
	}
	if r.Stream {
		w = append(w, fmt.Sprintf("stream after %d", len(s.Answer())))
		if r.Limit > 0 {
			w = append(w, fmt.Sprintf("for %d", r.Limit))
		}
	}
	if r.Draft > 0 {
		w = append(w, fmt.Sprintf("draft %d after %d", r.Draft, len(s.Answer())))
		if r.Bounded {
			w = append(w, "(target waits)")
		}
	}
	if r.Verify {
		w = append(w, fmt.Sprintf("verify %v after %d", r.Pass, len(s.Answer())))
	}
	if r.Done {
		w = append(w, fmt.Sprintf("done %s %v", s.finish, s.Answer()))
		if s.Err() != nil {
			w = append(w, "error: "+s.Err().Error())
		}
	}
	return strings.Join(w, " ")
}

func fields(s string) map[string]string {
	m := map[string]string{}
	for f := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(f, "=")
		m[k] = v
	}
	return m
}

func num(s string) int { n, _ := strconv.Atoi(s); return n }

func ids(s string) []vocab.Token {
	if s == "" {
		return nil
	}
	var v []vocab.Token
	for f := range strings.SplitSeq(s, ",") {
		v = append(v, vocab.Token(num(f)))
	}
	return v
}
