package vllm

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/valyala/fastjson"

	"paceline/verify"
	"paceline/vocab"
)

// Answers of the rounds. Most of their bytes are of no use: a fan-out repeats
// every prompt in its answer (prompt_token_ids, not to be switched off), a
// score lists a row for every token of the context. So the answer is pruned of
// them before it is parsed; the parser then sees a few hundred bytes.

var (
	keyStart      = []byte(`"prompt_`)
	keyPromptIDs  = []byte(`"prompt_token_ids":[`)
	keyPromptRows = []byte(`"prompt_logprobs":[`)
	rowBorder     = []byte(`}},{`)
)

// errAnswer says that an answer is not what was asked for. It is the server's
// fault, not a matter of the cache's state.
var errAnswer = errors.New("the answer makes no sense")

// prune appends body to dst without the contents of prompt_token_ids and, of
// prompt_logprobs, with the last rows only. An unescaped quote cannot stand
// inside a JSON text, so what looks like such a key is one.
func prune(dst, body []byte, rows int) []byte {
	for {
		i := bytes.Index(body, keyStart)
		if i < 0 {
			return append(dst, body...)
		}
		switch rest := body[i:]; {
		case bytes.HasPrefix(rest, keyPromptIDs):
			i += len(keyPromptIDs)
			dst, body = append(dst, body[:i]...), body[i:]
			if n := listEnd(body); bytes.IndexByte(body[:n], '"') < 0 && bytes.IndexByte(body[:n], '[') < 0 {
				body = body[n:]
			}
		case bytes.HasPrefix(rest, keyPromptRows):
			i += len(keyPromptRows)
			dst, body = append(dst, body[:i]...), body[i:]
			n := listEnd(body)
			dst, body = append(dst, lastRows(body[:n], rows)...), body[n:]
		default:
			i += len(keyStart)
			dst, body = append(dst, body[:i]...), body[i:]
		}
	}
}

// listEnd returns where a list without lists and texts in it ends.
func listEnd(b []byte) int {
	return max(bytes.IndexByte(b, ']'), 0)
}

// lastRows returns the last n rows of prompt_logprobs, all of them if their
// borders are not where compact JSON has them.
func lastRows(list []byte, n int) []byte {
	at := len(list)
	for range n {
		i := bytes.LastIndex(list[:at], rowBorder)
		if i < 0 {
			return list
		}
		at = i + 2
	}
	if n == 0 {
		return nil
	}
	return list[at+1:]
}

// parse prunes and parses w.answer. Where the answer is not written as compactly
// as vLLM does it, pruning may break it: then it is parsed as it is.
func (w *work) parse(rows int) (*fastjson.Value, error) {
	w.slim = prune(w.slim[:0], w.answer, rows)
	v, err := w.parser.ParseBytes(w.slim)
	if err != nil {
		v, err = w.parser.ParseBytes(w.answer)
	}
	return v, err
}

// countRows counts the rows of prompt_logprobs in an answer, those that are
// null included; whole tells whether the list was found.
func countRows(body []byte) (n int, found bool) {
	i := bytes.Index(body, keyPromptRows)
	if i < 0 {
		return 0, false
	}
	list := body[i+len(keyPromptRows):]
	list = list[:listEnd(list)]
	if len(list) == 0 {
		return 0, true
	}
	return 1 + bytes.Count(list, rowBorder) + bytes.Count(list, []byte("null,")), true
}

// inVocabulary tells whether an id may be sent to an engine.
func inVocabulary(id int64, size int) bool {
	return id >= 0 && id <= math.MaxInt32 && (size == 0 || id < int64(size))
}

// tokenIDs reads a list of ids.
func tokenIDs(dst []vocab.Token, v *fastjson.Value, vocabSize int) ([]vocab.Token, error) {
	list, err := v.Array()
	if err != nil {
		return nil, fmt.Errorf("%w: token ids are missing", errAnswer)
	}
	for _, e := range list {
		id, err := e.Int64()
		if err != nil || !inVocabulary(id, vocabSize) {
			return nil, fmt.Errorf("%w: token id %s", errAnswer, e)
		}
		dst = append(dst, vocab.Token(id))
	}
	return dst, nil
}

// cachedTokens reads usage.prompt_tokens_details.cached_tokens, -1 if the
// server does not say.
func cachedTokens(v *fastjson.Value) int {
	c := v.Get("usage", "prompt_tokens_details", "cached_tokens")
	if c == nil || c.Type() != fastjson.TypeNumber {
		return -1
	}
	return c.GetInt()
}

