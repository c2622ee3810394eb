package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ClientOptions configure a Client. The zero value is usable.
type ClientOptions struct {
	// DialTimeout bounds connecting (default 2 s). Too short a value makes a
	// busy host look down.
	DialTimeout time.Duration
	// FirstByte bounds the wait from the end of the request to the first byte
	// of the answer. Default none: a long prefill is legal and silent.
	FirstByte time.Duration
	// Idle bounds the wait between two reads of an answer that has begun, and
	// the writing of a request (default 2 min). It never bounds a whole stream.
	Idle time.Duration
	// MaxIdleConn is how long a connection may wait to be used again (default
	// 4 s). Keep it under the server's own limit: uvicorn closes after 5 s, and
	// a request that meets that close has to be sent twice.
	MaxIdleConn time.Duration
	// MaxConns bounds open connections, idle ones included (default 1024);
	// beyond it a request fails at once with ErrTooManyConns.
	MaxConns int
	// MaxAnswer bounds a JSON answer that is read as a whole (default 64 MiB).
	MaxAnswer int
	// Header is sent with every request (Authorization); a request's own header
	// of the same name is left out.
	Header [][2]string
	// TLS is used for https (default: the system's roots).
	TLS *tls.Config
}

func (o *ClientOptions) fill() {
	o.DialTimeout = cmpOr(o.DialTimeout, 2*time.Second)
	o.Idle = cmpOr(o.Idle, 2*time.Minute)
	o.MaxIdleConn = cmpOr(o.MaxIdleConn, 4*time.Second)
	o.MaxConns = cmpOr(o.MaxConns, 1024)
	o.MaxAnswer = cmpOr(o.MaxAnswer, 64<<20)
}

func cmpOr[T time.Duration | int](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// ClientStats count what a client did since it was made.
type ClientStats struct {
	Dials   int64 // connections opened
	Reused  int64 // requests sent on a connection that had served another
	Repeats int64 // requests sent a second time because a reused connection was dead
	Open    int64 // connections open now, idle ones included
}

// Client is an HTTP/1.1 client of one server, made for streams that are cut:
// cancelling the context closes the socket at any moment, from the dial to the
// last byte, and Response.Cut ends the server's work while keeping what already
// arrived.
//
// It has its own round trip because neither net/http (two goroutines a
// connection, a hidden second send) nor fasthttp's client (no context, up to
// five sends, limits on the whole stream) has that; it holds no goroutine, and
// a connection's buffers live with the connection. It does not pool Response:
// Close may come from another goroutine and more than once.
type Client struct {
	base   string // as given, without a trailing slash
	addr   string
	prefix string // path below which the server lives
	fixed  []byte // header lines sent with every request
	names  []string
	tls    *tls.Config // nil: plain TCP
	o      ClientOptions
	dialer net.Dialer

	dials, reused, repeats, open atomic.Int64

	mu     sync.Mutex // guards what follows
	idle   []*conn    // oldest first; the youngest is used first
	sweep  *time.Timer
	closed bool
}

// Errors of a Client, besides *StatusError and what the network says.
var (
	ErrTooManyConns = errors.New("too many open connections to the server")
	ErrClientClosed = errors.New("client is closed")
	// ErrStalled: the server sent nothing within FirstByte or Idle.
	ErrStalled = errors.New("no byte from the server within the limit")
	// ErrCut: all that had arrived before Response.Cut was read.
	ErrCut = errors.New("stream was cut")
	// ErrAnswerTooLarge: a JSON answer exceeded MaxAnswer.
	ErrAnswerTooLarge = errors.New("answer exceeds the size limit")
	// ErrMalformed: what the server sent is not HTTP/1.1.
	ErrMalformed = errors.New("malformed HTTP answer")
)

// NewClient checks base ("http://host:port", optionally with a path below
// which the server lives) and the options. It does not connect.
func NewClient(base string, o ClientOptions) (*Client, error) {
	o.fill()
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("cannot parse URL: %w", err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("cannot use URL %q: scheme must be http or https", base)
	case u.Hostname() == "":
		return nil, fmt.Errorf("cannot use URL %q: no host", base)
	case u.User != nil:
		return nil, fmt.Errorf("cannot use URL of %q: credentials belong in a header", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("cannot use URL %q: query or fragment", base)
	}
	c := &Client{base: strings.TrimRight(base, "/"), prefix: strings.TrimRight(u.EscapedPath(), "/"), o: o}
	c.dialer.Timeout = o.DialTimeout
	port := u.Port()
	if u.Scheme == "https" {
		c.tls = o.TLS.Clone()
		if c.tls == nil {
			c.tls = &tls.Config{}
		}
		if c.tls.ServerName == "" {
			c.tls.ServerName = u.Hostname()
		}
		c.tls.NextProtos = []string{"http/1.1"}
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	c.addr = net.JoinHostPort(u.Hostname(), port)
	c.fixed = append(append(append(c.fixed, "Host: "...), u.Host...), "\r\n"...)
	for _, h := range o.Header {
		if err := checkHeader(h); err != nil {
			return nil, err
		}
		c.fixed = appendHeader(c.fixed, h)
		c.names = append(c.names, h[0])
	}
	return c, nil
}

// URL returns the base that the client was made for.
func (c *Client) URL() string { return c.base }

// Request is what to send. Nothing of it is kept after Do has returned.
type Request struct {
	Method string      // "" means POST with a body and GET without
	Path   string      // below the base, with query, starting with "/"
	Header [][2]string // Host, Connection and the framing headers are the client's own
	Body   []byte      // sent as JSON unless Header says otherwise
}

// Do sends the request and returns when the answer's header is in. Whatever
// the status, the answer is the caller's to close. Cancelling ctx closes the
// socket at any moment; errors then wrap context.Cause(ctx).
//
// A request is sent a second time only if it went out on a reused connection
// and that connection ended before a byte of the answer came (the server had
// closed it): once, on a fresh connection, counted, and said in Repeated.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	if err := c.check(r); err != nil {
		return nil, err
	}
	for repeated := false; ; repeated = true {
		resp, cn, err := c.try(ctx, r, repeated)
		if err == nil {
			resp.Repeated = repeated
			return resp, nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if cn != nil && cn.reused && !cn.answered && !repeated && !errors.Is(err, ErrStalled) {
			c.repeats.Add(1)
			continue
		}
		return nil, fmt.Errorf("cannot %s %s%s: %w", r.method(), c.base, r.Path, err)
	}
}

// try makes one attempt; cn is the connection it was made on, already dropped
// if err is not nil.
func (c *Client) try(ctx context.Context, r *Request, fresh bool) (_ *Response, cn *conn, err error) {
	if cn, err = c.acquire(ctx, fresh); err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { cn.abort(context.Cause(ctx)) })
	resp := &Response{}
	resp.Body = &resp.body
	if err = c.send(cn, r); err == nil {
		err = resp.read(cn, r.method() == "HEAD")
	}
	if err != nil {
		stop()
		c.drop(cn)
		return nil, cn, cn.why(err)
	}
	resp.body.client, resp.body.conn, resp.body.stop = c, cn, stop
	return resp, cn, nil
}

// Answer is a whole answer.
type Answer struct {
	Status   int
	Body     []byte
	Repeated bool // the request was sent twice, see Do
}

// Fetch sends the request and appends the whole answer to dst, at most
// MaxAnswer bytes. A status other than 2xx is a *StatusError.
func (c *Client) Fetch(ctx context.Context, r *Request, dst []byte) (Answer, error) {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.Status, Repeated: resp.Repeated}
	if resp.Status/100 != 2 {
		return a, NewStatusError(c.base, r.Path, resp)
	}
	if a.Body, err = readAll(resp, dst, c.o.MaxAnswer); err != nil {
		return Answer{}, fmt.Errorf("cannot read the answer to %s %s%s: %w", r.method(), c.base, r.Path, err)
	}
	return a, nil
}

