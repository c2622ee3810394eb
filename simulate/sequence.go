package simulate

import (
	"math/rand/v2"
	"slices"

	"paceline/simulate/batch"
	"paceline/simulate/lm"
	"paceline/simulate/sampling"
	"paceline/simulate/vllm"
	"paceline/vocab"
)

// sequence is one answer in the making. The loop's goroutine owns it from
// submit on.
type sequence struct {
	g      *generation
	index  int // of the choice
	tok    *lm.Tokenizer
	prompt []vocab.Token
	salt   string
	s      *vllm.Sampling
	limit  int // new tokens at most
	eos    vocab.Token
	hasEOS bool
	stops  []vocab.Token // further ids that end it
	banned []vocab.Token // while there are fewer than MinTokens
	bad    [][]vocab.Token
	params sampling.Params
	noise  *rand.Rand // the request's own, on V1
	text   *text

	q      *batch.Sequence
	cache  *lm.Cache // nil before the first step; may lag behind q.Computed when logits come from the memo
	keys   []contextKey
	output []vocab.Token
	from   int        // prompt tokens that the admission found in the cache
	rows   []vllm.Row // of the prompt: the first is about token from+1
	scores [][]float32
	held   delta       // not handed out yet, see StreamInterval
	drawn  vocab.Token // in the step that runs
	row    vllm.Row    // its log-probabilities
	lying  int         // offset that a lying engine adds to what it draws
	ended  bool
}

// params is what the sampler has to know of the request.
func newParams(s *vllm.Sampling) sampling.Params {
	p := sampling.Params{
		Temperature: s.Temperature, TopP: s.TopP, MinP: s.MinP, TopK: max(0, s.TopK),
		RepetitionPenalty: s.RepetitionPenalty, PresencePenalty: s.PresencePenalty, FrequencyPenalty: s.FrequencyPenalty,
	}
	if s.AllowedTokenIDs != nil {
		p.AllowedTokenIDs = vllm.Tokens(s.AllowedTokenIDs)
	}
	if len(s.LogitBias) > 0 {
		p.LogitBias = make(map[vocab.Token]float64, len(s.LogitBias))
		for id, b := range s.LogitBias {
			p.LogitBias[vocab.Token(id)] = b
		}
	}
	return p
}

// draw samples a token after the sequence as it is.
func (q *sequence) draw(logits []float32, u float64) vocab.Token {
	p := q.params
	p.BannedTokenIDs = q.bans()
	dist := sampling.Distribution(logits, p, q.prompt, q.output)
	if dist == nil {
		return 0 // the first of nothing but −∞
	}
	return sampling.Draw(dist, u)
}

// bans are the ids that may not come next: ends of the answer while it is too
// short, and last tokens of bad words whose beginning was just written.
func (q *sequence) bans() []vocab.Token {
	var bans []vocab.Token
	if len(q.output) < q.s.MinTokens {
		bans = append(bans, q.banned...)
	}
	for _, word := range q.bad {
		n := len(word) - 1
		if n <= len(q.output) && slices.Equal(word[:n], q.output[len(q.output)-n:]) {
			bans = append(bans, word[n])
		}
	}
	return bans
}

// accept appends what was drawn and says whether and how the answer ends.
func (q *sequence) accept() delta {
	t := q.drawn
	q.output = append(q.output, t)
	d := delta{index: q.index, tokens: []vocab.Token{t}}
	if q.row != nil {
		d.rows = []vllm.Row{q.row}
	}
	switch {
	case q.hasEOS && t == q.eos:
		d.finish = "stop"
	case slices.Contains(q.stops, t):
		d.finish, d.reason = "stop", t
	case len(q.output) >= q.limit:
		d.finish = "length"
	}
	if stop, found := q.text.add(t, d.finish == "stop"); found {
		d.finish, d.reason = "stop", stop
	}
	d.text = q.text.next(d.finish != "")
	return d
}

