//go:build !linux

package worker

// Elsewhere the limits of memory and processor time, and of a single file, are not
// enforced, and what has left its process group is not found. Time limit, output and
// temp folder are as on Linux.
const limitsEnforced = false

func (i *isolation) limit(int) error { return nil }

func limitMemory(int64) error { return nil }

func killStrays(string, int, func() []int) {}

func startedSince() func() []int { return nil }
