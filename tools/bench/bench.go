// Package bench measures what Drover costs: every figure stands beside the same
// work done with bare nats.go, on the same broker, in the same run.
//
// # Semantics
//
// A run has several rounds, and a round measures everything once, Drover and bare
// nats.go in turn, so that what slows the machine down slows both. A ratio is the
// median of the rounds' ratios. One round before the first is not counted.
//
//   - drain: preloaded tasks whose handler does nothing, from the first handler to
//     the last acknowledgement seen by the broker. The worker has metrics on and
//     samples 1 % of traces; bare is one consumer, explicit acknowledgements, no
//     decoding.
//   - publish one: one task after the other, each waiting for its PubAck; Drover
//     and bare take turns at every single one.
//   - publish many: pipelined, with a message id for each, as PublishAll always
//     has. Bare async publish is measured with such ids and without.
//   - start: from the call of publish to the first line of the handler, at a
//     steady rate and in open loop: a slow task does not hold up the next.
//   - allocations: of the whole process during drain, per task; that of an
//     embedded broker is in both columns.
//
// # On whose broker
//
// Without Config.Broker it runs one in a folder for the occasion. On a broker that
// is named it makes the stream TASKS_BENCH, works in that alone, and deletes it; it
// does not start when there is one already.
package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/shared/client"
)

// Config of a run. The zero value is a full run on a broker of its own.
type Config struct {
	Broker   *broker.Options // nil: one embedded in this process
	Replicas int             // of the stream; 0 means 1

	Rounds int           // that count; 0 means 5
	Tasks  int           // drained, and published as many, in each; 0 means 50,000, at least 2
	Single int           // published one by one in each; 0 means 2,000
	Start  time.Duration // how long the time to start is measured in each; 0 means 5 s

	Progress func(line string) // is told of every figure; nil means nobody is
	Logger   *slog.Logger      // nil means slog.Default
}

// Quick is a run of seconds, for a first look. Its figures vary more.
func Quick() Config {
	return Config{Rounds: 3, Tasks: 20_000, Single: 500, Start: time.Second}
}

func (c Config) withDefaults() Config {
	for _, f := range []struct {
		field *int
		value int
	}{{&c.Replicas, 1}, {&c.Rounds, 5}, {&c.Tasks, 50_000}, {&c.Single, 2_000}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	c.Tasks = max(c.Tasks, 2) // the first and the last
	if c.Start == 0 {
		c.Start = 5 * time.Second
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// run is one run and the connections that it measures over.
type run struct {
	Config

	pub, sub jetstream.JetStream // who publishes and who works are seldom one process
	client   *client.Client
	traces   *sdktrace.TracerProvider
	meters   *metric.MeterProvider
}

const sampled = 0.01 // of all traces

// Run measures. When ctx ends it stops after the figure that it is at, and returns
// the cause; the broker is left as it was found.
func Run(ctx context.Context, c Config) (_ *Report, err error) {
	begin := time.Now()
	r := &run{Config: c.withDefaults()}
	closeAll, err := r.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, closeAll()) }()

	var rounds []round
	for i := range r.Rounds + 1 {
		label := fmt.Sprintf("round %d of %d", i, r.Rounds)
		if i == 0 {
			label = "warm-up"
		}
		got, err := r.round(ctx, label, i)
		if err != nil {
			return nil, fmt.Errorf("bench: %s: %w", label, err)
		}
		if i > 0 {
			rounds = append(rounds, got)
		}
	}
	report := summarize(rounds)
	report.Rounds, report.Tasks = r.Rounds, r.Tasks
	report.Broker, report.Embedded = r.pub.Conn().ConnectedServerVersion(), c.Broker == nil
	report.Go, report.CPUs = runtime.Version(), runtime.GOMAXPROCS(0)
	report.Seconds = time.Since(begin).Seconds()
	return report, nil
}

// open starts the broker if there is none, connects, and makes the stream. The
// caller calls the function returned.
func (r *run) open(ctx context.Context) (_ func() error, err error) {
	var undo []func() error
	closeAll := func() error {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	o := r.Broker
	if o == nil {
		server, stop, err := ownBroker(r.Logger)
		if err != nil {
			return nil, err
		}
		undo = append(undo, stop)
		o = &broker.Options{URL: server.URL(), Logger: r.Logger}
	}
	for _, js := range []*jetstream.JetStream{&r.pub, &r.sub} {
		if *js, err = broker.Connect(ctx, *o); err != nil {
			return nil, err
		}
		undo = append(undo, func() error { (*js).Conn().Close(); return nil })
	}
	r.traces = sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(sampled))),
		sdktrace.WithBatcher(nowhere{}),
	)
	r.meters = metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())) // as one that nobody scrapes
	undo = append(undo, func() error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(r.traces.Shutdown(ctx), r.meters.Shutdown(ctx))
	})
	if r.client, err = client.New(r.pub, client.TracerProvider(r.traces)); err != nil {
		return nil, err
	}
	if err := r.claim(ctx); err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return r.remove(context.WithoutCancel(ctx)) })
	return closeAll, nil
}

// ownBroker starts a broker with its streams in a folder that stop removes.
func ownBroker(log *slog.Logger) (_ *embed.Server, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "drover-bench-")
	if err != nil {
		return nil, nil, err
	}
	s, err := embed.Start(embed.Config{Dir: dir, Port: -1, Logger: log})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, func() error {
		s.Shutdown()
		return os.RemoveAll(dir)
	}, nil
}

// nowhere takes spans as an exporter does, and drops them.
type nowhere struct{}

// ExportSpans drops the spans.
func (nowhere) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }

// Shutdown does nothing.
func (nowhere) Shutdown(context.Context) error { return nil }
