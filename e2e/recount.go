package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Tally is what a recording says about one generation.
type Tally struct {
	Prompt []int
	Answer []int // the committed tokens

	Plain    int // committed tokens that came from plain streaming
	Lone     int // committed tokens that came from verifications of no draft
	Rounds   int // verifications of a draft that yielded a verdict
	Drafted  int // tokens sent to be judged in them
	Accepted int // drafted tokens that the target agreed with and that are in the answer
	Agreed   int // drafted tokens that the target agreed with, also past the answer's end

	Score, FanOut int // Rounds by the call that brought the verdict
	OverDeep      int // score answers whose rows lay before the cache hit
	Refused       int // score requests answered with 4xx: NaN in such rows
}

// Recount follows one generation through the exchanges that a relay in front of
// the target and one in front of the draft recorded. Chat says which endpoint
// the client called, tokens how long the answer became according to its usage.
//
// Where a score request follows a stream that was cut, only the draft's request
// tells how much of the stream was committed: the proxy has to be one that cuts
// before it asks the draft (eager).
func Recount(exchanges []Exchange, chat bool, tokens int) (Tally, error) {
	w := walk{drafts: slices.DeleteFunc(slices.Clone(exchanges), func(e Exchange) bool { return e.Server != "draft" }), tokens: tokens}
	first := "/v1/completions"
	if chat {
		first = "/v1/chat/completions"
	}
	for i := range exchanges {
		e := &exchanges[i]
		if e.Server != "target" || e.Method != "POST" {
			continue
		}
		if w.context == nil && !strings.HasPrefix(e.Path, first) {
			continue
		}
		if w.context != nil && len(w.tail) == 0 && w.room() == 0 {
			break // what follows was sent before the stop string was found
		}
		if err := w.step(e); err != nil {
			return w.tally, fmt.Errorf("request %d to the target, %s: %w", i, e.Path, err)
		}
	}
	if w.context == nil {
		return w.tally, fmt.Errorf("no stream on %s", first)
	}
	return w.end()
}

// walk is the state of a recount.
type walk struct {
	tally  Tally
	drafts []Exchange
	tokens int

	context []int // prompt and committed tokens; nil before round 0
	tail    []int // what a stream delivered after them, of which the proxy may not have read all
	whole   bool  // the stream came to its own end: then it has
}

func (w *walk) step(e *Exchange) error {
	var q engineRequest
	if err := json.Unmarshal(e.Body, &q); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(e.Path, "/inference/v1/generate") && q.Sampling.PromptLogprobs != nil:
		return w.score(e, &q)
	case strings.HasPrefix(e.Path, "/inference/v1/generate"):
		return w.fanOut(e, [][]int{q.TokenIDs})
	case q.Stream:
		return w.stream(e, &q)
	case strings.HasPrefix(e.Path, "/v1/completions") && q.MaxTokens == 1:
		if p := q.prompts(); len(p) > 0 && hasPrefix(p[0], w.tally.Prompt) {
			return w.fanOut(e, p)
		}
	}
	return nil // /detokenize, a question about a token, …
}

func (w *walk) stream(e *Exchange, q *engineRequest) error {
	a, err := e.answer()
	if e.Gone && len(e.Response) == 0 { // cut before its first token
		a, err = engineAnswer{Choices: make([]engineChoice, 1)}, nil
	}
	if err != nil {
		return err
	}
	if w.context == nil {
		if a.Prompt == nil {
			return fmt.Errorf("the stream has no prompt_token_ids")
		}
		w.tally.Prompt, w.context = a.Prompt, slices.Clone(a.Prompt)
	} else {
		p := q.prompts()
		if len(p) != 1 {
			return fmt.Errorf("a stream of %d prompts", len(p))
		}
		if err := w.settle(p[0]); err != nil {
			return err
		}
	}
	w.tail, w.whole = a.Choices[0].TokenIDs, a.Choices[0].Finish != "" && !e.Gone
	return nil
}

// settle learns how much was committed when a request was sent: context.
func (w *walk) settle(context []int) error {
	n := len(context) - len(w.context)
	if n < 0 || n > len(w.tail) || !slices.Equal(context[:len(w.context)], w.context) || !slices.Equal(context[len(w.context):], w.tail[:n]) {
		return fmt.Errorf("the request continues %v, committed are %v and at most %v", last(context), last(w.context), w.tail)
	}
	n = min(n, w.room())
	w.tally.Plain += n
	w.context, w.tail = slices.Clone(context[:len(w.context)+n]), nil
	return nil
}

// room is how many tokens of the answer are still to come.
func (w *walk) room() int { return max(0, len(w.tally.Prompt)+w.tokens-len(w.context)) }

func last(tokens []int) []int { return tokens[max(0, len(tokens)-12):] }