// JSON sends body and returns the whole answer.
func (c *Client) JSON(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	a, err := c.Fetch(ctx, &Request{Method: method, Path: path, Body: body}, nil)
	return a.Body, err
}

// readAll appends the body to dst.
func readAll(resp *Response, dst []byte, limit int) ([]byte, error) {
	start := len(dst)
	if resp.Length > int64(limit) {
		return nil, ErrAnswerTooLarge
	}
	if n := int(resp.Length); n > cap(dst)-start { // -1 when the length is not known
		dst = append(make([]byte, 0, start+n+1), dst...)
	}
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := resp.Body.Read(dst[len(dst):min(cap(dst), start+limit+1)])
		dst = dst[:len(dst)+n]
		if len(dst)-start > limit {
			return nil, ErrAnswerTooLarge
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Stats returns the counters.
func (c *Client) Stats() ClientStats {
	return ClientStats{Dials: c.dials.Load(), Reused: c.reused.Load(), Repeats: c.repeats.Load(), Open: c.open.Load()}
}

// Close closes the idle connections and makes further requests fail. Answers
// that are being read go on; their connections are closed with them.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	if c.sweep != nil {
		c.sweep.Stop()
	}
	c.mu.Unlock()
	for _, cn := range idle {
		c.drop(cn)
	}
}

// StatusError is an answer with a status other than 2xx.
type StatusError struct {
	URL, Path string
	Status    int
	Header    [][2]string
	Body      []byte // at most 1 MiB of it
}

// maxErrorBody bounds what is kept of the body of a StatusError.
const maxErrorBody = 1 << 20

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s%s answered %d: %s", e.URL, e.Path, e.Status, e.Message())
}

// Message returns the error's text: the message of OpenAI's error envelope, or
// the start of the body.
func (e *StatusError) Message() string {
	text := e.Body
	if m := errorMessage(e.Body); m != "" {
		text = []byte(m)
	}
	text = bytes.TrimSpace(text)
	if len(text) > 300 {
		text = append(bytes.ToValidUTF8(text[:300:300], nil), "…"...)
	}
	return string(text)
}

// NewStatusError reads an answer into an error. The body is still the caller's
// to close.
func NewStatusError(url, path string, resp *Response) *StatusError {
	e := &StatusError{URL: url, Path: path, Status: resp.Status}
	for name, value := range resp.Header.All() {
		e.Header = append(e.Header, [2]string{string(name), string(value)})
	}
	// What can be read of it is told; a body that breaks off is not a second error.
	e.Body, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	return e
}
