//go:build !race

package worker_test

import "time"

const (
	raced      = false
	hastyLimit = 4 * time.Second
)
