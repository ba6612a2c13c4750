// Package worker runs tasks: it pulls them from a service's durable consumers,
// holds each under a lease, hands it to a handler, and settles it.
//
// # Semantics
//
// A delivery ends in one of three ways, decided in one place (settle.go): it is
// acknowledged, because the handler returned nil; it is moved to RETRY, where a
// broker timer brings it back; or it is moved to DEAD with its history. A move is
// published, seen to be stored, and only then is the original acknowledged, so a
// task is at every moment in a stream. It follows that a handler may run more
// than once for one task, when a process or a lease ends between the effect and
// the acknowledgement: use [task.Info.Key] as the idempotency key of the effect.
//
// A task runs under two limits. The lease is the broker's: it is extended every
// third of ack-wait for as long as the task is held, so that a long task is run
// once and a killed worker's tasks are back within ack-wait. The time limit is
// the class's or the kind's: it cancels the handler's context. A handler that
// ignores that for a grace period is abandoned, and its slot is lost until it
// returns.
//
// Tasks whose process dies under them are counted. From the second death on such
// a task runs alone in a child process, so that it cannot harm its neighbours,
// and a child that dies too makes it a dead letter. Tasks of a kind that is
// [Isolated] run in such a child from the first attempt on, under limits of memory,
// time and temp files.
//
// # Concurrency
//
// Run owns every goroutine that the worker starts and returns after all of them
// ended, except those of handlers that were abandoned. Handlers run concurrently,
// up to the slots of their class. Handle and Use must not be called after Run;
// all other methods are safe for concurrent use.
//
// # Errors
//
// Registration mistakes are kept and returned by Run before the first task.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Causes for which a handler's context is cancelled, as context.Cause gives them,
// and errors of Run.
var (
	ErrTimeLimit  = errors.New("time limit reached")                                // the cause when a run takes too long
	ErrLeaseLost  = errors.New("lease lost: another worker may have this task")     // the cause when the broker could not be told in time
	ErrPermitLost = errors.New("permit lost: another process may use the resource") // the cause when the lease of a cap could not be renewed in time
	ErrDraining   = errors.New("process is shutting down")                          // the cause when the drain limit is reached
	ErrAbandoned  = errors.New("handler ignored its cancelled context")             // the failure of an abandoned attempt
	ErrLeaked     = errors.New("too many handlers were abandoned")                  // returned by Run: start a fresh process
	ErrNotBound   = errors.New("consumer not found")                                // returned by Run when the topology is missing
)

// Worker takes the tasks of one service. Make one with [New].
type Worker struct {
	service string
	js      jetstream.JetStream
	nc      *nats.Conn
	config

	kinds      map[string]*kind // by action
	middleware []Middleware
	mistakes   []error

	tracer   trace.Tracer
	metrics  *metrics
	breakers *circuit.Breakers // nil when no kind has one
	permits  *permit.Permits   // nil when no kind has a cap
	capLease time.Duration     // of tests; 0: the default
	cgroups  *cgroups          // where isolated tasks have one of their own; nil for nowhere
	quotas   *quota.Quotas     // nil when no kind has a rate limit
	lanes    []*lane
	leaked   atomic.Int64
	stop     context.CancelCauseFunc // ends Run
	giveUp   chan struct{}           // closed when even settling has to end
	started  atomic.Bool

	refused refused

	mu     sync.Mutex
	status error     // why it is not ready; nil when it is
	moved  time.Time // when it last left a node that served nothing

	confinement Confinement
}

const (
	defaultDrain = 25 * time.Second
	defaultGrace = 5 * time.Second
	defaultLeaks = 4
	bindWithin   = 30 * time.Second // a leader election takes 6 to 8 s
	settleLimit  = 10 * time.Second // for settling what is left once draining is over
)

var errStarting = errors.New("starting")

