//go:build race

package worker_test

// The race detector maps terabytes to write to, which no memory cap allows.
const raced = true
