package proxy

import (
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"paceline/engine"
	"paceline/proxy/wire"
)

// Headers of this proxy's own.
const (
	headerID          = "X-Request-Id"
	headerMode        = "X-Paceline-Mode"
	headerReason      = "X-Paceline-Reason"
	headerSpeculation = "X-Paceline-Speculation"
	headerDraft       = "X-Paceline-Draft"
	ourPrefix         = "x-paceline-"
)

// wish is what a client's headers ask for.
type wish struct {
	off    bool
	length int // fixed draft length; -1: automatic
	draft  string
}

func readWish(h *fasthttp.RequestHeader, maxDraft int) (wish, error) {
	w := wish{length: -1, draft: string(h.Peek(headerDraft))}
	switch v := string(h.Peek(headerSpeculation)); v {
	case "", "auto":
	case "off":
		w.off = true
	default:
		k, err := strconv.Atoi(v)
		if err != nil || k < 0 || k > maxDraft || strconv.Itoa(k) != v {
			return w, wire.Invalid(headerSpeculation, headerSpeculation+" must be auto, off or a whole number from 0 to "+strconv.Itoa(maxDraft))
		}
		w.length = k
	}
	return w, nil
}

// requestID takes the client's id if it is fit for headers and logs, and makes
// one otherwise.
func requestID(h *fasthttp.RequestHeader) string {
	if id := h.Peek(headerID); len(id) > 0 && len(id) <= 128 {
		fit := true
		for _, c := range id {
			fit = fit && c > ' ' && c < 0x7f && c != '"' && c != '\\'
		}
		if fit {
			return string(id)
		}
	}
	const digits = "0123456789abcdef"
	var b [32]byte
	for i := 0; i < len(b); i += 16 {
		for j, r := 0, rand.Uint64(); j < 16; j, r = j+1, r>>4 {
			b[i+j] = digits[r&15]
		}
	}
	return string(b[:])
}

// alongside are the client's headers that go with every call of a generation.
var alongside = []string{"Authorization", "Traceparent", "Tracestate"}

func sendAlong(h *fasthttp.RequestHeader, id string) [][2]string {
	list := [][2]string{{headerID, id}}
	for _, name := range alongside {
		if v := h.Peek(name); len(v) > 0 {
			list = append(list, [2]string{name, string(v)})
		}
	}
	return list
}

// hopByHop tells whether a header belongs to one connection only (RFC 9110
// §7.6.1), or is written by whoever writes the message.
func hopByHop(name []byte) bool {
	switch len(name) {
	case 2, 4, 6, 7, 10, 14, 16, 17, 18, 19:
	default:
		return false
	}
	for _, n := range [...]string{
		"Te", "Host", "Date", "Expect", "Trailer", "Upgrade", "Connection", "Keep-Alive", "Content-Length",
		"Proxy-Connection", "Transfer-Encoding", "Proxy-Authenticate", "Proxy-Authorization",
	} {
		if equalFold(name, n) {
			return true
		}
	}
	return false
}

// ours tells whether a header is this proxy's to say.
func ours(name []byte) bool {
	return len(name) > len(ourPrefix) && strings.EqualFold(string(name[:len(ourPrefix)]), ourPrefix) || equalFold(name, headerID)
}

// listed tells whether a Connection header names a header.
func listed(connection string, name []byte) bool {
	for connection != "" {
		var token string
		token, connection, _ = strings.Cut(connection, ",")
		if equalFold(name, strings.TrimSpace(token)) {
			return true
		}
	}
	return false
}

func equalFold(b []byte, s string) bool { return len(b) == len(s) && strings.EqualFold(string(b), s) }

// forwarded returns the client's header for the target, all of it in one
// string of its own.
func forwarded(h *fasthttp.RequestHeader, id string) [][2]string {
	connection := string(h.Peek("Connection"))
	var text []byte
	var ends [64]int
	list := ends[:0]
	for name, value := range h.All() {
		if hopByHop(name) || ours(name) || listed(connection, name) {
			continue
		}
		text = append(text, name...)
		list = append(list, len(text))
		text = append(text, value...)
		list = append(list, len(text))
	}
	all, from := string(text), 0
	header := make([][2]string, 0, len(list)/2+1)
	for i := 0; i < len(list); i += 2 {
		header = append(header, [2]string{all[from:list[i]], all[list[i]:list[i+1]]})
		from = list[i+1]
	}
	return append(header, [2]string{headerID, id})
}

// copyHeader gives the client the target's header.
func copyHeader(to *fasthttp.ResponseHeader, from *engine.Response) {
	connection := from.Header.Get("Connection")
	for name, value := range from.Header.All() {
		if !hopByHop(name) && !ours(name) && !listed(connection, name) {
			to.AddBytesKV(name, value)
		}
	}
}
