//go:build race

package demo_test

// The race detector maps terabytes to write to, and ends a process that may not in
// words of its own.
const raced = true
