package engine

import (
	"bytes"
	"errors"
	"io"
)

// ErrEventTooLong: an event of a stream exceeded the decoder's limit.
var ErrEventTooLong = errors.New("event exceeds the size limit")

// Events decodes a stream of server-sent events as the HTML standard's section
// 9.2.6 ("Interpreting an event stream") has it: lines end in LF, CR or CRLF, a
// leading byte order mark is ignored, lines that start with a colon are
// comments, data lines of one event are joined by LF, a blank line ends the
// event. Names, ids and retry times are skipped, as are events without data.
//
// It deviates in one point: data that the stream's regular end cuts off before
// the blank line is returned, because some servers end so after "[DONE]" (the
// standard discards it). A stream that broke off ends in an error anyway.
//
// It allocates only while its two buffers grow.
type Events struct {
	r   io.Reader
	max int // bytes of an event's data, and of a line

	buf        []byte // buf[start:end] was read and not yet decoded
	start, end int
	seen       int   // bytes behind start that hold no line end
	err        error // what ended the reading

	skipLF bool // the last line ended in CR: an LF that follows belongs to it
	begun  bool // the first line was seen

	data []byte // of the event so far: of buf if it has one data line, of joined otherwise
	has  bool   // the event has a data line

	joined []byte // holds the data of an event of several lines, or of several reads
	own    bool   // data lies in joined
}

// NewEvents returns a decoder of r for events of at most max bytes (1 MiB if 0).
func NewEvents(r io.Reader, max int) *Events {
	if max <= 0 {
		max = 1 << 20
	}
	return &Events{r: r, max: max}
}

// Next returns the data of the next event, valid until the next call. At the
// end of the stream it returns io.EOF, otherwise what the reader said; both
// come only after the last complete event. "[DONE]" is data like any other.
func (e *Events) Next() ([]byte, error) {
	e.data, e.has, e.own = nil, false, false
	for {
		line, ok := e.line()
		switch {
		case !ok && e.err == io.EOF && e.has:
			return e.data, nil
		case !ok:
			return nil, e.err
		case len(line) > 0:
			if err := e.field(line); err != nil {
				return nil, err
			}
		case e.has:
			return e.data, nil
		}
	}
}

// field takes one line that is not blank.
func (e *Events) field(line []byte) error {
	name, value, colon := bytes.Cut(line, []byte(":"))
	if string(name) != "data" {
		return nil
	}
	if colon && len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	if len(e.data)+len(value) >= e.max {
		return ErrEventTooLong
	}
	if !e.has {
		e.data, e.has = value, true
		return nil
	}
	e.keep()
	e.joined = append(append(e.joined, '\n'), value...)
	e.data = e.joined
	return nil
}

// keep moves the event's data out of buf.
func (e *Events) keep() {
	if e.has && !e.own {
		e.joined = append(e.joined[:0], e.data...)
		e.data, e.own = e.joined, true
	}
}

// line returns the next line without its end; ok is false when there is none
// before the stream's end. A line lies in buf until the next fill.
func (e *Events) line() (line []byte, ok bool) {
	for {
		if e.skipLF && e.start < e.end {
			e.skipLF = false
			if e.buf[e.start] == '\n' {
				e.start++
			}
		}
		rest := e.buf[e.start:e.end]
		if i := indexLineEnd(rest[e.seen:]); i >= 0 {
			i += e.seen
			e.seen = 0
			e.skipLF = rest[i] == '\r'
			e.start += i + 1
			return e.first(rest[:i]), true
		}
		e.seen = len(rest)
		if e.err == io.EOF && len(rest) > 0 {
			e.start, e.seen = e.end, 0
			return e.first(rest), true
		}
		if e.err != nil {
			return nil, false
		}
		e.fill()
	}
}

// first drops the byte order mark of the stream's first line.
func (e *Events) first(line []byte) []byte {
	if !e.begun {
		e.begun = true
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
	}
	return line
}

func indexLineEnd(b []byte) int {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return bytes.IndexByte(b, '\r')
	}
	if j := bytes.IndexByte(b[:i], '\r'); j >= 0 {
		return j
	}
	return i
}

// fill reads more behind what is in buf, making room first.
func (e *Events) fill() {
	if e.end == len(e.buf) {
		e.keep()
		if e.start > 0 {
			e.end = copy(e.buf, e.buf[e.start:e.end])
			e.start = 0
		}
		if limit := e.max + len("data: \r\n"); e.end >= limit {
			e.err = ErrEventTooLong
			return
		}
		if e.end > len(e.buf)/2 || len(e.buf) == 0 {
			e.buf = append(e.buf, make([]byte, max(4096, len(e.buf)))...)
		}
	}
	for range 100 { // readers may return nothing now and then, not always
		n, err := e.r.Read(e.buf[e.end:])
		e.end += n
		if err != nil {
			e.err = err
		}
		if n > 0 || err != nil {
			return
		}
	}
	e.err = io.ErrNoProgress
}
