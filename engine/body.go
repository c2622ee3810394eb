package engine

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// body reads one answer from a connection and decides what becomes of the
// connection.
type body struct {
	client *Client
	conn   *conn
	stop   func() bool // ends the watch over the context; false: it has fired

	mu      sync.Mutex // held by a Read
	kind    int64      // Response.Length
	left    int64      // bytes left of the body, or of the chunk
	inChunk bool       // a chunk's data was begun: its line end is due
	err     error      // sticky; io.EOF after the last byte
	last    bool       // the connection cannot be used again

	life   sync.Mutex // orders Cut and Close
	closed atomic.Bool
	gone   bool // the connection was dropped by Cut; guarded by life
}

// Read implements io.Reader. An end before the body's end is
// io.ErrUnexpectedEOF.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, net.ErrClosed
	}
	return b.read(p)
}

func (b *body) read(p []byte) (n int, err error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	switch b.kind {
	case closedBody:
		n, err = b.conn.br.Read(p)
	case chunkedBody:
		n, err = b.readChunk(p)
	default:
		n, err = b.readPart(p)
		if err == nil && b.left == 0 {
			b.err = io.EOF // without asking the network once more
		}
	}
	if err != nil {
		b.err = b.conn.why(err)
	}
	return n, err
}

// readPart reads of the b.left bytes that are due.
func (b *body) readPart(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.conn.br.Read(p)
	b.left -= int64(n)
	return n, noEOF(err)
}

// readChunk reads of a chunked body (RFC 9112 §7.1).
func (b *body) readChunk(p []byte) (int, error) {
	if b.left == 0 {
		if b.inChunk {
			if line, err := readLine(b.conn.br); err != nil || len(line) > 0 {
				return 0, orMalformed(err, "chunk is longer than its size", line)
			}
			b.inChunk = false
		}
		size, err := b.chunkSize()
		if err != nil {
			return 0, err
		}
		if size == 0 {
			return 0, b.trailer()
		}
		b.left, b.inChunk = size, true
	}
	return b.readPart(p)
}

func (b *body) chunkSize() (int64, error) {
	line, err := readLine(b.conn.br)
	if err != nil {
		return 0, noEOF(err)
	}
	var size int64
	digits := 0
	for _, c := range line {
		var d byte
		switch {
		case c >= '0' && c <= '9':
			d = c - '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d = c | 0x20 - 'a' + 10
		default:
			d = 0xff
		}
		if d == 0xff || digits == 15 {
			break
		}
		size = size<<4 | int64(d)
		digits++
	}
	if rest := line[digits:]; digits == 0 || len(rest) > 0 && rest[0] != ';' && rest[0] != ' ' && rest[0] != '\t' {
		return 0, orMalformed(nil, "chunk size", line)
	}
	return size, nil
}

// trailer reads to the end of a chunked body and returns io.EOF there.
func (b *body) trailer() error {
	for n := 0; n < maxHead; {
		line, err := readLine(b.conn.br)
		if err != nil {
			return noEOF(err)
		}
		if len(line) == 0 {
			return io.EOF
		}
		n += len(line)
	}
	return orMalformed(nil, "trailer exceeds the limit", nil)
}

func orMalformed(err error, what string, line []byte) error {
	if err != nil {
		return noEOF(err)
	}
	return fmt.Errorf("%w: %s: %.60q", ErrMalformed, what, line)
}

// Close gives the connection back if the body was read to its end (or its end
// is in the buffer already) and closes it otherwise, ending a Read that waits.
// It may be called from any goroutine and more than once.
func (b *body) Close() error {
	return b.end(0)
}

// end closes the body; patience is how long the end may take to arrive if it
// was not read yet.
func (b *body) end(patience time.Duration) error {
	b.life.Lock()
	done := b.closed.Swap(true) || b.gone
	b.life.Unlock()
	if done {
		return nil
	}
	clean := b.stop()
	if !b.mu.TryLock() { // a Read is waiting in another goroutine
		b.conn.sock.Close()
		b.mu.Lock()
		clean = false
	}
	defer b.mu.Unlock()
	if clean && !b.last && b.err == nil {
		b.conn.finish(b, patience)
	}
	if clean && !b.last && b.err == io.EOF {
		b.client.release(b.conn)
	} else {
		b.client.drop(b.conn)
	}
	return nil
}

// maxFinish bounds what is read of a body that nobody wants.
const maxFinish = 16 << 10

// finish reads the body's end if it is in the buffer or comes within patience.
func (cn *conn) finish(b *body, patience time.Duration) {
	if patience == 0 {
		if cn.br.Buffered() == 0 {
			return
		}
		patience = -1 // a deadline that has passed: only the buffer is read
	}
	until := time.Now().Add(patience)
	cn.until = until
	var scratch [1024]byte
	for n := 0; b.err == nil && n < maxFinish; {
		m, _ := b.read(scratch[:])
		n += m
	}
	cn.until = time.Time{}
}

// Discard closes the body, but waits up to patience for its end so that the
// connection can be used again. For a stream whose last event was read.
func (resp *Response) Discard(patience time.Duration) {
	_ = resp.body.end(patience) // closing an answer that was read tells nothing new
}

// Cut ends the work on the server's side at once, by closing the socket, but
// keeps what had arrived: Body can be read on to the last byte that the kernel
// held, then it returns ErrCut (io.EOF or io.ErrUnexpectedEOF if the server's
// end had arrived too). It waits for nothing, ends a Read that waits, and may
// be called from any goroutine and more than once. Closing Body afterwards is
// allowed and frees nothing more.
func (resp *Response) Cut() {
	b := &resp.body
	b.life.Lock()
	defer b.life.Unlock()
	if b.gone || b.closed.Load() { // the connection may serve another request by now
		return
	}
	b.gone = true
	b.stop()
	b.conn.cut()
	b.client.drop(b.conn)
}
