package quota

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/droverhq/drover/shared/telemetry"
)

// meters are the instruments. Keys have no bound, so they are no label.
type meters struct {
	used, lost               atomic.Int64 // slots
	granted, failed, refused atomic.Int64 // requests; refused is when another process was first
	registration             metric.Registration
}

func (q *Quotas) instrument(p metric.MeterProvider) error {
	if p == nil {
		p = noop.NewMeterProvider()
	}
	m, meter := &q.meters, p.Meter(telemetry.Scope)
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(more, attribute.String(telemetry.TaskService, q.service))...))
	}
	slots := map[metric.MeasurementOption]*atomic.Int64{
		with(attribute.String(telemetry.LimitSlot, "used")): &m.used,
		with(attribute.String(telemetry.LimitSlot, "lost")): &m.lost,
	}
	requests := map[metric.MeasurementOption]*atomic.Int64{
		with(attribute.String(telemetry.LimitResult, "granted")):  &m.granted,
		with(attribute.String(telemetry.LimitResult, "conflict")): &m.refused,
		with(attribute.String(telemetry.LimitResult, "failed")):   &m.failed,
	}
	all := with()
	var errs [4]error
	taken, err := meter.Int64ObservableCounter(telemetry.MetricLimitSlots, metric.WithUnit("{slot}"),
		metric.WithDescription("Slots of rate limits that this process took, by whether it used them in time."))
	errs[0] = err
	asked, err := meter.Int64ObservableCounter(telemetry.MetricLimitRequests, metric.WithUnit("{request}"),
		metric.WithDescription("Requests for slots of rate limits to the broker, by result."))
	errs[1] = err
	busy, err := meter.Int64ObservableGauge(telemetry.MetricLimitKeys, metric.WithUnit("{key}"),
		metric.WithDescription("Keys whose tasks wait in line, as this process knows them."))
	errs[2] = err
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	m.registration, errs[3] = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for label, n := range slots {
			o.ObserveInt64(taken, n.Load(), label)
		}
		for label, n := range requests {
			o.ObserveInt64(asked, n.Load(), label)
		}
		o.ObserveInt64(busy, q.busy(), all)
		return nil
	}, taken, asked, busy)
	return errs[3]
}

// busy counts keys whose tasks wait in line.
func (q *Quotas) busy() (n int64) {
	now := time.Now()
	for _, l := range q.lines() {
		l.mu.Lock()
		if l.known.Busy(now) {
			n++
		}
		l.mu.Unlock()
	}
	return n
}

func (m *meters) asked(err error) {
	switch {
	case err == nil:
		m.granted.Add(1)
	case !errors.Is(err, errBusy):
		m.failed.Add(1)
	}
}

func (m *meters) conflict() { m.refused.Add(1) }

func (m *meters) close() { _ = m.registration.Unregister() } // it only fails when it was never registered
