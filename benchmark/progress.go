package benchmark

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Bar draws how many answers are done. It writes only to a terminal: in a log
// a bar is noise.
type Bar struct {
	out   io.Writer
	total int
	began time.Time

	mu   sync.Mutex // guards done and every write
	done int
}

// NewBar makes a bar of total steps on f; it stays silent unless f is a
// terminal.
func NewBar(f *os.File, total int) *Bar {
	b := &Bar{total: total, began: time.Now()}
	if isTerminal(f) {
		b.out = f
		b.draw()
	}
	return b
}

// Step counts one more answer. Any goroutine may call it.
func (b *Bar) Step() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done++
	b.draw()
}

// Clear removes the bar before the table is printed.
func (b *Bar) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out != nil {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}

func (b *Bar) draw() {
	if b.out == nil || b.total == 0 {
		return
	}
	const width = 40
	filled := width * b.done / b.total
	fmt.Fprintf(b.out, "\r\x1b[K[%s%s] %d/%d answers, %.0f s",
		strings.Repeat("=", filled), strings.Repeat(" ", width-filled), b.done, b.total, time.Since(b.began).Seconds())
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
