package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracesEnv is where spans go. A Jaeger takes spans alone, and answers 404 to the
// metrics that OTEL_EXPORTER_OTLP_ENDPOINT would send it as well.
const tracesEnv = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"

const flushLimit = 5 * time.Second // for the last spans, when the collector is slow

// tracing makes the spans of what this process publishes, and sends them where
// the OTEL_ variables say; where they say nothing there are none. What gets lost on
// the way is told to say. The caller calls the function returned when it is done.
func (a *App) tracing(ctx context.Context, say func(text string)) (trace.TracerProvider, func(), error) {
	if !tracesWanted() {
		return noop.NewTracerProvider(), func() {}, nil
	}
	complain(say)
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
			a.complaint("send the last spans: " + err.Error())
		}
	}, nil
}

// complain hands the errors of exporters to say, one a minute: a collector that is
// away makes one every few seconds, and they would land in the middle of a screen.
// Without it the SDK writes them to standard error as raw log lines.
func complain(say func(text string)) {
	var mu sync.Mutex
	var next time.Time
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Minute)
			say("telemetry is being lost: " + err.Error())
		}
	}))
}

// complaint is a line on standard error.
func (a *App) complaint(text string) { _, _ = fmt.Fprintf(a.Stderr, "drover: %s\n", text) }

// tracesWanted reports whether the environment names a place for traces. The
// SDK's own default would send to localhost unasked.
func tracesWanted() bool {
	switch os.Getenv("OTEL_TRACES_EXPORTER") {
	case "none":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv(tracesEnv) != ""
	}
	return true
}
