package vllm

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/valyala/fastjson"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

const (
	pathTokenize   = "/tokenize"
	pathDetokenize = "/detokenize"
	pathDerender   = "/v1/completions/derender"
)

// Decode implements speculate.Target. It is /detokenize of the tokens, which
// keeps special tokens, so that those are taken out before if the request wants
// them skipped: what is left is what the engine's own decoder is given with
// skip_special_tokens [s: transformers _decode, tokenizers DecodeStream].
//
// What is guaranteed: an id is asked about once in the endpoint's life, and
// text with a special token in it is never returned where it is to be skipped.
func (g *Generation) Decode(ctx context.Context, tokens []vocab.Token) (string, error) {
	if len(tokens) == 0 {
		return "", nil
	}
	if i := g.usable(tokens); i < len(tokens) {
		return "", fmt.Errorf("cannot decode token id %d: not in the vocabulary of %d", tokens[i], g.caps.VocabSize)
	}
	if g.r.Settings.SkipSpecial {
		if err := g.e.learn(ctx, tokens); err != nil {
			return "", err
		}
		tokens = g.e.specials.Load().without(tokens)
		if len(tokens) == 0 {
			return "", nil
		}
	}
	return g.e.detokenize(ctx, tokens, g.r.Header)
}

func (e *Endpoint) detokenize(ctx context.Context, tokens []vocab.Token, header [][2]string) (string, error) {
	w := e.take()
	defer e.give(w)
	b := append(append(w.body[:0], `{"model":`...), quoted(e.caps.Load().Model)...)
	b = vocab.AppendIDs(append(b, `,"tokens":[`...), tokens)
	w.body = append(b, `]}`...)
	v, err := e.call(ctx, w, pathDetokenize, header)
	if err != nil {
		return "", err
	}
	text := v.Get("prompt")
	if text == nil || text.Type() != fastjson.TypeString {
		return "", fmt.Errorf("cannot read the answer of %s: %w", pathDetokenize, errAnswer)
	}
	return string(text.GetStringBytes()), nil
}

// tokenize returns the ids that /tokenize gives for a request.
func (e *Endpoint) tokenize(ctx context.Context, body []byte, header [][2]string) ([]vocab.Token, error) {
	w := e.take()
	defer e.give(w)
	w.body = append(w.body[:0], body...)
	v, err := e.call(ctx, w, pathTokenize, header)
	if err != nil {
		return nil, err
	}
	ids, err := tokenIDs(nil, v.Get("tokens"), 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer of %s: %w", pathTokenize, err)
	}
	return ids, nil
}

// call posts w.body and parses the answer, which lives as long as w is held.
func (e *Endpoint) call(ctx context.Context, w *work, path string, header [][2]string) (*fastjson.Value, error) {
	a, err := e.c.Fetch(ctx, &engine.Request{Path: path, Header: header, Body: w.body}, w.answer[:0])
	if err != nil {
		return nil, err
	}
	w.answer = a.Body
	v, err := w.parse(0)
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer of %s: %w", path, err)
	}
	return v, nil
}

// specials remembers of the ids that were seen which are special tokens, and
// which of those end an answer. It holds at most the vocabulary.
type specials struct {
	mu   sync.RWMutex // guards known
	know map[vocab.Token]kind
}

type kind uint8

const (
	ordinary kind = iota + 1
	special       // not known whether it ends an answer
	passing       // special, and an answer goes on after it
	ending        // special, and ends an answer
)

func (s *specials) set(id vocab.Token, k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.know == nil {
		s.know = map[vocab.Token]kind{}
	}
	s.know[id] = k
}

func (s *specials) get(id vocab.Token) kind {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.know[id]
}

