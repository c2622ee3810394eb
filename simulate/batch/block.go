package batch

import (
	"crypto/sha256"
	"encoding/binary"

	"paceline/vocab"
)

// Hash names a full block by its tokens and everything before them: two
// sequences have a block in common exactly when they have its hash in common.
type Hash [sha256.Size]byte

// root is what the first block of a sequence is chained to. A salt separates
// the cache of those who know it from everybody else's.
func root(salt string) Hash {
	if salt == "" {
		return Hash{}
	}
	return sha256.Sum256([]byte(salt))
}

// chain is the hash of the block with these tokens after the block parent.
func chain(parent Hash, tokens []vocab.Token) Hash {
	buf := make([]byte, 0, len(parent)+4*len(tokens))
	buf = append(buf, parent[:]...)
	for _, t := range tokens {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(t))
	}
	return sha256.Sum256(buf)
}

// A block is room for B tokens of one sequence, or of several that share it.
type block struct {
	hash   Hash
	shared bool // hash is set and the block can be found by it
	fresh  bool // registered by the step that runs now: its payload comes with it
	refs   int  // sequences that hold it

	payload any // the caller's, see Sequence.Keep

	prev, next *block // in the free list, when refs is 0
}

// pool holds all blocks. Blocks that nobody holds wait in the free list, the
// one to be reused first in front; until then their content can be hit.
type pool struct {
	size, made int // blocks at most, and made so far
	free       block
	idle       int // blocks in the free list
	byHash     map[Hash][]*block
	fresh      []*block // shared by the step that runs now
}

func newPool(size int) *pool {
	p := &pool{size: size, byHash: map[Hash][]*block{}}
	p.free.prev, p.free.next = &p.free, &p.free
	return p
}

// available is the number of blocks that take could return now.
func (p *pool) available() int { return p.idle + p.size - p.made }

// used is the number of blocks that sequences hold.
func (p *pool) used() int { return p.made - p.idle }

// take returns an empty block, or nil when all are held. Blocks never used
// come first, then the one that was let go the longest time ago.
func (p *pool) take() *block {
	if p.made < p.size {
		p.made++
		return &block{refs: 1}
	}
	b := p.free.next
	if b == &p.free {
		return nil
	}
	p.unlink(b)
	p.forget(b)
	b.refs = 1
	return b
}

// find returns a block with that content, or nil.
func (p *pool) find(h Hash) *block {
	if list := p.byHash[h]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// hold adds a holder to a block that find returned.
func (p *pool) hold(b *block) {
	if b.refs == 0 {
		p.unlink(b)
	}
	b.refs++
}

// release takes a holder away from each block, the last block first: the end
// of a sequence is reused before its beginning, which others may share.
func (p *pool) release(blocks []*block) {
	for i := len(blocks) - 1; i >= 0; i-- {
		b := blocks[i]
		b.refs--
		if b.refs < 0 {
			panic("BUG: block released twice")
		}
		if b.refs > 0 {
			continue
		}
		if !b.shared { // nobody can find it: reuse it first
			p.link(&p.free, b)
			continue
		}
		p.link(p.free.prev, b)
	}
}

// share makes a full block findable.
func (p *pool) share(b *block, h Hash) {
	b.hash, b.shared, b.fresh = h, true, true
	p.byHash[h] = append(p.byHash[h], b)
	p.fresh = append(p.fresh, b)
}

// settle ends the step that filled the fresh blocks.
func (p *pool) settle() {
	for _, b := range p.fresh {
		b.fresh = false
	}
	p.fresh = p.fresh[:0]
}

// forget makes a block unfindable and drops its payload.
func (p *pool) forget(b *block) {
	b.payload = nil
	if !b.shared {
		return
	}
	list := p.byHash[b.hash]
	for i, other := range list {
		if other == b {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(p.byHash, b.hash)
	} else {
		p.byHash[b.hash] = list
	}
	b.hash, b.shared, b.fresh = Hash{}, false, false
}

func (p *pool) link(after, b *block) {
	b.prev, b.next = after, after.next
	b.prev.next, b.next.prev = b, b
	p.idle++
}

func (p *pool) unlink(b *block) {
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
	p.idle--
}
