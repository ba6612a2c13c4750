package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

const flushLimit = 5 * time.Second // for the last spans, when the collector is slow

// tracing makes the spans of what this process publishes, and sends them where
// the OTEL_ variables say; where they say nothing there are none. The caller
// calls the function returned when it is done.
func (a *App) tracing(ctx context.Context) (trace.TracerProvider, func(), error) {
	if !tracesWanted() {
		return noop.NewTracerProvider(), func() {}, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, nil, usage(fmt.Errorf("export traces: %w: see the OTEL_ variables", err))
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceNamespace("drover"), semconv.ServiceName("drover")),
		resource.WithFromEnv(), // last, so that OTEL_SERVICE_NAME wins
	)
	if err != nil {
		return nil, nil, usage(fmt.Errorf("describe this process in traces: %w: see OTEL_RESOURCE_ATTRIBUTES", err))
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return p, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			_, _ = fmt.Fprintf(a.Stderr, "drover: send the last spans: %v\n", err)
		}
	}, nil
}

// tracesWanted reports whether the environment names a place for traces. The
// SDK's own default would send to localhost unasked.
func tracesWanted() bool {
	switch os.Getenv("OTEL_TRACES_EXPORTER") {
	case "none":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	}
	return true
}
