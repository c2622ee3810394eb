// Package vllm is the wire format of vLLM 0.32's server as the simulated
// engine speaks it: requests read and checked as pydantic and vLLM do, with
// their words when something is wrong, and answers written key for key. It is
// pure; what computes the answers is package simulate.
//
// A request is read in vLLM's order, since the first thing that is wrong is
// what the client is told: JSON, then the checks on the raw object, then every
// field's type, then (in package simulate) the model's name and the prompt's
// length, then Sampling.Check, then Sampling.Verify and the token ids. The
// last two happen in the engine itself: a streamed request gets their error
// as an event.
//
// Not here: structured outputs (accepted, not enforced), beam search and
// multimodal input (refused), adapters, and everything that only other
// endpoints have.
package vllm
