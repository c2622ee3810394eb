package lm

import (
	"fmt"
	"math"
	"sync/atomic"
)

// pageSize is the number of positions in a page of the key-value cache: a
// multiple of 4. Larger pages make attention's inner loops longer, smaller ones
// make a fork's copy cheaper (a target's page has 74 kB).
const pageSize = 32

// Cache is the key-value cache of one sequence. Its memory is pages of 32
// positions, which forks share; a page is never written after it is full.
//
// A Cache belongs to one goroutine at a time: it must not be in two Forward
// calls at once, nor be forked while it is in one. Caches that share pages are
// independent. There is nothing to release: the garbage collector frees a page
// with the last Cache that has it, which is also why pages are not pooled.
type Cache struct {
	model  *Model
	pages  []page // the last one may be partly filled, and is then this Cache's alone
	length int
	busy   atomic.Bool // in a Forward; only there to catch a caller's mistake
}

// page holds the keys and values of pageSize positions, as tiles that dot can
// take as matrices: [Layers][KVHeads] times
//
//	keys   [pageSize/4][HeadDim/4] tiles, whose rows are positions
//	values [HeadDim/4][pageSize/4] tiles, whose rows are elements of the head
//
// Positions not yet written hold finite values that nothing depends on.
type page []tile

// NewCache returns an empty cache.
func (m *Model) NewCache() *Cache { return &Cache{model: m} }

// Len returns the number of positions in the cache.
func (c *Cache) Len() int { return c.length }

// Fork returns an independent sequence whose first n positions are c's, n ≤
// c.Len(). It shares c's full pages and copies at most one; c stays as it is.
func (c *Cache) Fork(n int) *Cache {
	if n < 0 || n > c.length {
		panic(fmt.Sprintf("BUG: fork at %d of a cache of %d positions", n, c.length))
	}
	if c.busy.Load() {
		panic("BUG: fork of a cache that is in a Forward")
	}
	fork := &Cache{model: c.model, length: n}
	full := n / pageSize
	// A fork is about to grow: room for the page after the copied ones.
	fork.pages = append(make([]page, 0, full+2), c.pages[:full]...)
	if n%pageSize > 0 {
		fork.pages = append(fork.pages, append(page(nil), c.pages[full]...))
	}
	return fork
}

// reserve adds the pages for n more positions.
func (c *Cache) reserve(n int) {
	shape := &c.model.config
	size := shape.Layers * shape.KVHeads * 2 * (pageSize / 4) * (shape.HeadDim / 4)
	for len(c.pages)*pageSize < c.length+n {
		c.pages = append(c.pages, make(page, size))
	}
}

// head returns the keys and values of a slot's head.
func (p page) head(shape *Config, at slot) (keys, values []tile) {
	n := (pageSize / 4) * (shape.HeadDim / 4)
	first := (at.layer*shape.KVHeads + at.head) * 2 * n
	return p[first : first+n], p[first+n : first+2*n]
}

// slot is a place in a cache: a key and value head of a layer, at a position.
type slot struct{ layer, head, position int }

// store writes a key and its value.
//
//go:norace
func (c *Cache) store(at slot, key, value []quad) {
	keys, values := c.pages[at.position/pageSize].head(&c.model.config, at)
	block, row := at.position%pageSize/4, at.position%4
	tiles := keys[block*len(key):][:len(key)]
	for k := range key {
		for j, v := range key[k] {
			tiles[k][4*j+row] = v
		}
	}
	for k := range value {
		*(*quad)(values[k*(pageSize/4)+block][4*row:]) = value[k]
	}
}

// attend writes the attention of a query at a slot to out: the head's values up
// to and including the slot's position, weighted by the softmax of query·key /
// sqrt(HeadDim). scores is scratch for at least position+1 values.
//
//go:norace
func (c *Cache) attend(at slot, query, out, scores []quad) {
	shape, width, n := &c.model.config, len(query), at.position+1
	scores = scores[:(n+3)/4]
	clear(scores)
	for first := 0; first < len(scores); first += pageSize / 4 {
		keys, _ := c.pages[first/(pageSize/4)].head(shape, at)
		for i := first; i < min(first+pageSize/4, len(scores)); i++ {
			dot(&scores[i], keys[(i-first)*width:(i-first+1)*width], query)
		}
	}
	inverse := softmax(scores, n, float32(1/math.Sqrt(float64(4*width))))
	clear(out)
	for first := 0; first < len(scores); first += pageSize / 4 {
		_, values := c.pages[first/(pageSize/4)].head(shape, at)
		weights := scores[first:min(first+pageSize/4, len(scores))]
		for k := range out {
			dot(&out[k], values[k*(pageSize/4):(k+1)*(pageSize/4)], weights)
		}
	}
	for k := range out {
		for j := range out[k] {
			out[k][j] *= inverse
		}
	}
}
