// Package deadletter looks after the tasks that nobody else looks after: it moves
// what the broker gave up on to DEAD, finds what is stranded, and tells people of
// new kinds of death.
//
// # Semantics
//
// A task that the broker gave up on stays in its stream and is never delivered
// again. It is copied to DEAD, the copy is confirmed, and only then is the original
// deleted, by its sequence. Whatever ends in between is done again and changes
// nothing: the copy has the message id that a worker's own move would have, and
// a later hop of the task in RETRY or DEAD says that the original is done with.
//
// What is promised: no task is lost, and there is one letter for it, unless a
// person redrives or discards the letter between the copy and the delete, when it
// may come back. What is not: that such a task did not run to its end. A worker
// that lost its lease long ago may still run it, and its late acknowledgement may
// come after the letter. So a letter with reason crash-loop is to be redriven with
// the idempotency key of its task, like any other.
//
// # Concurrency
//
// Several processes may run. They share the advisories; one of them, the leader,
// sweeps and raises alerts. Two that both believe to lead for a moment do no harm:
// every change is compared with what is there, and an alert may come twice.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

const (
	consumerName = "deadletter" // the durables of package streams
	alertsBucket = task.AlertsBucket
)

// Watchdog is the service. Make one with [New].
type Watchdog struct {
	config   Config
	channels []channel
}

// Deps are what a Watchdog works with. JetStream and Fleet are required; the
// topology of Fleet has to be on the broker.
type Deps struct {
	JetStream     jetstream.JetStream
	Fleet         *streams.Fleet
	Logger        *slog.Logger         // nil means slog.Default()
	MeterProvider metric.MeterProvider // nil means no metrics
}

// New returns a Watchdog, or an error that names every mistake in c. It connects
// to nothing.
func New(c Config) (*Watchdog, error) {
	channels, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("configure deadletter: %w", err)
	}
	return &Watchdog{config: c, channels: channels}, nil
}

// run is what the parts of one run share.
type run struct {
	*Watchdog

	js      jetstream.JetStream
	fleet   *streams.Fleet
	log     *slog.Logger
	metrics *metrics
	trouble trouble
	lanes   []streams.Consumer
	refused time.Time // when an advisory could not be handled last; handleAdvisories owns it
}

// Run works until ctx is done, and then returns nil. It returns an error when it
// cannot start. ready is called once it works, with what says from then on whether
// it can do its work. A Watchdog runs once.
func (w *Watchdog) Run(ctx context.Context, d Deps, ready func(func() error)) error {
	r := &run{Watchdog: w, js: d.JetStream, fleet: d.Fleet, log: d.Logger, lanes: d.Fleet.Topology().Consumers}
	if r.log == nil {
		r.log = slog.Default()
	}
	if d.MeterProvider == nil {
		d.MeterProvider = metricnoop.NewMeterProvider()
	}
	var err error
	if r.metrics, err = newMetrics(d.MeterProvider); err != nil {
		return fmt.Errorf("make metrics: %w", err)
	}
	defer r.metrics.close()
	advisories, err := r.advisories(ctx)
	if err != nil {
		return err
	}
	kv, err := d.JetStream.KeyValue(ctx, alertsBucket)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w: run `drover streams apply`", alertsBucket, err)
	}
	ready(r.trouble.get)
	var wg sync.WaitGroup
	wg.Go(func() { r.handleAdvisories(ctx, advisories) })
	wg.Go(func() { r.lead(ctx, kv) })
	wg.Wait()
	return nil
}

// whileLeading runs what only the leader does, until ctx is done.
func (r *run) whileLeading(ctx context.Context, kv jetstream.KeyValue) error {
	a, err := r.newAlerter(ctx, kv)
	if err != nil {
		return err
	}
	r.trouble.set("lead", nil)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wg.Go(func() { cancel(a.watch(ctx)) })
	for _, c := range append([]channel{logger{r.log}}, r.channels...) {
		wg.Go(func() { a.tell(ctx, c) })
	}
	wg.Go(func() { r.sweep(ctx) })
	wg.Wait()
	a.saveLast(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// sleep waits for d, and reports whether ctx is still not done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
