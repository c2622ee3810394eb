package lm

import (
	"fmt"

	"paceline/vocab"
)

// Span is one sequence's share of a batched step: Tokens are appended to Cache.
type Span struct {
	Cache  *Cache
	Tokens []vocab.Token // ids below Config().VocabSize; borrowed for the call
	Rows   int           // logits are wanted for the last Rows tokens, 0 … len(Tokens)
}

// Forward appends every span's tokens to its cache and returns the logits that
// were asked for: [span][row][id], row r of a span being what follows its token
// len(Tokens)-Rows+r. They are raw: neither normalised nor divided by a
// temperature.
//
// The logits of a position depend on the tokens up to it only, bit for bit: not
// on the other spans, nor on how the sequence was cut into spans or forked.
//
// Lifetimes: the result is the caller's for good; Forward keeps neither it nor
// batch. The rows of one span share an array.
//
// A cache may be in one Forward at a time and once in a batch, and may not grow
// beyond Config().Context; Forward panics otherwise. Different Forwards may run
// concurrently. One call uses several processors if its batch is large enough.
func (m *Model) Forward(batch []Span) [][][]float32 {
	for i := range batch {
		m.enter(&batch[i])
	}
	out := make([][][]float32, len(batch))
	s := m.steps.Get().(*step)
	for i, span := range batch {
		out[i] = newRows(span.Rows, m.config.VocabSize)
		first := len(span.Tokens) - span.Rows
		for j, token := range span.Tokens {
			row := row{cache: span.Cache, position: span.Cache.length + j, token: token}
			if j >= first {
				row.logits = out[i][j-first]
			}
			s.push(row)
		}
	}
	s.flush()
	m.steps.Put(s)
	for _, span := range batch {
		span.Cache.length += len(span.Tokens)
		span.Cache.busy.Store(false)
	}
	return out
}

// enter checks a span and makes room for it in its cache.
func (m *Model) enter(span *Span) {
	c := span.Cache
	switch {
	case c.model != m:
		panic("BUG: the cache is another model's")
	case span.Rows < 0 || span.Rows > len(span.Tokens):
		panic(fmt.Sprintf("BUG: %d rows of %d tokens", span.Rows, len(span.Tokens)))
	case !c.busy.CompareAndSwap(false, true):
		panic("BUG: the cache is in two spans")
	case c.length+len(span.Tokens) > m.config.Context:
		panic(fmt.Sprintf("BUG: %d positions exceed the context of %d", c.length+len(span.Tokens), m.config.Context))
	}
	for _, token := range span.Tokens {
		if token < 0 || int(token) >= m.config.VocabSize {
			panic(fmt.Sprintf("BUG: token %d is outside the vocabulary of %d", token, m.config.VocabSize))
		}
	}
	c.reserve(len(span.Tokens))
}

// newRows returns n rows of width values in one array.
func newRows(n, width int) [][]float32 {
	if n == 0 {
		return nil
	}
	values := make([]float32, n*width)
	rows := make([][]float32, n)
	for i := range rows {
		rows[i] = values[i*width : (i+1)*width : (i+1)*width]
	}
	return rows
}
