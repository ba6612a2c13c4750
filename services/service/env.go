package service

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// Env is what the start-up hands to a service. Its methods are safe for
// concurrent use; its fields are not to be changed.
type Env struct {
	Service   string // its name in the fleet file
	JetStream jetstream.JetStream
	Fleet     *streams.Fleet
	Log       *slog.Logger

	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	classes []worker.Class
	pool    worker.Pool
	drain   time.Duration
	recycle []worker.Option
	health  *health
	doing   *doing
}

// WorkerOptions are what the fleet file and the flags say of a worker of this
// service: classes with their slots and limits, pool and drain limit; and its
// logger and telemetry. Options that follow them win, except worker.Serve, which
// adds classes.
func (e *Env) WorkerOptions() []worker.Option {
	return append([]worker.Option{
		worker.Serve(e.classes...),
		worker.Only(e.pool),
		worker.DrainLimit(e.drain),
		worker.Logger(e.Log),
		worker.TracerProvider(e.TracerProvider),
		worker.MeterProvider(e.MeterProvider),
	}, e.recycle...)
}

// Run runs w, which was made with WorkerOptions, until ctx is done. Meanwhile
// /readyz asks it, and `drover ps` shows what it does. It returns what w's Run
// returns.
func (e *Env) Run(ctx context.Context, w *worker.Worker) error {
	e.Ready(w.Ready)
	e.doing.ask(w.Status)
	return w.Run(ctx)
}

// Ready names the function that /readyz asks from now on, for a service that does
// more than [Env.Run] a worker. Until it is called the service is not ready.
func (e *Env) Ready(f func() error) { e.health.ask(f) }

// workerClasses are the classes of the fleet file as a worker takes them.
func workerClasses(classes []streams.Class) []worker.Class {
	out := make([]worker.Class, len(classes))
	for i, c := range classes {
		out[i] = worker.Class{
			Name: c.Name, Slots: c.Slots, RetrySlots: c.RetrySlots,
			TimeLimit: c.TimeLimit, Retry: c.Retry(), MaxDeliver: c.MaxDeliver, Partitions: c.Partitions,
		}
	}
	return out
}
