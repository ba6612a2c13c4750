package deadletter

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// metrics are the instruments of one run. None has a label without a bound.
type metrics struct {
	advisories metric.Int64Counter
	died       metric.Int64Counter
	sent       metric.Int64Counter
	failed     metric.Int64Counter
	strays     metric.Int64Counter
	rearmed    metric.Int64Counter
	removed    metric.Int64Counter
	sweepFails metric.Int64Counter

	orphans atomic.Int64
	groups  atomic.Int64
	leader  atomic.Int64

	registration metric.Registration
}

func newMetrics(p metric.MeterProvider) (*metrics, error) {
	meter := p.Meter(telemetry.Scope)
	m := &metrics{}
	var errs []error
	counter := func(to *metric.Int64Counter, name, unit, description string) {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		*to = c
		errs = append(errs, err)
	}
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	counter(&m.advisories, "drover.deadletter.advisories", "{advisory}", "Advisories handled, by outcome")
	counter(&m.died, telemetry.MetricDead, "{task}", "Tasks that were moved to DEAD, by reason")
	counter(&m.sent, "drover.deadletter.alerts", "{alert}", "Alerts sent, by channel")
	counter(&m.failed, "drover.deadletter.alerts_failed", "{alert}", "Tries to send an alert that failed, by channel")
	counter(&m.strays, "drover.deadletter.strays", "{task}", "Tasks that were given up without an advisory, found and settled")
	counter(&m.rearmed, "drover.deadletter.timers_rearmed", "{timer}", "Overdue timers in RETRY that were set again")
	counter(&m.removed, "drover.deadletter.orphans_removed", "{body}", "Bodies removed because nothing refers to them")
	counter(&m.sweepFails, "drover.deadletter.sweeps_failed", "{sweep}", "Sweeps that ended in an error, by sweep")
	orphans := gauge("drover.deadletter.orphans", "{body}", "Bodies that nothing refers to, at the last sweep of the leader")
	groups := gauge("drover.deadletter.groups", "{group}", "Kinds of death that the leader keeps count of")
	leader := gauge("drover.deadletter.leader", "{process}", "1 while this process leads")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var err error
	m.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(leader, m.leader.Load())
		if m.leader.Load() == 1 { // what another process sees is its word
			o.ObserveInt64(orphans, m.orphans.Load())
			o.ObserveInt64(groups, m.groups.Load())
		}
		return nil
	}, orphans, groups, leader)
	return m, err
}

func (m *metrics) close() { _ = m.registration.Unregister() } // it only fails when it was never registered

func label(key, value string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String(key, value))
}

func (m *metrics) advisory(ctx context.Context, outcome string) {
	m.advisories.Add(ctx, 1, label("outcome", outcome))
}

func (m *metrics) dead(ctx context.Context, reason task.Reason, st *task.State) {
	m.died.Add(ctx, 1, metric.WithAttributes(
		attribute.String(telemetry.TaskReason, string(reason)),
		attribute.String(telemetry.TaskClass, string(st.Subject.Class)),
		attribute.String(telemetry.TaskService, st.Subject.Service),
	))
}
