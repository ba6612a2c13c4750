package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/worker"
)

const drainLimit = 5 * time.Minute // for one drain, on the slowest broker

// drained is one drain.
type drained struct {
	rate   float64 // tasks/s
	allocs float64 // of the process, per task
}

// consume starts to take tasks and calls done for each. It returns a function
// that stops it.
type consume func(ctx context.Context, done func(n int)) (stop func() error, err error)

// drain preloads the stream and measures how long take needs to empty it.
func (r *run) drain(ctx context.Context, take consume) (drained, error) {
	if err := r.fresh(ctx); err != nil {
		return drained{}, err
	}
	if _, err := client.PublishAll(ctx, r.client, r.notes()); err != nil {
		return drained{}, fmt.Errorf("preload: %w", err)
	}
	// From here on an interruption waits: a worker that stops in the middle would
	// give tasks back, to streams that are not ours.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), drainLimit, fmt.Errorf("not drained after %v", drainLimit))
	defer cancel()
	var handled atomic.Int64
	all := make(chan struct{})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	base := time.Now()
	var first atomic.Int64 // ns since base; what comes before is getting ready
	stop, err := take(ctx, func(int) {
		switch handled.Add(1) {
		case 1:
			first.Store(int64(time.Since(base)))
		case int64(r.Tasks):
			close(all)
		}
	})
	if err != nil {
		return drained{}, err
	}
	select {
	case <-all:
		err = r.empty(ctx)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	took := time.Since(base) - time.Duration(first.Load())
	runtime.ReadMemStats(&after)
	if err := errors.Join(err, stop()); err != nil {
		return drained{}, err
	}
	if n := handled.Load(); n != int64(r.Tasks) {
		return drained{}, fmt.Errorf("%d tasks were handled %d times", r.Tasks, n)
	}
	n := float64(r.Tasks)
	return drained{rate: n / took.Seconds(), allocs: float64(after.Mallocs-before.Mallocs) / n}, nil
}

func (r *run) notes() []note {
	notes := make([]note, r.Tasks)
	for i := range notes {
		notes[i] = note{Text: text, N: i}
	}
	return notes
}

// byWorker takes tasks as a service does.
func (r *run) byWorker(ctx context.Context, done func(int)) (func() error, error) {
	w, err := worker.New(r.sub, service,
		worker.Serve(worker.Class{Name: class, Slots: slots}),
		worker.Only(worker.LivePool),
		worker.TracerProvider(r.traces), worker.MeterProvider(r.meters), worker.Logger(r.Logger),
	)
	if err != nil {
		return nil, err
	}
	worker.Handle(w, func(_ context.Context, n note) error { done(n.N); return nil })
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { err = w.Run(ctx) })
	return func() error {
		cancel()
		// Without its consumer the worker does not wait for its last pull to end.
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
		defer done()
		gone := r.pub.DeleteConsumer(ctx, class.Stream(), service)
		wg.Wait()
		return errors.Join(err, gone)
	}, nil
}

// bareBuffer is what nats.go may hold beyond what it handles, and what the broker
// may leave unacknowledged; more gained nothing.
const bareBuffer = 1000

// byNats takes the same messages with nats.go alone. number tells them apart; nil
// means nobody looks into them.
func (r *run) byNats(number func(jetstream.Msg) int) consume {
	return func(ctx context.Context, done func(int)) (func() error, error) {
		c, err := r.bareConsumer(ctx)
		if err != nil {
			return nil, err
		}
		failed := make(chan error, 1)
		cc, err := c.Consume(func(m jetstream.Msg) {
			n := 0
			if number != nil {
				n = number(m)
			}
			done(n)
			if err := m.Ack(); err != nil {
				select {
				case failed <- err:
				default: // the first is enough
				}
			}
		}, jetstream.PullMaxMessages(bareBuffer))
		if err != nil {
			return nil, err
		}
		return func() error {
			cc.Stop()
			<-cc.Closed()
			select {
			case err := <-failed:
				return fmt.Errorf("acknowledge: %w", err)
			default:
				return nil
			}
		}, nil
	}
}

// bareConsumer replaces the worker's durable: a work queue has one consumer for a
// subject, and the fleet's leaves fewer messages unacknowledged than bare nats.go
// has in hand.
func (r *run) bareConsumer(ctx context.Context) (jetstream.Consumer, error) {
	if err := r.sub.DeleteConsumer(ctx, class.Stream(), service); err != nil {
		return nil, err
	}
	return r.sub.CreateConsumer(ctx, class.Stream(), jetstream.ConsumerConfig{
		Durable: service, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 2 * bareBuffer,
	})
}
