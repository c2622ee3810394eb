package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// HTTP/1.1 as RFC 9112 has it, the client's half of it that inference servers
// need: no trailers are kept, no content coding is asked for, no upgrade.

const (
	maxHead     = 64 << 10 // bytes of an answer's header
	maxInterim  = 8        // 1xx answers before the real one
	inlineBody  = 16 << 10 // a body up to this size goes out in one write with its header
	chunkedBody = -1       // Response.Length of a chunked answer
	closedBody  = -2       // … of one that ends with the connection
)

func (r *Request) method() string {
	switch {
	case r.Method != "":
		return r.Method
	case r.Body != nil:
		return "POST"
	}
	return "GET"
}

// check refuses what would break the request's framing: header values may come
// from a client of ours.
func (c *Client) check(r *Request) error {
	if !isToken(r.method()) {
		return fmt.Errorf("cannot send request: method %q", r.Method)
	}
	if !strings.HasPrefix(r.Path, "/") || strings.ContainsFunc(r.Path, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return fmt.Errorf("cannot send request: path %q", r.Path)
	}
	for _, h := range r.Header {
		if err := checkHeader(h); err != nil {
			return err
		}
	}
	return nil
}

func checkHeader(h [2]string) error {
	if !isToken(h[0]) || strings.ContainsAny(h[1], "\r\n\x00") {
		return fmt.Errorf("cannot send header %q: not a valid name or value", h[0])
	}
	for _, own := range []string{"Host", "Connection", "Content-Length", "Transfer-Encoding"} {
		if strings.EqualFold(h[0], own) {
			return fmt.Errorf("cannot send header %q: the client writes it itself", h[0])
		}
	}
	return nil
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func appendHeader(dst []byte, h [2]string) []byte {
	dst = append(append(dst, h[0]...), ": "...)
	return append(append(dst, h[1]...), "\r\n"...)
}

// send writes the request. A server may answer and close before it has read
// everything (413, 401): then the answer is worth more than the write error,
// which read reports if there is none.
func (c *Client) send(cn *conn, r *Request) error {
	b := append(append(cn.out[:0], r.method()...), ' ')
	b = append(append(append(b, c.prefix...), r.Path...), " HTTP/1.1\r\n"...)
	b = append(b, c.fixed...)
	typed := false
next:
	for _, h := range r.Header {
		for _, name := range c.names {
			if strings.EqualFold(h[0], name) {
				continue next
			}
		}
		typed = typed || strings.EqualFold(h[0], "Content-Type")
		b = appendHeader(b, h)
	}
	if r.Body != nil {
		if !typed {
			b = append(b, "Content-Type: application/json\r\n"...)
		}
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(r.Body)), 10), "\r\n"...)
	}
	b = append(b, "\r\n"...)
	rest := r.Body
	if len(rest) <= inlineBody {
		b, rest = append(b, rest...), nil
	}
	cn.out = b
	cn.wait = c.o.FirstByte
	cn.nc.SetWriteDeadline(time.Now().Add(c.o.Idle))
	_, err := cn.nc.Write(b)
	if err == nil && len(rest) > 0 {
		_, err = cn.nc.Write(rest)
	}
	if err != nil && !cn.reused {
		cn.wait = time.Second
		if _, e := cn.br.Peek(1); e == nil {
			cn.broken = true
			err = nil
		}
	}
	cn.idle = c.o.Idle
	return err
}

// Header is an answer's header, lines in the server's order. It is valid until
// the answer's body is closed.
type Header struct {
	lines []byte // "Name: value\r\n"…
}

// All yields names and values; the slices are as valid as the header.
func (h Header) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for rest := h.lines; len(rest) > 0; {
			var line []byte
			line, rest, _ = bytes.Cut(rest, []byte("\n"))
			name, value, _ := bytes.Cut(line, []byte(":"))
			if !yield(name, bytes.TrimSpace(value)) {
				return
			}
		}
	}
}

// Get returns the first value of a name in any case, "" if there is none.
func (h Header) Get(name string) string {
	for n, v := range h.All() {
		if len(n) == len(name) && strings.EqualFold(string(n), name) {
			return string(v)
		}
	}
	return ""
}

