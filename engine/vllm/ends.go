package vllm

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"paceline/verify"
	"paceline/vocab"
)

// endTexts are the special tokens by which common models end an answer. What is
// one token of the vocabulary is a candidate; the engine decides.
var endTexts = []string{
	"</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>", "<eos>",
	"<|end|>", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>", "<|EOT|>", "<|end_of_role|>", "<|user|>", "<|observation|>",
	"<|END_OF_TURN_TOKEN|>", "<|eos|>", "<|eot|>", "[EOS]", "<turn|>", "[e~[", "<|endofprompt|>", "<|end_of_sentence|>",
	"<|system|>", "<|assistant|>",
}

// maxEnds bounds the candidates that are tried, at an engine step each.
const maxEnds = 32

// endIDs finds the ids that end an answer. No endpoint tells them: /render
// leaves out what it takes from generation_config. So candidates are gathered,
// and each is tried: the engine is made to write it, and ends with "stop" or
// does not.
//
// Candidates: the configuration's, what the template writes after an
// assistant's turn, well-known texts, and if none of them ends an answer the
// last id of a short one.
func (p *probing) endIDs(ctx context.Context) error {
	if !p.caps.TokenPrompts {
		p.eos = "token prompts are not available"
		return nil
	}
	candidates := slices.Clone(p.options.EOS)
	turn, err := p.afterTurn(ctx)
	if err != nil {
		return err
	}
	candidates = append(candidates, turn...)
	for _, text := range endTexts {
		ids, err := p.tokenize(ctx, []byte(p.named(`"prompt":%s,"add_special_tokens":false`, quoted(text))), nil)
		if err != nil {
			if _, err = refusal(err); err != nil {
				return err
			}
		}
		if len(ids) == 1 {
			candidates = append(candidates, ids[0])
		}
	}
	if err := p.tryEnds(ctx, candidates); err != nil || len(p.caps.EOS) > 0 {
		return err
	}
	last, err := p.lastOfAnswer(ctx)
	if err != nil {
		return err
	}
	if p.eos == "" {
		p.eos = "none of the candidates ends an answer"
	}
	return p.tryEnds(ctx, last)
}

func (p *probing) tryEnds(ctx context.Context, candidates []vocab.Token) error {
	tried := map[vocab.Token]bool{}
	for _, id := range candidates {
		if tried[id] || len(tried) == maxEnds || !inVocabulary(int64(id), p.caps.VocabSize) {
			continue
		}
		tried[id] = true
		c, err := p.force(ctx, id, "")
		why, err := refusal(err)
		switch {
		case err != nil:
			return err
		case why != "":
			p.eos = why
		case c.Stop && !slices.Contains(p.caps.EOS, id):
			p.caps.EOS = append(p.caps.EOS, id)
			if c.HasReason {
				p.caps.NamedEOS = append(p.caps.NamedEOS, id)
			}
		}
	}
	slices.Sort(p.caps.EOS)
	return nil
}

// afterTurn returns what the template writes after an assistant's turn: what a
// finished conversation has more than one whose last message is to be continued.
func (p *probing) afterTurn(ctx context.Context) ([]vocab.Token, error) {
	const messages = `"messages":[{"role":"user","content":"Say hello."},{"role":"assistant","content":"hello"}],"add_generation_prompt":false`
	open, err := p.tokenize(ctx, []byte(p.named(messages+`,"continue_final_message":true`)), nil)
	if err == nil {
		var whole []vocab.Token
		if whole, err = p.tokenize(ctx, []byte(p.named(messages)), nil); err == nil && len(whole) > len(open) && slices.Equal(whole[:len(open)], open) {
			return whole[len(open):min(len(whole), len(open)+3)], nil
		}
	}
	_, err = refusal(err)
	return nil, err
}

// lastOfAnswer lets the model finish a short answer.
func (p *probing) lastOfAnswer(ctx context.Context) ([]vocab.Token, error) {
	v, _, err := p.get(ctx, pathChat, p.named(`"messages":[{"role":"user","content":"Reply with the single word OK."}],"max_tokens":24,"temperature":0,"return_token_ids":true`))
	if err != nil || v.Get("choices.0.finish_reason").Str != "stop" {
		return nil, err
	}
	all := v.Get("choices.0.token_ids").Array()
	if len(all) == 0 || all[len(all)-1].Type != gjson.Number {
		return nil, nil
	}
	return []vocab.Token{vocab.Token(all[len(all)-1].Int())}, nil
}

// unknownEnd: a row's maximum is a special token that ends an answer and that
// the generation does not know of; the engine's own choices say so.
const unknownEnd untrusted = "unknown_end"

// knowsEnds makes sure that no row's maximum is an end of the answer that the
// generation does not know of. Each id is looked at once in the endpoint's
// life, special tokens twice. An end that is an ordinary token has to be among
// the probe's candidates or configured.
func (g *Generation) knowsEnds(ctx context.Context, rows []verify.Row) error {
	if g.r.Settings.IgnoreEOS {
		return nil
	}
	ids := make([]vocab.Token, 0, 16)
	for _, r := range rows {
		best, _ := r.Argmax()
		if !slices.Contains(g.r.Settings.EOS, best) && !slices.Contains(g.r.Settings.StopTokenIDs, best) {
			ids = append(ids, best)
		}
	}
	known := g.e.specials.Load()
	err := g.e.learn(ctx, ids)
	for _, id := range ids {
		if err == nil && known.get(id) == special {
			err = g.e.isEnd(ctx, id)
		}
		if known.get(id) == ending {
			return unknownEnd
		}
	}
	if err != nil && ctx.Err() == nil {
		return unknownEnd // fan-out needs to know nothing
	}
	return err
}

// isEnd tries whether a special token ends an answer, and tells later
// generations if it does.
func (e *Endpoint) isEnd(ctx context.Context, id vocab.Token) error {
	c, err := e.force(ctx, id, "")
	if err != nil {
		return fmt.Errorf("cannot tell whether token %d ends an answer: %w", id, err)
	}
	if !c.Stop {
		e.specials.Load().set(id, passing)
		return nil
	}
	e.specials.Load().set(id, ending)
	for {
		old := e.caps.Load()
		if slices.Contains(old.EOS, id) {
			return nil
		}
		caps := *old
		caps.EOS = append(slices.Clone(old.EOS), id)
		if c.HasReason {
			caps.NamedEOS = append(slices.Clone(old.NamedEOS), id)
		}
		slices.Sort(caps.EOS)
		if e.caps.CompareAndSwap(old, &caps) {
			return nil
		}
	}
}
