// Package proxy is the HTTP surface: an OpenAI-compatible server that answers
// chat completions and completions by speculative decoding where that is
// exact, and passes everything else through, byte for byte.
//
// journey.go is one request from its first byte to its log line; read it
// first. What is decided about a request is proxy/plan's, what its JSON means
// is proxy/wire's, that its client has gone is proxy/depart's; generations are
// run by speculate.
//
// Duties of a caller, in order: New with the pairs; Serve on a listener (the
// server wraps it, and must see the connections as the listener returned
// them); SetPairs to replace the pairs, at any time; Shutdown, which ends what
// still runs. The clients and drafters of the pairs are the caller's to close,
// after the requests that use them have ended.
//
// Nothing that fasthttp owns leaves this package, and nothing of it is used
// after the handler has returned: bytes are copied where they come in. Panics
// are recovered in two places, the handler (a 500) and the reader of a
// streamed answer (an error event).
package proxy
