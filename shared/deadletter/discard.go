package deadletter

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Discard deletes l and its body for ever. reason is for those who look at the
// task's traces later: it goes into the span "discard <kind>" and nowhere else.
//
// Discard returns an error wrapping [ErrNotFound] if someone else redrove or
// discarded l before, and leaves the body alone then. When only the body cannot
// be removed, the letter is gone all the same and the error says so. Do not
// discard a letter while someone redrives it: the new generation could lose its
// body.
func Discard(ctx context.Context, js jetstream.JetStream, l Letter, reason string, opts ...Option) error {
	ctx, span := newConfig(opts).tracer.Start(ctx, "discard "+l.Subject.Kind(), spanStart(ctx, "discard", &l, trace.SpanKindInternal,
		attribute.String(telemetry.MessagingDestination, task.DeadStream),
		attribute.String("task.discard.reason", reason))...)
	defer span.End()
	err := discard(ctx, js, &l)
	if err != nil {
		err = fmt.Errorf("discard %s: %w", l.name(), err)
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(attribute.String(telemetry.ErrorType, errorType(err)))
	}
	return err
}

func discard(ctx context.Context, js jetstream.JetStream, l *Letter) error {
	now, err := At(ctx, js, l.Sequence)
	if err != nil {
		return err
	}
	if now.Where != l.Where {
		return fmt.Errorf("%w: sequence %d is %s now", ErrNotFound, l.Sequence, now.Where)
	}
	was, err := remove(ctx, js, l.Sequence)
	switch {
	case err != nil:
		return err
	case !was:
		return ErrNotFound
	case l.Ref == "":
		return nil
	}
	if err := bodies.RemoveOf(ctx, js, l.Subject.Kind(), l.Ref); err != nil {
		return fmt.Errorf("the letter is gone, but its body stays: %w", err)
	}
	return nil
}
