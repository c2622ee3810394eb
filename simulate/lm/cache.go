package lm

import (
	"fmt"
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

// head returns the keys and values of a head in a layer.
func (p page) head(shape *Config, layer, head int) (keys, values []tile) {
	n := (pageSize / 4) * (shape.HeadDim / 4)
	at := (layer*shape.KVHeads + head) * 2 * n
	return p[at : at+n], p[at+n : at+2*n]
}

// store writes the key and value of one head at a position.
//
//go:norace
func (c *Cache) store(layer, head, position int, key, value []quad) {
	keys, values := c.pages[position/pageSize].head(&c.model.config, layer, head)
	at := position % pageSize
	row := keys[at/4*len(key):][:len(key)]
	for k := range key {
		for j, v := range key[k] {
			row[k][4*j+at%4] = v
		}
	}
	for k := range value {
		*(*quad)(values[k*(pageSize/4)+at/4][at%4*4:]) = value[k]
	}
}

// attend writes the attention of one query head at a position to out: the
// values up to and including the position, weighted by the softmax of scale ·
// query·key. scores is scratch for position+1 values.
//
//go:norace
func (c *Cache) attend(out, query []quad, layer, head, position int, scale float32, scores []quad) {
	n := position + 1
	scores = scores[:(n+3)/4]
	clear(scores)
	width := len(query)
	for i := range scores {
		keys, _ := c.pages[i/(pageSize/4)].head(&c.model.config, layer, head)
		row := i % (pageSize / 4) * width
		dot(&scores[i], keys[row:row+width], query)
	}
	inverse := softmax(scores, n, scale)
	clear(out)
	for at := 0; at < len(scores); at += pageSize / 4 {
		weights := scores[at:min(at+pageSize/4, len(scores))]
		_, values := c.pages[at/(pageSize/4)].head(&c.model.config, layer, head)
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
