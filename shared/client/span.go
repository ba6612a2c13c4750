package client

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/telemetry"
)

// Attributes are set on spans that are recorded only: on the others they would cost
// more than the rest of the span (BenchmarkPublish).
var spanKind = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)}

func (c *Client) startSpan(ctx context.Context, r *route) (context.Context, trace.Span) {
	ctx, span := c.tracer.Start(ctx, r.spanName, spanKind...) // endSpan ends it
	if span.IsRecording() {
		span.SetAttributes(r.attrs...)
	}
	return ctx, span
}

func attributes(r *route) []attribute.KeyValue {
	attrs := []attribute.KeyValue{
		attribute.String(telemetry.MessagingSystem, "nats"),
		attribute.String(telemetry.MessagingOperationName, "publish"),
		attribute.String(telemetry.MessagingOperationType, "send"),
		attribute.String(telemetry.MessagingDestination, r.class.Stream()),
		attribute.String(telemetry.TaskKind, r.kind),
		attribute.String(telemetry.TaskClass, string(r.class)),
	}
	if r.tenant != "" {
		attrs = append(attrs, attribute.String(telemetry.TaskTenant, r.tenant))
	}
	return attrs
}

func endSpan(span trace.Span, m *message, rc Receipt, err error) {
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String(telemetry.TaskID, m.id),
			attribute.String(telemetry.MessagingMessageID, m.id),
		)
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
			span.SetAttributes(attribute.String(telemetry.ErrorType, errorType(err)))
		} else {
			span.SetAttributes(attribute.Int64(telemetry.MessagingSequence, int64(rc.Sequence)))
		}
	}
	span.End()
}

// errorType is a name out of few for err.
func errorType(err error) string {
	for _, e := range []struct {
		err  error
		name string
	}{
		{ErrUnknown, "unknown"},
		{ErrNoStream, "no_stream"},
		{ErrFull, "full"},
		{ErrTooLarge, "too_large"},
		{ErrDenied, "denied"},
	} {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return "_OTHER"
}
