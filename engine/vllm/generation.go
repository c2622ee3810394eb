package vllm

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

// Generation is one answer on the endpoint. One goroutine at a time uses
// Stream and Verify; Decode may be called beside them.
type Generation struct {
	e    *Endpoint
	caps *engine.Capabilities // of the moment the generation began
	r    Request

	// The client's fields, raw and each with a comma behind: those that go out
	// with round 0, those that go along with every later request on
	// /v1/completions, and with a score beside its sampling parameters.
	first, later, scoring []byte
	// rowsBlind: the request has a field that rows do not show the effect of.
	rowsBlind bool

	prompt []vocab.Token // known from the first chunk of round 0 on
	// ids holds prompt and answer in decimal, separated by commas: it grows by
	// what is committed and is copied into every request. It ends behind the
	// prompt at promptEnd; done tokens of the answer are in it.
	ids       []byte
	promptEnd int
	done      int
}

// Generate binds a request to the endpoint.
func (e *Endpoint) Generate(r Request) *Generation {
	g := &Generation{e: e, caps: e.caps.Load(), r: r}
	table := CompletionFields
	if r.Chat {
		table = ChatFields
	}
	gjson.ParseBytes(r.Body).ForEach(func(key, value gjson.Result) bool {
		name := key.String()
		if !ownFields[name] {
			g.first = appendField(g.first, key.Raw, value.Raw)
		}
		if value.Type == gjson.Null {
			return true
		}
		if roundFields[name] {
			g.later = appendField(g.later, key.Raw, value.Raw)
		}
		if scoreFields[name] {
			g.scoring = appendField(g.scoring, key.Raw, value.Raw)
		}
		if row := table[name]; row.Rule == engine.Sampled && !row.NeutralAt(value) {
			g.rowsBlind = true
		}
		return true
	})
	return g
}

func appendField(dst []byte, key, value string) []byte {
	dst = append(append(dst, key...), ':')
	return append(append(dst, value...), ',')
}

// learn takes the rendered prompt.
func (g *Generation) learn(prompt []vocab.Token) {
	g.prompt = prompt
	g.ids = vocab.AppendIDs(g.ids[:0], prompt)
	g.promptEnd, g.done = len(g.ids), 0
}

// follow brings ids up to the answer so far, of which it formats only what is
// new: committed tokens never change.
func (g *Generation) follow(after []vocab.Token) error {
	if g.prompt == nil {
		return fmt.Errorf("cannot go on: the prompt's token ids are not known")
	}
	if len(after) < g.done {
		g.ids, g.done = g.ids[:g.promptEnd], 0
	}
	for _, id := range after[g.done:] {
		if !inVocabulary(int64(id), g.caps.VocabSize) {
			return fmt.Errorf("cannot go on after token id %d: not in the vocabulary of %d", id, g.caps.VocabSize)
		}
		if len(g.ids) > 0 {
			g.ids = append(g.ids, ',')
		}
		g.ids = strconv.AppendInt(g.ids, int64(id), 10)
	}
	g.done = len(after)
	return nil
}

// room is how many tokens may still be generated, 0 if nothing bounds them.
func (g *Generation) room(after int) (int, error) {
	const none = math.MaxInt
	n := none
	if limit := g.r.Settings.MaxTokens; limit > 0 {
		n = limit - after
	}
	if whole := g.caps.MaxModelLen; whole > 0 && g.prompt != nil {
		n = min(n, whole-len(g.prompt)-after)
	}
	switch {
	case n <= 0:
		return 0, fmt.Errorf("cannot go on: after %d tokens there is no room for more", after)
	case n == none:
		return 0, nil
	}
	return n, nil
}

// minTokens is what is left of min_tokens, at most limit: the engine refuses
// more than max_tokens, and masks the ends of an answer until then either way.
func (g *Generation) minTokens(after, limit int) int {
	n := max(g.r.Settings.MinTokens-after, 0)
	if limit > 0 {
		n = min(n, limit)
	}
	return n
}

// begin appends the start of a request's body.
func (g *Generation) begin(b []byte) []byte {
	return append(append(append(b, `{"model":`...), quoted(g.caps.Model)...), ',')
}

// appendInt appends `,"name":n`.
func appendInt(b []byte, name string, n int) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendInt(b, int64(n), 10)
}

// usable returns how many tokens of a draft may be sent: an id that is not in
// the vocabulary ends it (such an id can end a server).
func (g *Generation) usable(draft []vocab.Token) int {
	for i, id := range draft {
		if !inVocabulary(int64(id), g.caps.VocabSize) {
			return i
		}
	}
	return len(draft)
}

// Verify implements speculate.Target.
func (g *Generation) Verify(ctx context.Context, after, draft []vocab.Token) (verify.Pass, error) {
	if err := g.follow(after); err != nil {
		return verify.Pass{}, err
	}
	if whole := g.caps.MaxModelLen; whole > 0 && len(g.prompt)+len(after)+len(draft)+1 > whole {
		return verify.Pass{}, fmt.Errorf("cannot verify %d tokens: prompt and answer would exceed %d tokens", len(draft), whole)
	}
	n := g.usable(draft)
	if n < len(draft) || n == 0 || !g.rowsJudge(len(after)) {
		return g.fanOut(ctx, after, draft, n)
	}
	pass, err := g.score(ctx, after, draft)
	why, ok := err.(untrusted)
	if !ok {
		return pass, err
	}
	calls := pass.Calls
	pass, err = g.fanOut(ctx, after, draft, n)
	pass.Fallback, pass.Calls = string(why), pass.Calls+calls
	return pass, err
}

// rowsJudge tells whether rows say all about the next tokens: greedy, nothing
// that reshapes logits, and min_tokens behind.
func (g *Generation) rowsJudge(after int) bool {
	s := &g.r.Settings
	return g.r.Mode == verify.Score && g.caps.Can(verify.Score) && s.Known && s.Temperature == 0 &&
		!g.rowsBlind && after >= s.MinTokens
}
