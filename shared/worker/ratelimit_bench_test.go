package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/worker"
)

// BenchmarkDrainLimited drains the same backlog without and with a breaker and a rate
// limit that is not reached, in turns: ratio is what is left of the rate.
func BenchmarkDrainLimited(b *testing.B) {
	limits := []worker.HandlerOption{
		worker.Breaker(breaker.Policy{}, host),
		worker.RateLimit(ratelimit.Policy{Limit: 1_000_000, Per: time.Second}, account),
	}
	var without, with time.Duration
	for b.Loop() {
		without += drain(b)
		with += drain(b, limits...)
	}
	b.ReportMetric(float64(drainTasks)*float64(b.N)/without.Seconds(), "tasks/s-without")
	b.ReportMetric(float64(drainTasks)*float64(b.N)/with.Seconds(), "tasks/s-with")
	b.ReportMetric(without.Seconds()/with.Seconds(), "ratio")
}

// drain returns how long a worker takes for drainTasks.
func drain(b *testing.B, opts ...worker.HandlerOption) time.Duration {
	b.Helper()
	_, js := natstest.Listen(b)
	topology(b, js, ackWait)
	preload(b, js, drainTasks)
	var n atomic.Int64
	all := make(chan struct{})
	begin := time.Now()
	_, stop := start(b, js, func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, note) error {
			if n.Add(1) == drainTasks {
				close(all)
			}
			return nil
		}, opts...)
	})
	<-all
	took := time.Since(begin)
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	return took
}
