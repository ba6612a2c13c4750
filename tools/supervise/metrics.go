package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/streams"
)

// lanesAge is how old the figures of a scrape may be. Every scrape asks each
// consumer's leader, so scrapers that come together share one answer.
const lanesAge = 3 * time.Second

// measure registers depth and oldest age of every lane, for scraping, and for the
// OTLP exporter when the environment names one. This is the one place of a fleet
// on one machine that asks the consumers' leaders for them.
func (s *Supervisor) measure(ctx context.Context, registry prometheus.Registerer) (stop func(context.Context) error, err error) {
	scraped, err := promexporter.New(promexporter.WithRegisterer(registry), promexporter.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("export metrics for scraping: %w", err)
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceNamespace("drover"), semconv.ServiceName("drover-up")), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("describe where metrics come from: %w", err)
	}
	options := []sdkmetric.Option{sdkmetric.WithReader(scraped), sdkmetric.WithResource(res)}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") != "" {
		if kind := os.Getenv("OTEL_METRICS_EXPORTER"); kind == "" || kind == "otlp" {
			reader, err := autoexport.NewMetricReader(ctx)
			if err != nil {
				return nil, fmt.Errorf("export metrics: %w: see the OTEL_ variables", err)
			}
			options = append(options, sdkmetric.WithReader(reader))
		}
	}
	provider := sdkmetric.NewMeterProvider(options...)
	if err := s.lanes.register(provider.Meter(telemetry.Scope)); err != nil {
		return nil, errors.Join(fmt.Errorf("measure lanes: %w", err), provider.Shutdown(ctx))
	}
	return provider.Shutdown, nil
}

func (c *laneCache) register(meter metric.Meter) error {
	depth, err := meter.Int64ObservableGauge(telemetry.MetricDepth, metric.WithUnit("{task}"),
		metric.WithDescription("Tasks that are due and were never delivered."))
	if err != nil {
		return err
	}
	oldest, err := meter.Float64ObservableGauge(telemetry.MetricOldest, metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest task of the lane, delivered or not; 0 when it is empty."))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		lanes, err := c.get(ctx, lanesAge)
		for _, l := range lanes {
			of := metric.WithAttributes(laneAttributes(l)...)
			o.ObserveInt64(depth, int64(l.Depth), of)
			o.ObserveFloat64(oldest, l.OldestAge.Seconds(), of)
		}
		return err
	}, depth, oldest)
	return err
}

func laneAttributes(l streams.Lane) []attribute.KeyValue {
	kind := "live"
	if l.Retry {
		kind = "retry"
	}
	return []attribute.KeyValue{
		attribute.String(telemetry.TaskService, l.Service),
		attribute.String(telemetry.TaskClass, string(l.Class)),
		attribute.String(telemetry.TaskLane, kind),
	}
}