// New returns a worker for the tasks of one service. It returns every mistake in
// the options, joined.
func New(js jetstream.JetStream, service string, opts ...Option) (*Worker, error) {
	w := &Worker{
		service: service, js: js, nc: js.Conn(),
		config: config{pool: AllPools, drain: defaultDrain, grace: defaultGrace, leaks: defaultLeaks},
		kinds:  map[string]*kind{}, giveUp: make(chan struct{}), status: errStarting,
	}
	errs := []error{task.CheckToken(service)}
	for _, o := range opts {
		errs = append(errs, o.apply(&w.config))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new worker of %s: %w", service, err)
	}
	if len(w.classes) == 0 {
		w.classes = []Class{Class{Name: task.Default}.withDefaults()}
	}
	if w.log == nil {
		w.log = slog.Default()
	}
	if w.traces == nil {
		w.traces = otel.GetTracerProvider()
	}
	if w.meter == nil {
		w.meter = otel.GetMeterProvider()
	}
	w.tracer = w.traces.Tracer(telemetry.Scope)
	return w, nil
}

// Run takes tasks until ctx is done, then drains: it pulls no more, gives back
// what it holds but has not started, lets running handlers finish within the
// drain limit, cancels the rest and gives their tasks back. It returns nil when
// all that succeeded. Handlers outlive ctx, so neither its end nor its values
// reach them: what they need comes by middleware.
//
// It returns the registration mistakes before taking anything, an error wrapping
// [ErrNotBound] when a consumer does not exist, one wrapping broker.ErrDenied when
// the worker may not ask for it, and after draining [ErrLeaked] when too many
// handlers were abandoned, or [ErrRecycle] when the process has reached a mark that
// the options set. It can be called once.
//
// While it runs it listens in on the connection's error handler for permissions
// that it lacks: set no other handler meanwhile.
func (w *Worker) Run(ctx context.Context) error {
	if w.started.Swap(true) {
		return fmt.Errorf("run worker of %s: it was run before", w.service)
	}
	if err := w.check(); err != nil {
		return fmt.Errorf("run worker of %s: %w", w.service, err)
	}
	for _, k := range w.kinds {
		for _, v := range slices.Backward(w.middleware) {
			k.handler = v(k.handler)
		}
	}
	if IsChild() {
		return w.runOne(ctx)
	}
	w.confine(ctx)
	defer broker.OnDenied(w.nc, w.hear)()
	if err := w.bind(ctx); err != nil {
		return fmt.Errorf("run worker of %s: %w", w.service, err)
	}
	var err error
	if w.metrics, err = newMetrics(w); err != nil {
		return fmt.Errorf("run worker of %s: %w", w.service, err)
	}
	defer w.metrics.close()
	for _, begin := range []func() (end func(), err error){w.measureIsolation, w.startBreakers, w.startPermits, w.startLimits} {
		end, err := begin()
		if err != nil {
			return fmt.Errorf("run worker of %s: %w", w.service, err)
		}
		defer end()
	}

	ctx, w.stop = context.WithCancelCause(ctx)
	defer w.stop(nil)
	for _, l := range w.lanes {
		if err := l.start(); err != nil {
			w.stop(fmt.Errorf("run worker of %s: %w", w.service, err))
			break
		}
	}
	if ctx.Err() == nil {
		w.setStatus(nil)
		w.log.InfoContext(ctx, "worker takes tasks", slog.String(telemetry.TaskService, w.service), slog.Int("lanes", len(w.lanes)))
	}
	w.watch(ctx)
	w.setStatus(ErrDraining)
	w.drainLanes()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// beside runs f until end is called, which waits for it: what a drain needs too does
// not end with the context of Run.
func beside(f func(context.Context)) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// watch looks after what the lanes cannot see of themselves, until ctx is done.
func (w *Worker) watch(ctx context.Context) {
	var wg sync.WaitGroup
	if ctx.Err() == nil {
		wg.Go(func() { w.watchRecycle(ctx) })
		wg.Go(func() { w.sweep(ctx) })
		wg.Go(func() { w.keepSpares(ctx) })
		for _, l := range w.lanes {
			for _, s := range l.sources {
				wg.Go(func() { s.watch(ctx) })
			}
		}
	}
	<-ctx.Done()
	wg.Wait()
}

// bind makes the lanes of the consumers that this worker serves, after asking
// the broker for the ack-wait of each.
func (w *Worker) bind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bindWithin)
	defer cancel()
	ctx, release := w.untilRefused(ctx)
	defer release()
	for i := range w.classes {
		c := &w.classes[i]
		if w.pool != RetryPool {
			if err := w.bindLane(ctx, c, c.Slots, liveLane, c.Name.Stream(), c.durables(w.service)...); err != nil {
				return err
			}
		}
		if w.pool != LivePool {
			if err := w.bindLane(ctx, c, c.RetrySlots, retryLane, task.RetryStream, c.Name.RetryConsumer(w.service)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Worker) bindLane(ctx context.Context, c *Class, slots int, pool laneKind, stream string, durables ...string) error {
	var of []*jetstream.ConsumerInfo
	for _, name := range durables {
		info, err := w.consumer(ctx, c, stream, name)
		if err != nil {
			return err
		}
		of = append(of, info)
	}
	w.lanes = append(w.lanes, newLane(w, c, pool, slots, of))
	return nil
}

// consumer asks for one consumer until the broker says whether there is one.
func (w *Worker) consumer(ctx context.Context, c *Class, stream, durable string) (*jetstream.ConsumerInfo, error) {
	for {
		try, cancel := context.WithTimeout(ctx, tryLimit) // a question that is lost is answered by nobody
		consumer, err := w.js.Consumer(try, stream, durable)
		cancel()
		switch {
		case err == nil:
			return consumer.CachedInfo(), nil
		case errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("bind to %s of %s: %w: run `drover streams apply` with a fleet file in which %s serves class %s",
				durable, stream, ErrNotBound, w.service, c.Name)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("bind to %s of %s: %w", durable, stream, broker.Why(ctx, err))
		}
		select { // an election, or a broker that is starting
		case <-time.After(retryFirst):
		case <-ctx.Done():
		}
	}
}

// drainLanes ends all lanes and returns when every delivery is settled, or when
// that has taken too long.
func (w *Worker) drainLanes() {
	giveUp := time.AfterFunc(w.drain+w.grace+settleLimit, func() { close(w.giveUp) })
	defer giveUp.Stop()

	var wg sync.WaitGroup
	for _, l := range w.lanes {
		wg.Go(l.drain)
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	if err := w.nc.FlushWithContext(ctx); err != nil {
		w.log.WarnContext(ctx, "the last acknowledgements may not have arrived: their tasks may run again", slog.Any("error", err))
	}
}

// Ready returns nil when every lane takes tasks and settles them, and else why
// not. It is what a readiness probe should ask.
func (w *Worker) Ready() error {
	w.mu.Lock()
	err := w.status
	w.mu.Unlock()
	if err != nil {
		return err
	}
	if s := w.nc.Status(); s != nats.CONNECTED {
		return fmt.Errorf("broker connection is %s", s)
	}
	if err := w.lacks(); err != nil {
		return err
	}
	for _, l := range w.lanes {
		if err := l.ready(); err != nil {
			return err
		}
	}
	if w.permits != nil {
		if err := w.permits.Err(); err != nil {
			return err
		}
	}
	if w.quotas != nil {
		return w.quotas.Err()
	}
	return nil
}

func (w *Worker) setStatus(err error) {
	w.mu.Lock()
	w.status = err
	w.mu.Unlock()
}

// leak counts an abandoned handler, and ends the worker when there are too many
// and no turn is to be waited for.
func (w *Worker) leak(n int64) {
	w.leaked.Add(n)
	if err := w.leaking(); n > 0 && err != nil && w.recycle.turn == nil {
		w.stop(err)
	}
}
