//go:build race

package worker_test

import "time"

// The race detector maps terabytes to write to, which no memory cap allows.
const raced = true

// hastyLimit is the time limit of the kind hasty: for the start of three processes, one
// after the other, on a busy machine.
const hastyLimit = 8 * time.Second
