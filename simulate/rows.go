package simulate

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"paceline/simulate/sampling"
	"paceline/simulate/vllm"
)

// fillRows completes the list of a prompt's log-probabilities, whose rows
// begin after the tokens that the prefix cache had. On V2 it stays short. On
// V1 it has full length, and the rows that nothing was computed for are
// whatever the memory held: now and then a NaN, often ids that no vocabulary
// has. Detokenising such an id ends the real server, and so it does here.
func (l *loop) fillRows(q *sequence) {
	if q.scores != nil && q.from > firstScored(q.s) {
		q.scores = nil // V2 drops the whole answer
	}
	if q.s.PromptLogprobs == nil || q.from == 0 || l.o.Runner == V2 {
		return
	}
	dirty := make([]vllm.Row, q.from)
	deadly := false
	for i := range dirty {
		if l.dirt.Float64() < l.o.Garbage.Plausible {
			dirty[i] = l.plausible(q, i+1)
		} else {
			dirty[i] = l.rubbish(*q.s.PromptLogprobs)
			deadly = true
		}
	}
	if l.dirt.Float64() < l.o.Garbage.NaN {
		row := dirty[l.dirt.IntN(len(dirty))]
		for i := range row {
			row[i].Logprob = math.NaN()
		}
	}
	q.rows = slices.Concat(dirty, q.rows)
	if deadly && q.s.Detokenize {
		q.g.fail(errEngineDead)
		l.kill()
	}
}

func firstScored(s *vllm.Sampling) int {
	if s.PromptLogprobStart == nil {
		return 0
	}
	return *s.PromptLogprobStart
}

// plausible is a row that looks computed and is wrong: the token at that
// position seems certain, whatever it is.
func (l *loop) plausible(q *sequence, at int) vllm.Row {
	left := .3 * l.dirt.Float64()
	row := vllm.Row{{ID: int64(q.prompt[at]), Logprob: float64(float32(math.Log1p(-left))), Rank: 1}}
	for i := range max(0, *q.s.PromptLogprobs) {
		if i == 0 {
			row = append(row, row[0])
			continue
		}
		left *= .3
		id := l.dirt.IntN(l.o.Model.Config().VocabSize)
		row = append(row, vllm.Entry{ID: int64(id), Logprob: float64(float32(math.Log(left + 1e-12))), Rank: int64(i + 1)})
	}
	if q.s.Detokenize {
		names(q.tok, row, nil)
	}
	return row
}

// rubbish is a row of pointers and denormal numbers, as the real engine was
// seen to send them.
func (l *loop) rubbish(n int) vllm.Row {
	tiny := func() float64 {
		return float64(math.Float32frombits(uint32(l.dirt.IntN(2) * l.dirt.IntN(120))))
	}
	id := int64(int32(l.dirt.Uint32()))
	if id >= 0 {
		id |= 1 << 28 // above any vocabulary; the others are negative
	}
	row := vllm.Row{{ID: id, Logprob: tiny(), Rank: int64(l.dirt.IntN(2) * l.dirt.IntN(1<<16))}}
	for i := range max(0, n) {
		row = append(row, vllm.Entry{ID: 32668 + int64(i)*1024, Logprob: tiny(), Rank: int64(i + 1)})
	}
	return row
}

// promptRows is the list as it is answered: null for the first token, which
// nothing precedes.
func (q *sequence) promptRows() []vllm.Row {
	if q.s.PromptLogprobs == nil {
		return nil
	}
	return append([]vllm.Row{nil}, q.rows...)
}

// scoresOf are the log-probabilities of given ids; −1 pads.
func scoresOf(logits []float32, ids []int64) []float32 {
	logprobs := sampling.Logprobs(logits)
	out := make([]float32, len(ids))
	for i, id := range ids {
		if out[i] = float32(math.Inf(-1)); id >= 0 {
			out[i] = logprobs[id]
		}
	}
	return out
}

// npy is an array in NumPy's file format, in base64; nil is null.
func npy(rows [][]float32) *string {
	if len(rows) == 0 {
		return nil
	}
	width := 0
	for _, row := range rows {
		width = max(width, len(row))
	}
	header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", len(rows), width)
	const fixed = 10 // magic, version, length
	header += strings.Repeat(" ", 63-(fixed+len(header))%64) + "\n"
	var b bytes.Buffer
	b.WriteString("\x93NUMPY\x01\x00")
	b.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(header))))
	b.WriteString(header)
	for _, row := range rows {
		for i := range width {
			v := float32(math.Inf(-1))
			if i < len(row) {
				v = row[i]
			}
			b.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
		}
	}
	s := base64.StdEncoding.EncodeToString(b.Bytes())
	return &s
}