// Response is an answer whose header is in. Body must be closed; closing it
// before its end closes the connection, which is what ends work in an engine.
type Response struct {
	Status   int
	Header   Header
	Length   int64 // of the body; negative when the server did not say
	Repeated bool  // the request was sent twice, see Client.Do
	Body     io.ReadCloser

	body  body
	space [640]byte // of Header, when it fits
}

// read reads the answer's header.
func (resp *Response) read(cn *conn, noBody bool) error {
	if _, err := cn.br.Peek(1); err != nil {
		return noEOF(err)
	}
	cn.answered = true
	cn.wait = cn.idle
	for range maxInterim {
		proto, err := resp.readHead(cn.br)
		if err != nil {
			return noEOF(err)
		}
		if resp.Status/100 != 1 {
			return resp.frame(proto, cn.broken, noBody)
		}
	}
	return fmt.Errorf("%w: only interim answers", ErrMalformed)
}

// readHead reads one status line and header block; minor is HTTP's minor version.
func (resp *Response) readHead(br *bufio.Reader) (minor byte, err error) {
	line, err := readLine(br)
	if err != nil {
		return 0, err
	}
	// "HTTP/1.1 200 OK"
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return 0, fmt.Errorf("%w: status line %.60q", ErrMalformed, line)
	}
	minor = line[7] - '0'
	resp.Status, err = strconv.Atoi(string(line[9:12]))
	if err != nil || resp.Status < 100 || minor > 9 {
		return 0, fmt.Errorf("%w: status line %.60q", ErrMalformed, line)
	}
	resp.Header.lines = resp.space[:0]
	for {
		if line, err = readLine(br); err != nil {
			return 0, err
		}
		if len(line) == 0 {
			return minor, nil
		}
		if colon := bytes.IndexByte(line, ':'); colon <= 0 || line[0] == ' ' || line[0] == '\t' || line[colon-1] == ' ' {
			return 0, fmt.Errorf("%w: header line %.60q", ErrMalformed, line)
		}
		resp.Header.lines = append(append(resp.Header.lines, line...), '\n')
		if len(resp.Header.lines) > maxHead {
			return 0, fmt.Errorf("%w: header exceeds %d bytes", ErrMalformed, maxHead)
		}
	}
}

// frame finds out where the body ends (RFC 9112 §6.3).
func (resp *Response) frame(minor byte, broken, noBody bool) error {
	b := &resp.body
	b.last = minor == 0 || broken
	length, chunked := int64(closedBody), false
	for name, value := range resp.Header.All() {
		switch {
		case equalFold(name, "Content-Length"):
			n, err := strconv.ParseUint(string(value), 10, 62)
			if err != nil || length >= 0 && length != int64(n) {
				return fmt.Errorf("%w: Content-Length %.30q", ErrMalformed, value)
			}
			length = int64(n)
		case equalFold(name, "Transfer-Encoding"):
			// HTTP/1.0 knows no chunks: whoever says so is framed by guesswork.
			if chunked = equalFold(value, "chunked"); !chunked || minor == 0 {
				return fmt.Errorf("%w: Transfer-Encoding %.30q", ErrMalformed, value)
			}
		case equalFold(name, "Connection"):
			for v := range bytes.SplitSeq(value, []byte(",")) {
				v = bytes.TrimSpace(v)
				b.last = b.last && !equalFold(v, "keep-alive") || equalFold(v, "close") || broken
			}
		}
	}
	switch {
	case noBody || resp.Status == 204 || resp.Status == 304:
		length = 0
	case chunked:
		b.last = b.last || length >= 0 // both is a smuggling attempt or a bug: do not reuse
		length = chunkedBody
	}
	resp.Length, b.kind, b.left = length, length, max(length, 0)
	b.last = b.last || length == closedBody
	if length == 0 {
		b.err = io.EOF
	}
	return nil
}

func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && strings.EqualFold(string(b), s)
}

// readLine returns a line without its end, valid until the next read.
func readLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("%w: line exceeds %d bytes", ErrMalformed, readSize)
		}
		return nil, err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

// noEOF turns an end where more was due into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// errorMessage reads {"error":{"message":…}}, {"error":"…"}, {"message":…}
// and {"detail":…}.
func errorMessage(body []byte) string {
	if !gjson.ValidBytes(body) {
		return ""
	}
	for _, path := range []string{"error.message", "error", "message", "detail"} {
		if v := gjson.GetBytes(body, path); v.Type == gjson.String {
			return v.Str
		}
	}
	return ""
}
