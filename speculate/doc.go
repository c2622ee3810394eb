// Package speculate runs one generation: plain decoding on the target, rounds
// of drafting and verification, and the changes between the two. What it
// commits is what the target alone would have written.
//
// [Session] is a pure state: events in ([Session.Step]), a value that says what
// to start next out ([Session.Next]); no I/O, clock or goroutine. [Controller]
// chooses the draft length. [Run] is the loop around them: it owns the
// generation from one goroutine, starts the calls, resolves text and emits.
//
// Duties of a caller of Run, in order: bind the request to a [Target]; set the
// limits that the target would apply; take each [Piece] as it comes, without
// keeping it; treat an error before the first piece as the answer of the
// target's own first call; record the [Trace] once.
//
// Rules that make it lossless, kept by Session and tested there:
//
//   - every token that was read is committed, and a decision to cut a plain
//     stream uses committed tokens and the clock only, never unread values;
//   - break before make: a verification starts only after the plain stream has
//     ended and everything that it delivered is committed, so no position ever
//     has two sources;
//   - a finish that was read wins over everything that is still out;
//   - a draft is used only at the position that it was made for, or as the rest
//     of it that still continues what was committed since.
//
// See design.md for how text and stop strings keep off the critical path.
package speculate
