package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/worker"
)

// BenchmarkDrainLimited is [BenchmarkDrain] without, and with a breaker and a rate
// limit that is not reached.
func BenchmarkDrainLimited(b *testing.B) {
	nothing := func(context.Context, note) error { return nil }
	b.Run("without", func(b *testing.B) { drain(b, nothing) })
	b.Run("with", func(b *testing.B) {
		drain(b, nothing, worker.Breaker(breaker.Policy{}, host),
			worker.RateLimit(ratelimit.Policy{Limit: 1_000_000, Per: time.Second}, account))
	})
}
