// Package e2e runs the program between a real vLLM as the target and a real
// vLLM as the draft, and compares what comes out with what the target answers
// when it is asked directly. `make e2e` (the script run beside this file)
// installs and starts the engines and then runs the tests, which are behind
// the build tag e2e.
//
// A [Relay] stands in front of each engine and records what passes.
// [Recount] works out of such a recording, and of nothing that the proxy says,
// how many rounds a request took and how many drafted tokens were accepted.
package e2e