// choice reads one generated token, of /v1/completions or /inference/v1/generate.
func choice(v *fastjson.Value, vocabSize int) (verify.Choice, error) {
	var c verify.Choice
	var one [1]vocab.Token
	ids, err := tokenIDs(one[:0], v.Get("token_ids"), vocabSize)
	if err != nil {
		return c, err
	}
	if len(ids) != 1 {
		return c, fmt.Errorf("%w: %d tokens where one was asked for", errAnswer, len(ids))
	}
	c.Token = ids[0]
	if t := v.Get("text"); t != nil && t.Type() == fastjson.TypeString {
		c.Text, c.HasText = string(t.GetStringBytes()), true
	}
	switch finish := v.GetStringBytes("finish_reason"); string(finish) {
	case "length":
	case "stop":
		c.Stop = true
		c.StopReason, c.HasReason = stopReason(v)
	default:
		return c, fmt.Errorf("%w: finish reason %q", errAnswer, finish)
	}
	return c, nil
}

// stopReason reads the id of the stop token that the engine named.
func stopReason(v *fastjson.Value) (vocab.Token, bool) {
	r := v.Get("stop_reason")
	if r == nil || r.Type() != fastjson.TypeNumber {
		return 0, false
	}
	id, err := r.Int64()
	return vocab.Token(id), err == nil && inVocabulary(id, 0)
}

// choices reads the n choices of a fan-out, in the order of their index.
func choices(v *fastjson.Value, n, vocabSize int) ([]verify.Choice, error) {
	list := v.GetArray("choices")
	if len(list) != n {
		return nil, fmt.Errorf("%w: %d choices for %d prompts", errAnswer, len(list), n)
	}
	all := make([]verify.Choice, n)
	seen := make([]bool, n)
	for _, e := range list {
		i := -1
		if x := e.Get("index"); x != nil && x.Type() == fastjson.TypeNumber {
			i = x.GetInt()
		}
		if i < 0 || i >= n || seen[i] {
			return nil, fmt.Errorf("%w: choice index %s", errAnswer, e.Get("index"))
		}
		seen[i] = true
		c, err := choice(e, vocabSize)
		if err != nil {
			return nil, err
		}
		all[i] = c
	}
	return all, nil
}

// untrusted is why the rows of a score cannot be used; fan-out answers then.
type untrusted string

func (u untrusted) Error() string { return "rows cannot be used: " + string(u) }

const (
	overDeep  untrusted = "over_deep"  // the cache was hit past the context: rows were not computed
	shortRows untrusted = "short_rows" // fewer rows than drafted tokens
	nanRows   untrusted = "nan_rows"   // uninitialised memory held NaN, which JSON cannot say
	tiedRows  untrusted = "tied_rows"  // more tokens may share the maximum than are listed
	wrongRows untrusted = "wrong_rows" // a row is not of its token
)

// rows reads the rows that judge draft: the last len(draft) of list, each of
// which begins with its token's own entry. top is how many of the most likely
// tokens were asked for.
func rows(list []*fastjson.Value, draft []vocab.Token, vocabSize, top int) ([]verify.Row, error) {
	if len(list) < len(draft) {
		return nil, shortRows
	}
	list = list[len(list)-len(draft):]
	all := make([]verify.Row, len(draft))
	entries := make([]verify.Entry, 0, len(draft)*(top+1))
	for i, v := range list {
		from := len(entries)
		o, err := v.Object()
		if err != nil {
			return nil, wrongRows
		}
		bad := false
		o.Visit(func(key []byte, e *fastjson.Value) {
			id, err := strconv.ParseInt(string(key), 10, 64)
			p := e.Get("logprob")
			if err != nil || !inVocabulary(id, vocabSize) || p == nil || p.Type() != fastjson.TypeNumber {
				bad = true
				return
			}
			entries = append(entries, verify.Entry{Token: vocab.Token(id), Logprob: p.GetFloat64()})
		})
		all[i] = entries[from:len(entries):len(entries)]
		if bad || len(all[i]) == 0 || all[i][0].Token != draft[i] {
			return nil, wrongRows
		}
		if err := checkRow(all[i], top); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// checkRow looks whether a row can be a distribution, and whether its maximum
// is known: with every listed token at the maximum, one that is not listed may
// share it, and the lowest id wins.
func checkRow(r verify.Row, top int) error {
	best, ties, sum := math.Inf(-1), 0, 0.0
	for _, e := range r {
		sum += math.Exp(e.Logprob)
		switch {
		case e.Logprob > best:
			best, ties = e.Logprob, 1
		case e.Logprob == best:
			ties++
		}
	}
	switch {
	case !(best <= 1e-3) || !(sum <= 1.01):
		return wrongRows
	case ties >= top:
		return tiedRows
	}
	return nil
}
