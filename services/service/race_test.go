//go:build race

package service_test

// The race detector takes memory beside the runtime, and ends the process in its own
// words when there is none.
const raced = true
