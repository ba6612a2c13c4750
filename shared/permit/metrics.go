package permit

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/droverhq/drover/shared/telemetry"
)

// meters are the instruments. Resources are named in code, so they are few enough
// for a label.
type meters struct{ registration metric.Registration }

func (p *Permits) instrument(provider metric.MeterProvider) error {
	if provider == nil {
		provider = noop.NewMeterProvider()
	}
	meter := provider.Meter(telemetry.Scope)
	labels := map[*entry]metric.MeasurementOption{}
	for _, e := range p.entries {
		labels[e] = metric.WithAttributeSet(attribute.NewSet(
			attribute.String(telemetry.TaskService, p.config.Service), attribute.String(telemetry.Resource, e.name)))
	}
	var errs [5]error
	gauge := func(i int, name, about string) (g metric.Int64ObservableGauge) {
		g, errs[i] = meter.Int64ObservableGauge(name, metric.WithUnit("{permit}"), metric.WithDescription(about))
		return g
	}
	used := gauge(0, telemetry.MetricCapUsed, "Permits that tasks of this process use.")
	held := gauge(1, telemetry.MetricCapHeld, "Permits that this process has leased, in use or not.")
	limit := gauge(2, telemetry.MetricCap, "Permits that there are for the fleet: the smallest number that a process was built with.")
	refused, err := meter.Int64ObservableCounter(telemetry.MetricCapRefused, metric.WithUnit("{task}"),
		metric.WithDescription("Times that a task found no permit and was parked."))
	errs[3] = err
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	p.meters.registration, errs[4] = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range p.entries {
			s := e.State()
			o.ObserveInt64(used, int64(s.Used), labels[e])
			o.ObserveInt64(held, int64(s.Held), labels[e])
			o.ObserveInt64(limit, int64(s.Cap), labels[e])
			o.ObserveInt64(refused, e.refused, labels[e])
		}
		return nil
	}, used, held, limit, refused)
	return errs[4]
}

func (m *meters) close() { _ = m.registration.Unregister() } // it only fails when it was never registered
