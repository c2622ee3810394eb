// Package wire is OpenAI's format as far as this proxy reads and writes it:
// what planning needs of a request, and chunks, bodies and errors of a reply.
//
// A request is never turned into a struct and back: its bytes are kept, and
// only what planning reads is parsed, with one meaning (Decode). A reply is
// appended to a buffer that the caller gives, without an allocation a chunk.
package wire
