package vllm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/valyala/fastjson"

	"paceline/engine"
	"paceline/verify"
	"paceline/vocab"
)

const (
	pathTokenize   = "/tokenize"
	pathDetokenize = "/detokenize"
)

// Decode implements speculate.Target. It is /detokenize of the tokens, which
// keeps special tokens, so that those are taken out before if the request wants
// them skipped: what is left is what the engine's own decoder works on [s:
// tokenizers DecodeStream leaves out added tokens marked special].
//
// What is guaranteed: a special token never shows where it is to be skipped, if
// its text holds one of markup's characters, as those of all common models do.
// (Nothing over HTTP lists them. /derender does not serve: it skips only the
// named ones, here one of five.)
func (g *Generation) Decode(ctx context.Context, tokens []vocab.Token) (string, error) {
	if len(tokens) == 0 {
		return "", nil
	}
	if i := g.usable(tokens); i < len(tokens) {
		return "", fmt.Errorf("cannot decode token id %d: not in the vocabulary of %d", tokens[i], g.caps.VocabSize)
	}
	if !g.r.Settings.SkipSpecial {
		return g.e.detokenize(ctx, tokens, g.r.Header)
	}
	known := g.e.specials.Load()
	shown := known.without(tokens)
	if len(shown) == 0 {
		return "", nil
	}
	text, err := g.e.detokenize(ctx, shown, g.r.Header)
	if err != nil {
		return "", err
	}
	if err := g.e.settle(ctx, known.unknown(shown), text); err != nil {
		return "", err
	}
	if rest := known.without(shown); len(rest) == 0 {
		return "", nil
	} else if len(rest) < len(shown) { // the first time that these specials are seen
		return g.e.detokenize(ctx, rest, g.r.Header)
	}
	return text, nil
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

// markup are the characters by which a token's text may be that of a special
// token: <|im_end|>, </s>, [INST], <｜User｜>, …
const markup = "<>[]|｜"

// learn finds out which of the ids are special. Texts without markup settle
// most of them in one call, which takes no engine step; of a token with markup
// the engine is asked: made to write it with special tokens skipped, it shows
// no text if it is one. That is a step, once in the endpoint's life for each.
func (e *Endpoint) learn(ctx context.Context, ids []vocab.Token) error {
	ids = e.specials.Load().unknown(ids)
	if len(ids) == 0 {
		return nil
	}
	text, err := e.detokenize(ctx, ids, nil)
	if err != nil {
		return fmt.Errorf("cannot tell special tokens: %w", err)
	}
	return e.settle(ctx, ids, text)
}

// settle does that for ids that are not known, given a text that holds those
// of all of them.
func (e *Endpoint) settle(ctx context.Context, ids []vocab.Token, text string) error {
	known := e.specials.Load()
	if !strings.ContainsAny(text, markup) {
		for _, id := range ids {
			known.set(id, ordinary)
		}
		return nil
	}
	failed := make([]error, len(ids))
	slots := make(chan struct{}, maxLooks)
	var wait sync.WaitGroup
	for i, id := range ids {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					failed[i] = fmt.Errorf("panic: %v", p)
				}
				<-slots
			}()
			var k kind
			if k, failed[i] = e.kindOf(ctx, id); failed[i] == nil {
				known.set(id, k)
			}
		})
	}
	wait.Wait()
	for _, err := range failed {
		if err != nil {
			return fmt.Errorf("cannot tell special tokens: %w", err)
		}
	}
	return nil
}

// maxLooks is how many ids are looked at at a time: the engine writes them in
// one step then.
const maxLooks = 16

// kindOf looks at one id.
func (e *Endpoint) kindOf(ctx context.Context, id vocab.Token) (kind, error) {
	text, err := e.detokenize(ctx, []vocab.Token{id}, nil)
	if err != nil || !strings.ContainsAny(text, markup) || strings.Contains(text, "\uFFFD") {
		return ordinary, err // a part of a character shows no text either
	}
	c, err := e.force(ctx, id, `,"ignore_eos":true,"skip_special_tokens":true`)
	if err != nil || c.Text != "" {
		return ordinary, err
	}
	return special, nil
}

// note takes what an engine's own text tells for nothing: a token that came
// alone and with text is no special token.
func (s *specials) note(tokens []vocab.Token, text string) {
	if len(tokens) == 1 && text != "" && s.get(tokens[0]) == 0 {
		s.set(tokens[0], ordinary)
	}
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
