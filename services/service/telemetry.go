package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/streams"
)

// namespace is the service.namespace of all services of a fleet; service.name
// within it is the name in the fleet file.
const namespace = "drover"

// How long sending what is left may take when a process ends. The parent of a
// child waits for its end with a slot.
const (
	flushLimit      = 5 * time.Second
	flushLimitChild = time.Second
)

// instruments make the spans and metrics of one process.
type instruments struct {
	instance string // service.instance.id
	traces   trace.TracerProvider
	meters   metric.MeterProvider
	registry *prometheus.Registry // of /metrics
	flush    time.Duration
	shutdown []func(context.Context) error
}

// startTelemetry sets up traces and metrics. Prometheus metrics are always there,
// except in a child; other exporters are as the OTEL_ variables say, and none
// where they say nothing. Its errors are about those variables.
func startTelemetry(ctx context.Context, service string, c *settings, child bool, log *slog.Logger) (*instruments, error) {
	otel.SetErrorHandler(&complaints{log: log})
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	t := &instruments{
		instance: rand.Text(), registry: prometheus.NewRegistry(), flush: flushLimit,
		traces: tracenoop.NewTracerProvider(), meters: metricnoop.NewMeterProvider(),
	}
	if child {
		t.flush = flushLimitChild
	}
	if !strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		res, err := t.resource(ctx, service)
		if err != nil {
			log.WarnContext(ctx, "telemetry does not say all of where it comes from", slog.Any("error", err))
		}
		err = t.startTraces(ctx, res)
		if err == nil {
			err = t.startMetrics(ctx, res, c.fleet, child)
		}
		if err != nil {
			t.close(ctx, log)
			return nil, fmt.Errorf("%w: start telemetry: %w: see the OTEL_ variables", ErrUsage, err)
		}
	}
	otel.SetTracerProvider(t.traces)
	otel.SetMeterProvider(t.meters)
	return t, nil
}

// resource describes the process. Its arguments are left out: they may hold
// secrets. The error is about parts that are missing in what it returns.
func (t *instruments) resource(ctx context.Context, service string) (*resource.Resource, error) {
	return resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithProcessPID(), resource.WithProcessExecutableName(),
		resource.WithProcessRuntimeName(), resource.WithProcessRuntimeVersion(),
		resource.WithAttributes(
			semconv.ServiceNamespace(namespace), semconv.ServiceName(service),
			semconv.ServiceVersion(Version()), semconv.ServiceInstanceID(t.instance),
		),
		resource.WithFromEnv(), // last, so that OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	)
}

// startTraces makes a provider whose sampler is OTEL_TRACES_SAMPLER's. Without an
// exporter its spans are sent nowhere, and still join log lines and exemplars.
func (t *instruments) startTraces(ctx context.Context, res *resource.Resource) error {
	o := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if exported("TRACES") {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return fmt.Errorf("export traces: %w", err)
		}
		o = append(o, sdktrace.WithBatcher(exporter))
	}
	p := sdktrace.NewTracerProvider(o...)
	t.traces, t.shutdown = p, append(t.shutdown, p.Shutdown)
	return nil
}

func (t *instruments) startMetrics(ctx context.Context, res *resource.Resource, fleet *streams.Fleet, child bool) error {
	bounds := buckets(fleet)
	o := []sdkmetric.Option{
		sdkmetric.WithResource(res),
		sdkmetric.WithView(histogram(telemetry.MetricWait, bounds), histogram(telemetry.MetricRun, bounds)),
	}
	if !child { // nobody scrapes one
		reader, err := promexporter.New(promexporter.WithRegisterer(t.registry), promexporter.WithoutScopeInfo())
		if err != nil {
			return fmt.Errorf("export metrics for scraping: %w", err)
		}
		if err := t.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})); err != nil {
			return fmt.Errorf("export metrics of the process: %w", err)
		}
		o = append(o, sdkmetric.WithReader(reader))
	}
	if exported("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("export metrics: %w", err)
		}
		o = append(o, sdkmetric.WithReader(reader))
	}
	p := sdkmetric.NewMeterProvider(o...)
	t.meters, t.shutdown = p, append(t.shutdown, p.Shutdown)
	if child {
		return nil
	}
	if err := runtime.Start(runtime.WithMeterProvider(p)); err != nil {
		return fmt.Errorf("measure the Go runtime: %w", err)
	}
	return nil
}

// close sends what is left and ends all exporters.
func (t *instruments) close(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.flush)
	defer cancel()
	errs := make([]error, len(t.shutdown))
	var wg sync.WaitGroup
	for i, f := range t.shutdown { // at once: a dead collector must not take the time of all
		wg.Go(func() { errs[i] = f(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		log.WarnContext(ctx, "the last spans and metrics may be lost", slog.Any("error", err))
	}
}

// exported reports whether the environment asks for an exporter of the signal.
// The SDK's own default would send to localhost unasked; Prometheus is there
// already, on the admin port.
func exported(signal string) bool {
	switch os.Getenv("OTEL_" + signal + "_EXPORTER") {
	case "none", "prometheus":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
	}
	return true
}

// buckets are the bounds of the histograms of waiting and running, in seconds.
// The objectives and time limits of the fleet are among them, so that the share
// of tasks within each is exact.
func buckets(fleet *streams.Fleet) []float64 {
	bounds := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900}
	for _, c := range fleet.Classes {
		for _, d := range []time.Duration{c.WaitObjective, c.TimeLimit} {
			if d > 0 {
				bounds = append(bounds, d.Seconds())
			}
		}
	}
	slices.Sort(bounds)
	return slices.Compact(bounds)
}

func histogram(name string, bounds []float64) sdkmetric.View {
	return sdkmetric.NewView(sdkmetric.Instrument{Name: name},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: bounds}})
}

// complaints logs the errors of exporters, one a minute: a collector that is away
// makes one every few seconds.
type complaints struct {
	log *slog.Logger

	mu   sync.Mutex
	next time.Time
}

const complaintEvery = time.Minute

// Handle logs err unless another was logged within the minute.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.After(c.next) {
		c.next = now.Add(complaintEvery)
		c.log.WarnContext(context.Background(), "telemetry is being lost", slog.Any("error", err))
	}
}
