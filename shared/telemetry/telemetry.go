// Package telemetry holds the names under which Drover's parts report: spans,
// metrics, and the keys of attributes and log records, so that a trace, a metric
// and a log line of one task can be joined.
//
// # Semantics
//
// A task is one trace: a PRODUCER span "publish <kind>", and under it a CONSUMER
// span "process <kind>" for each attempt, linked to the attempt before. A redrive
// starts a new trace that links to the old one; [TaskID] is the same in both.
// Names follow the messaging conventions of OpenTelemetry (semconv 1.43, status
// Development) where they have one.
//
// # Concurrency
//
// Only constants, pure functions, and [Carrier], a map type.
package telemetry

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Scope is the instrumentation scope of all tracers and meters of this module.
const Scope = "github.com/droverhq/drover"

// Keys of span attributes and log records. Of these only class, kind, lane and
// verdict are on metrics: the others have no bound.
const (
	TaskID         = "task.id"
	TaskKind       = "task.kind"
	TaskClass      = "task.class"
	TaskTenant     = "task.tenant"
	TaskAttempt    = "task.attempt"    // 1 for the first
	TaskGeneration = "task.generation" // redrives so far
	TaskDeaths     = "task.deaths"
	TaskVerdict    = "task.verdict" // how the delivery was settled
	TaskReason     = "task.reason"  // why it was moved
	TaskService    = "task.service"
	TaskLane       = "task.lane" // "live" or "retry"
	BreakerState   = "breaker.state"
	Destination    = "destination" // of a breaker; in logs alone

	IsolationMemory    = "isolation.memory"    // what caps the memory of isolated tasks: "cgroup", "rlimit" or "none"
	IsolationProcesses = "isolation.processes" // how what they start is found: "cgroup", "environment" or "group"

	MessagingSystem        = "messaging.system"
	MessagingOperationName = "messaging.operation.name"
	MessagingOperationType = "messaging.operation.type"
	MessagingDestination   = "messaging.destination.name" // the stream
	MessagingSubscription  = "messaging.destination.subscription.name"
	MessagingMessageID     = "messaging.message.id"
	MessagingSequence      = "messaging.nats.sequence"
	ErrorType              = "error.type"
)

// Names of metrics, with their units.
const (
	MetricWait      = "drover.task.wait"        // s, histogram: due to start
	MetricRun       = "drover.task.run"         // s, histogram: time in the handler
	MetricSettled   = "drover.task.settled"     // {task}, counter, by verdict
	MetricMoves     = "drover.task.moves"       // {move}, counter, by reason
	MetricDead      = "drover.task.dead"        // {task}, counter, by reason
	MetricDeaths    = "drover.task.deaths"      // {death}, counter
	MetricLeaseLost = "drover.task.lease_lost"  // {task}, counter
	MetricInFlight  = "drover.worker.in_flight" // {task}, gauge: running handlers
	MetricHeld      = "drover.worker.held"      // {task}, gauge: leased, running or not
	MetricSlots     = "drover.worker.slots"     // {slot}, gauge
	MetricLeaked    = "drover.worker.leaked"    // {slot}, gauge: abandoned handlers

	MetricBreakerTurns = "drover.breaker.transitions"  // {transition}, counter, by state, from the process that made it
	MetricBreakers     = "drover.breaker.destinations" // {destination}, gauge, by state, as this process knows them

	MetricIsolated      = "drover.worker.isolation" // {worker}, gauge: 1, by how isolated tasks are confined
	MetricIsolatedEnded = "drover.isolated.ended"   // {task}, counter: processes that ended without a verdict, by error.type

	MetricDepth  = "drover.lane.depth"      // {task}, gauge, from the consumer's leader
	MetricOldest = "drover.lane.oldest_age" // s, gauge
)

var propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// Extract returns ctx with the trace context and baggage of h, if it has any.
// W3C trace context is the format of the wire, whatever the process's global
// propagator is.
func Extract(ctx context.Context, h nats.Header) context.Context {
	traced, baggage := false, false
	for name := range h { // most raw tasks have neither, and asking a propagator takes ten times as long
		traced = traced || len(name) == len("traceparent") && strings.EqualFold(name, "traceparent")
		baggage = baggage || len(name) == len("baggage") && strings.EqualFold(name, "baggage")
	}
	if traced {
		ctx = propagation.TraceContext{}.Extract(ctx, Carrier(h))
	}
	if baggage {
		ctx = propagation.Baggage{}.Extract(ctx, Carrier(h))
	}
	return ctx
}

// Unsampled reports whether h names a trace that its publisher did not sample: a
// valid traceparent whose sampled flag is off. Who reads a task then makes no span
// of its own, because one without its parent and its siblings says little.
func Unsampled(h nats.Header) bool {
	values := h["traceparent"]
	if len(values) == 0 || len(values[0]) != len(exampleParent) {
		return false
	}
	v := values[0]
	for i := range len(v) {
		c, dash := v[i], exampleParent[i] == '-'
		if dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return v[:3] == "00-" && v[3:35] != noTrace && v[36:52] != noTrace[:16] && (v[53:] == "00" || v[53:] == "02") // the other bits are not defined
}

const (
	exampleParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" // of W3C trace context
	noTrace       = "00000000000000000000000000000000"
)

// Inject writes the trace context and baggage of ctx into h, if it has any.
func Inject(ctx context.Context, h nats.Header) { propagator.Inject(ctx, Carrier(h)) }

// Traceparent returns the W3C form of sc, and "" when sc is not valid.
func Traceparent(sc trace.SpanContext) string {
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), sc), c)
	return c["traceparent"]
}

// ParseTraceparent reads what [Traceparent] wrote. The result is not valid when
// s is not.
func ParseTraceparent(s string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": s})
	return trace.SpanContextFromContext(ctx)
}