func (w *walk) score(e *Exchange, q *engineRequest) error {
	if err := w.settleByDraft(e, q.TokenIDs); err != nil || w.room() == 0 {
		return err
	}
	c := len(w.context)
	if len(q.TokenIDs) < c || !slices.Equal(q.TokenIDs[:c], w.context) {
		return fmt.Errorf("the request begins with %v, committed are %v", last(q.TokenIDs), last(w.context))
	}
	draft := q.TokenIDs[c:]
	if e.Status != 200 {
		if e.Status/100 == 4 {
			w.tally.Refused++
		}
		return nil
	}
	if e.Gone {
		return nil
	}
	a, err := e.answer()
	if err != nil {
		return err
	}
	cached := a.Usage.Details.Cached
	if cached == nil || *cached > c-1 {
		w.tally.OverDeep++
		return nil
	}
	return w.judgeRows(a, draft)
}

func (w *walk) judgeRows(a engineAnswer, draft []int) error {
	if len(a.Rows) < len(draft) || len(a.Choices) != 1 || len(a.Choices[0].TokenIDs) == 0 {
		return fmt.Errorf("%d rows for %d drafted tokens, %d choices", len(a.Rows), len(draft), len(a.Choices))
	}
	choices, finishes := make([]int, 0, len(draft)+1), make([]string, len(draft)+1)
	for _, r := range a.Rows[len(a.Rows)-len(draft):] {
		best, err := r.best()
		if err != nil {
			return err
		}
		choices = append(choices, best)
	}
	w.commit(draft, append(choices, a.Choices[0].TokenIDs[0]), finishes, true)
	return nil
}

// settleByDraft finds the committed tokens of a score request that follows a
// stream: the draft was asked to continue exactly them.
func (w *walk) settleByDraft(e *Exchange, tokens []int) error {
	if len(w.tail) == 0 {
		return nil
	}
	if all := slices.Concat(w.context, w.tail); w.whole && hasPrefix(tokens, all) {
		return w.settle(all)
	}
	for _, d := range slices.Backward(w.drafts) {
		if d.Began.After(e.Began) {
			continue
		}
		var q engineRequest
		if json.Unmarshal(d.Body, &q) != nil {
			continue
		}
		a, err := d.answer()
		for _, p := range q.prompts() {
			if err != nil || len(a.Choices) == 0 || len(p) > len(tokens) || !slices.Equal(p, tokens[:len(p)]) {
				continue
			}
			if proposed := a.Choices[0].ids(); hasPrefix(proposed, tokens[len(p):]) {
				return w.settle(p)
			}
		}
	}
	return fmt.Errorf("no draft was asked for what it sends: %v", last(tokens))
}

func hasPrefix(tokens, prefix []int) bool {
	return len(prefix) <= len(tokens) && slices.Equal(tokens[:len(prefix)], prefix)
}

func (w *walk) fanOut(e *Exchange, prompts [][]int) error {
	if err := w.settle(prompts[0]); err != nil || w.room() == 0 {
		return err
	}
	if e.Status != 200 || e.Gone {
		return nil
	}
	draft := prompts[len(prompts)-1][len(w.context):]
	for i, p := range prompts {
		if len(p) != len(w.context)+i || !hasPrefix(prompts[len(prompts)-1], p) {
			return fmt.Errorf("prompt %d does not extend the one before it by a token", i)
		}
	}
	a, err := e.answer()
	if err != nil {
		return err
	}
	if len(a.Choices) != len(prompts) {
		return fmt.Errorf("%d choices for %d prompts", len(a.Choices), len(prompts))
	}
	var choices []int
	var finishes []string
	for _, c := range a.Choices {
		if len(c.TokenIDs) != 1 {
			return fmt.Errorf("choice %d has tokens %v", c.Index, c.TokenIDs)
		}
		choices, finishes = append(choices, c.TokenIDs[0]), append(finishes, c.Finish)
	}
	w.commit(draft, choices, finishes, false)
	return nil
}

// commit walks a verdict: the target's choices as far as the draft foretold
// them, and the first that it did not.
func (w *walk) commit(draft, choices []int, finishes []string, byRows bool) {
	agreed, ended := 0, false
	for agreed < len(draft) && draft[agreed] == choices[agreed] && !ended {
		ended = finishes[agreed] == "stop"
		agreed++
	}
	verdict := choices[:agreed]
	if !ended {
		verdict = choices[:agreed+1]
	}
	room := w.room()
	w.context = append(w.context, verdict[:min(room, len(verdict))]...)
	if len(draft) == 0 {
		w.tally.Lone += min(room, 1)
		return
	}
	w.tally.Rounds++
	if byRows {
		w.tally.Score++
	} else {
		w.tally.FanOut++
	}
	w.tally.Drafted += len(draft)
	w.tally.Agreed += agreed
	w.tally.Accepted += min(agreed, room)
}

func (w *walk) end() (Tally, error) {
	rest := w.room()
	if rest > len(w.tail) {
		return w.tally, fmt.Errorf("usage says %d tokens, the recording has %d and at most %d more", w.tokens, len(w.context)-len(w.tally.Prompt), len(w.tail))
	}
	if err := w.settle(slices.Concat(w.context, w.tail[:rest])); err != nil {
		return w.tally, err
	}
	w.tally.Answer = w.context[len(w.tally.Prompt):]
	return w.tally, nil
}
