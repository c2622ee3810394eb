package lm

import (
	"slices"

	"paceline/vocab"
)

// merge is what two adjacent tokens become. Merges of lower rank come first.
type merge struct {
	rank uint32
	to   vocab.Token
}

// noMerge is the rank of pairs that stay apart.
const noMerge = ^uint32(0)

// symbol is a token of a word that is being merged, in a doubly linked list.
type symbol struct {
	token      vocab.Token
	prev, next int32 // -1 at the ends
	merge      merge // of this symbol and the next one
	gone       bool  // merged into prev
}

// merger does byte-pair merges. It is scratch memory of one Encode.
type merger struct {
	pairs   map[[2]vocab.Token]merge
	symbols []symbol
	queue   []uint64 // a binary heap of rank<<32 | index of the left symbol
}

// word appends the tokens of a word, given as one token per byte: of all pairs
// that may merge, the one of lowest rank, leftmost among equals, merges first.
// It takes n log n time, however long the word.
func (m *merger) word(dst []vocab.Token, bytes []vocab.Token) []vocab.Token {
	m.symbols, m.queue = slices.Grow(m.symbols[:0], len(bytes)), m.queue[:0]
	for i, token := range bytes {
		m.symbols = append(m.symbols, symbol{token: token, prev: int32(i) - 1, next: int32(i) + 1})
	}
	m.symbols[len(bytes)-1].next = -1
	for i := range m.symbols {
		m.pair(int32(i))
	}
	for len(m.queue) > 0 {
		top := m.pop()
		left := &m.symbols[uint32(top)]
		// Entries are not taken out when a neighbour merges; a rank names one
		// pair, so an entry is valid if the pair still has this rank.
		if left.gone || left.merge.rank != uint32(top>>32) {
			continue
		}
		right := &m.symbols[left.next]
		left.token, left.next = left.merge.to, right.next
		right.gone = true
		if left.next >= 0 {
			m.symbols[left.next].prev = int32(uint32(top))
		}
		m.pair(int32(uint32(top)))
		if left.prev >= 0 {
			m.pair(left.prev)
		}
	}
	for i := int32(0); i >= 0; i = m.symbols[i].next {
		dst = append(dst, m.symbols[i].token)
	}
	return dst
}

// pair looks up and queues the merge of symbol i and the one after it.
func (m *merger) pair(i int32) {
	left := &m.symbols[i]
	left.merge.rank = noMerge
	if left.next < 0 {
		return
	}
	if found, ok := m.pairs[[2]vocab.Token{left.token, m.symbols[left.next].token}]; ok {
		left.merge = found
		m.push(uint64(found.rank)<<32 | uint64(i))
	}
}

func (m *merger) push(entry uint64) {
	m.queue = append(m.queue, entry)
	for i := len(m.queue) - 1; i > 0; {
		parent := (i - 1) / 2
		if m.queue[parent] <= m.queue[i] {
			break
		}
		m.queue[parent], m.queue[i] = m.queue[i], m.queue[parent]
		i = parent
	}
}

func (m *merger) pop() uint64 {
	q := m.queue
	top := q[0]
	q[0] = q[len(q)-1]
	q = q[:len(q)-1]
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < len(q) && q[child] < q[least] {
				least = child
			}
		}
		if least == i {
			break
		}
		q[least], q[i] = q[i], q[least]
		i = least
	}
	m.queue = q
	return top
}
