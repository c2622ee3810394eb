package simulate

import (
	"math/bits"

	"paceline/vocab"
)

// contextKey names a sequence of tokens by two hashes, 128 bits in all.
type contextKey struct{ a, b uint64 }

// extend is the key of the context with one token more.
func (k contextKey) extend(t vocab.Token) contextKey {
	x := uint64(uint32(t)) + 1
	return contextKey{
		a: bits.RotateLeft64((k.a^x)*0x9e3779b97f4a7c15, 29) + x,
		b: bits.RotateLeft64((k.b+x)*0xd6e8feb86659fd93, 37) ^ k.a,
	}
}

// memo remembers the logits of contexts: what was used lately, at most size of
// them. It is made of two halves; a full new half replaces the old one.
type memo struct {
	half     int
	new, old map[contextKey][]float32
}

func newMemo(size int) *memo {
	if size <= 0 {
		return nil
	}
	return &memo{half: max(1, size/2), new: map[contextKey][]float32{}}
}

func (m *memo) get(k contextKey) []float32 {
	if m == nil {
		return nil
	}
	if row, ok := m.new[k]; ok {
		return row
	}
	row := m.old[k]
	if row != nil {
		m.put(k, row)
	}
	return row
}

func (m *memo) put(k contextKey, row []float32) {
	if m == nil {
		return
	}
	if len(m.new) >= m.half {
		m.new, m.old = map[contextKey][]float32{}, m.new
	}
	m.new[k] = row
}