// unknown returns the ids that are not known, each once.
func (s *specials) unknown(ids []vocab.Token) []vocab.Token {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []vocab.Token
	for _, id := range ids {
		if s.know[id] == 0 && !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	return list
}

// without returns tokens without special ones, tokens itself if there are none.
func (s *specials) without(tokens []vocab.Token) []vocab.Token {
	s.mu.RLock()
	defer s.mu.RUnlock()
	isSpecial := func(id vocab.Token) bool { return s.know[id] >= special }
	if !slices.ContainsFunc(tokens, isSpecial) {
		return tokens
	}
	return slices.DeleteFunc(slices.Clone(tokens), isSpecial)
}

// maxLearn bounds what is asked about in one call.
const maxLearn = 1024

// learn finds out which of the ids are special: an id alone, shown with special
// tokens skipped, has no text then. Nor has the first part of a character, but
// that has one (U+FFFD) when nothing is skipped, and a special token its name.
func (e *Endpoint) learn(ctx context.Context, ids []vocab.Token) error {
	for part := range slices.Chunk(e.specials.Load().unknown(ids), maxLearn) {
		ask := e.forced
		if e.caps.Load().ScaleOut {
			ask = e.derender
		}
		texts, err := ask(ctx, part)
		if err != nil {
			return fmt.Errorf("cannot tell special tokens: %w", err)
		}
		for i, id := range part {
			k := ordinary
			if texts[i] == "" {
				name, err := e.detokenize(ctx, part[i:i+1], nil)
				if err != nil {
					return fmt.Errorf("cannot tell special tokens: %w", err)
				}
				if !blank(name) {
					k = special
				}
			}
			e.specials.Load().set(id, k)
		}
	}
	return nil
}

// blank tells whether a text holds nothing but parts of characters.
func blank(s string) bool {
	for _, r := range s {
		if r != '\uFFFD' {
			return false
		}
	}
	return true
}

// derender asks for the text of every id by itself, special tokens skipped, in
// one call that takes no engine step. (Of a run of tokens it skips the first
// and last only: measured.)
func (e *Endpoint) derender(ctx context.Context, ids []vocab.Token) ([]string, error) {
	w := e.take()
	defer e.give(w)
	b := append(append(w.body[:0], `{"model":`...), quoted(e.caps.Load().Model)...)
	b = append(b, `,"generate_responses":[{"request_id":"paceline","choices":[`...)
	for i, id := range ids {
		b = appendInt(append(b, `{"finish_reason":"length"`...), "index", i)
		b = append(vocab.AppendIDs(append(b, `,"token_ids":[`...), []vocab.Token{id}), `]},`...)
	}
	w.body = append(b[:len(b)-1], `]}]}`...)
	v, err := e.call(ctx, w, pathDerender, nil)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(ids))
	list := v.GetArray("choices")
	if len(list) != len(ids) {
		return nil, fmt.Errorf("cannot read the answer of %s: %w: %d choices of %d", pathDerender, errAnswer, len(list), len(ids))
	}
	for i, c := range list {
		text := c.Get("text")
		if c.GetInt("index") != i || text == nil || text.Type() != fastjson.TypeString {
			return nil, fmt.Errorf("cannot read the answer of %s: %w", pathDerender, errAnswer)
		}
		texts[i] = string(text.GetStringBytes())
	}
	return texts, nil
}

// forced asks for the text of every id by making the engine write it: a step
// each, once in the endpoint's life.
func (e *Endpoint) forced(ctx context.Context, ids []vocab.Token) ([]string, error) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		c, err := e.force(ctx, id, `,"ignore_eos":true`)
		if err != nil {
			return nil, err
		}
		texts[i] = c.Text
	}
	return texts, nil
}

// force makes the engine write one id.
func (e *Endpoint) force(ctx context.Context, id vocab.Token, more string) (verify.Choice, error) {
	w := e.take()
	defer e.give(w)
	one := []vocab.Token{id}
	b := append(append(w.body[:0], `{"model":`...), quoted(e.caps.Load().Model)...)
	b = vocab.AppendIDs(append(b, `,"prompt":[`...), one)
	b = vocab.AppendIDs(append(b, `],"allowed_token_ids":[`...), one)
	b = append(b, `],"max_tokens":1,"temperature":0,"repetition_penalty":1,"return_token_ids":true`...)
	w.body = append(append(b, more...), '}')
	v, err := e.call(ctx, w, pathCompletions, nil)
	if err != nil {
		return verify.Choice{}, err
	}
	list, err := choices(v, 1, 0)
	if err == nil && list[0].Token != id {
		err = fmt.Errorf("%w: token %d instead of the only allowed one", errAnswer, list[0].Token)
	}
	if err != nil {
		return verify.Choice{}, fmt.Errorf("cannot make the engine write token %d: %w", id, err)
	}
	return list[0], nil
}
