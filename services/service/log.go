package service

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Keys of the attributes that join a log line to a span and to its process, as
// OpenTelemetry names them outside of OTLP.
const (
	logTraceID = "trace_id"
	logSpanID  = "span_id"
	logService = "service.name"
)

// newLogger returns the logger of a service: lines of text or JSON on w, each
// with what its context knows of span and task.
func newLogger(w io.Writer, service, format string, level slog.Level) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if format == "json" {
		h = slog.NewJSONHandler(w, o)
	}
	return slog.New(contextHandler{h}).With(slog.String(logService, service))
}

// contextHandler adds the span and the task of the context to every record. In a
// logger with a group they become part of the group.
type contextHandler struct{ slog.Handler }

// Handle passes r on with the attributes added.
func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	sc := trace.SpanContextFromContext(ctx)
	info, ok := task.FromContext(ctx)
	if sc.IsValid() || ok {
		r = r.Clone()
	}
	if ok && !has(r, telemetry.TaskID) {
		r.AddAttrs(
			slog.String(telemetry.TaskID, info.ID),
			slog.String(telemetry.TaskKind, info.Kind),
			slog.Int(telemetry.TaskAttempt, info.Attempt+1),
		)
	}
	if sc.IsValid() {
		r.AddAttrs(slog.String(logTraceID, sc.TraceID().String()), slog.String(logSpanID, sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs returns a handler that adds the attributes as well.
func (h contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return contextHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup returns a handler that opens the group.
func (h contextHandler) WithGroup(name string) slog.Handler {
	return contextHandler{h.Handler.WithGroup(name)}
}

func has(r slog.Record, key string) bool {
	found := false
	r.Attrs(func(a slog.Attr) bool {
		found = a.Key == key
		return !found
	})
	return found
}