// logprobRow lists the log-probabilities of a position: the actual token, then
// the n most likely ones (−1: all). ids, if not nil, are listed instead of
// those.
func logprobRow(logits []float32, actual vocab.Token, n int, ids []int64) vllm.Row {
	if n == -1 {
		n = len(logits)
	}
	logprobs := sampling.Logprobs(logits)
	row := vllm.Row{{ID: int64(actual), Logprob: float64(logprobs[actual]), Rank: int64(sampling.Rank(logits, actual))}}
	if ids != nil {
		for i, id := range ids {
			row = append(row, vllm.Entry{ID: id, Logprob: float64(logprobs[id]), Rank: int64(i + 1)})
		}
		return row
	}
	for _, c := range sampling.TopN(logits, n) {
		row = append(row, vllm.Entry{ID: int64(c.ID), Logprob: float64(c.Logprob), Rank: int64(c.Rank)})
	}
	return row
}

// begin gives an admitted sequence its cache: what the prefix cache kept of
// its beginning, or an empty one.
func (q *sequence) begin(w *batch.Work, l *loop) {
	payload, n, _ := w.Sequence.Hit()
	if payload == nil {
		q.cache = l.o.Model.NewCache()
	} else {
		q.cache = payload.(*lm.Cache).Fork(n)
	}
	if len(q.output) == 0 {
		q.rows, q.scores, q.from = nil, nil, w.From
	}
	if q.q.Preempted == 0 {
		l.counts.cached.Add(int64(q.q.Cached))
		q.g.setCached(q.index, q.q.Cached)
	}
}

// key names the context up to and including position i.
func (q *sequence) key(i int) contextKey {
	for n := len(q.keys); n <= i; n++ {
		var k contextKey
		if n > 0 {
			k = q.keys[n-1]
		}
		q.keys = append(q.keys, k.extend(q.q.Tokens[n]))
	}
	return q.keys[i]
}

// wantsRows says that log-probabilities of the prompt were asked for and are
// not yet there.
func (q *sequence) wantsRows() bool {
	return len(q.output) == 0 && (q.s.PromptLogprobs != nil || q.s.PromptLogprobIDs != nil)
}

// score lists the log-probabilities at a position of the prompt.
func (q *sequence) score(logits []float32, at int) {
	if q.s.PromptLogprobs != nil {
		row := logprobRow(logits, q.prompt[at], *q.s.PromptLogprobs, nil)
		if q.s.Detokenize {
			names(q.tok, row, q.prompt[max(1, at-4):at])
		}
		q.rows = append(q.rows, row)
	}
	start := 0
	if q.s.PromptLogprobStart != nil {
		start = *q.s.PromptLogprobStart
	}
	if i := at - 1 - start; q.s.PromptLogprobIDs != nil && i >= 0 {
		q.scores = append(q.scores, scoresOf(logits, q.s.PromptLogprobIDs[i]))
	}
}

// listLogprobs lists the log-probabilities of what was drawn.
func (q *sequence) listLogprobs(logits []float32) {
	q.row = nil
	switch {
	case q.s.LogprobTokenIDs != nil:
		q.row = logprobRow(logits, q.drawn, 0, q.s.LogprobTokenIDs)
	case q.s.Logprobs != nil:
		q.row = logprobRow(logits, q.drawn, *q.s.Logprobs, nil)
	default:
		return
	}
	if q.s.Detokenize {
		names(q.tok, q.row, q.output)
	}
}

// hold keeps deltas back until there are as many tokens as the request wants
// together; the first and the last go out at once. It tells whether d goes out,
// and puts in what was held.
func (q *sequence) hold(d *delta) bool {
	if n := q.s.StreamInterval; n > 1 && q.s.Stream {
		q.held.tokens = append(q.held.tokens, d.tokens...)
		q.held.rows = append(q.held.rows, d.rows...)
		q.held.text += d.text
		if d.finish == "" && len(q.output) > 1 && len(q.held.tokens) < n {
			return false
		}
		d.tokens, d.rows, d.text = q.held.tokens, q.held.rows, q.held.text
		q.held = delta{}
	}
	return true
}
