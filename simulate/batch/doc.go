// Package batch decides what a simulated inference engine computes in each of
// its steps and how long a step takes: continuous batching with chunked
// prefill, a block-wise prefix cache, and the cost of a step on the machines
// that the project is for. It is pure: no I/O, no clock, no goroutine; times
// come in and times come out.
//
// Duties of a caller, in order: Add sequences; ask Step for a plan while no
// step is running; compute every piece of work of the plan, in its order,
// beginning fresh work with what Sequence.Hit returns and handing over what
// was computed with Sequence.Keep; wait until the plan's end; call Finish;
// then Append a token to, or Remove, each sequence whose work says that it
// samples. Sequences may be added and aborted at any time, also while a step
// runs.
//
// What it follows of vLLM 0.32: a step starts as soon as the engine is idle
// and something waits, and does not wait for more; running sequences come
// before waiting ones and both share one budget of tokens; only full blocks
// are shared, by the hash of their content and of all that precedes them; a
// block can be hit as soon as the step that fills it is planned; at least one
// token of a prompt is always computed, so at most ⌊(n−1)/B⌋ blocks of it are
// hit; when blocks run out, the sequence that was admitted last is preempted
// and computes everything again later.
package batch
