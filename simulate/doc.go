// Package simulate is an inference engine to develop, demo and test against:
// a small real language model behind vLLM's HTTP dialect, with continuous
// batching, a prefix cache, the latency of a chosen machine, the traps of the
// real server, and faults on demand. Its tokens, log-probabilities and cache
// figures are computed, not made up; package batch prices its steps.
//
// One goroutine, the loop, owns the scheduler and all sequences; a request's
// goroutine parses it, hands over its sequences and reads their outbox. The
// dialect's formats are in simulate/vllm.
//
// Duties of a caller: Start, use URL, and Close; what Close returns must be
// nil before anything can be said about leaks.
package simulate
