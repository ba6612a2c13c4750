package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Option configures [Redrive] and [Discard].
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

type config struct{ tracer trace.Tracer }

// TracerProvider sets where spans go. The default is the global provider of
// OpenTelemetry; nil makes no spans.
func TracerProvider(tp trace.TracerProvider) Option {
	return option(func(c *config) {
		if tp == nil {
			tp = noop.NewTracerProvider()
		}
		c.tracer = tp.Tracer(telemetry.Scope)
	})
}

func newConfig(opts []Option) config {
	var c config
	for _, o := range opts {
		o.apply(&c)
	}
	if c.tracer == nil {
		c.tracer = otel.GetTracerProvider().Tracer(telemetry.Scope)
	}
	return c
}

// Redrive publishes l again as the next generation, with the same body, and then
// deletes it from DEAD. The receipt is that of the new generation; its Duplicate
// is set when another redrive of l came first. Headers that the publisher set stay,
// except for the deadline.
//
// Until the new generation is stored the letter stays: the error then wraps
// [ErrNotFound] if it was redriven or discarded meanwhile, [ErrNoSubject],
// [ErrNoStream], or one of package client, such as client.ErrFull for a class
// without room, and client.ErrUnknown if the broker does not say, in which case
// redriving again is safe. An error that wraps [ErrStays] comes with a receipt: only
// the letter could not be deleted.
func Redrive(ctx context.Context, js jetstream.JetStream, l Letter, opts ...Option) (client.Receipt, error) {
	rc, err := redrive(ctx, js, &l, newConfig(opts))
	if err != nil {
		return rc, fmt.Errorf("redrive %s: %w", l.name(), err)
	}
	return rc, nil
}

func redrive(ctx context.Context, js jetstream.JetStream, l *Letter, cfg config) (client.Receipt, error) {
	if _, err := task.ParseSubject(first(l.Header, task.HeaderSubject)); err != nil {
		return client.Receipt{}, fmt.Errorf("%w: %s: %w", ErrNoSubject, task.HeaderSubject, err)
	}
	// One that was redriven long ago would be published again: its id is forgotten.
	if now, err := At(ctx, js, l.Sequence); err != nil {
		return client.Receipt{}, err
	} else if now.Where != l.Where {
		return client.Receipt{}, fmt.Errorf("%w: sequence %d is %s now", ErrNotFound, l.Sequence, now.Where)
	}
	c, err := client.New(js)
	if err != nil {
		return client.Receipt{}, err
	}
	ctx, span := cfg.tracer.Start(ctx, "redrive "+l.Subject.Kind(), spanStart(ctx, "redrive", l, trace.SpanKindProducer,
		attribute.String(telemetry.MessagingDestination, l.Subject.Class.Stream()),
		attribute.Int(telemetry.TaskGeneration, l.Generation+1),
		attribute.String(telemetry.MessagingOperationType, "send"),
		attribute.String(telemetry.MessagingMessageID, l.RedriveID()))...)
	defer span.End()
	rc, err := c.Forward(ctx, redriven(ctx, l))
	if err == nil {
		if _, derr := remove(ctx, js, l.Sequence); derr != nil {
			err = fmt.Errorf("%w: %w", ErrStays, derr)
		}
	}
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(attribute.String(telemetry.ErrorType, errorType(err)))
	} else {
		span.SetAttributes(attribute.Int64(telemetry.MessagingSequence, int64(rc.Sequence)))
	}
	return rc, err
}

// Headers that belong to the generation that died, beside all Nats-*.
var former = map[string]bool{
	task.HeaderEnqueuedAt: true, task.HeaderDeadline: true, task.HeaderSubject: true, task.HeaderAttempt: true,
	task.HeaderHop: true, task.HeaderDeaths: true, task.HeaderErrors: true, task.HeaderWaits: true, task.HeaderPrev: true,
	task.HeaderReason: true, task.HeaderDiedAt: true,
}

// redriven is l as the message of its next generation. The span of ctx is the
// root of its trace.
func redriven(ctx context.Context, l *Letter) *nats.Msg {
	h := make(nats.Header, len(l.Header))
	for k, v := range l.Header {
		lower := strings.ToLower(k)
		if !former[k] && !strings.HasPrefix(lower, "nats-") && lower != "traceparent" && lower != "tracestate" {
			h[k] = v
		}
	}
	h[task.HeaderMsgID] = []string{l.RedriveID()}
	h[task.HeaderID] = []string{l.ID}
	h[task.HeaderGeneration] = []string{strconv.Itoa(l.Generation + 1)}
	propagation.TraceContext{}.Inject(ctx, telemetry.Carrier(h))
	return &nats.Msg{Subject: l.Subject.String(), Header: h, Data: l.Body}
}

// spanStart is for the root of a new trace that links to those of l.
func spanStart(ctx context.Context, verb string, l *Letter, kind trace.SpanKind, attrs ...attribute.KeyValue) []trace.SpanStartOption {
	opts := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithSpanKind(kind),
		trace.WithAttributes(append(attrs,
			attribute.String(telemetry.MessagingSystem, "nats"),
			attribute.String(telemetry.MessagingOperationName, verb),
			attribute.String(telemetry.TaskID, l.ID),
			attribute.String(telemetry.TaskKind, l.Subject.Kind()),
			attribute.String(telemetry.TaskClass, string(l.Subject.Class)),
			attribute.String(telemetry.TaskReason, string(l.Reason)),
		)...),
	}
	for _, sc := range []trace.SpanContext{
		l.trace(),                          // where it was published
		telemetry.ParseTraceparent(l.Prev), // its last attempt
		trace.SpanContextFromContext(ctx),  // who asks
	} {
		if sc.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sc}))
		}
	}
	return opts
}

// errorType is a name out of few for err.
func errorType(err error) string {
	for _, e := range []struct {
		err  error
		name string
	}{
		{ErrStays, "stays"},
		{client.ErrUnknown, "unknown"},
		{client.ErrFull, "full"},
		{client.ErrNoStream, "no_stream"},
		{client.ErrTooLarge, "too_large"},
		{client.ErrDenied, "denied"},
	} {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return "_OTHER"
}

func first(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
