package circuit

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/telemetry"
)

// meters are the instruments. Destinations have no bound, so they are no label.
type meters struct {
	turns        metric.Int64Counter
	of           map[breaker.State]metric.MeasurementOption
	registration metric.Registration
}

func (b *Breakers) instrument(p metric.MeterProvider) error {
	if p == nil {
		p = noop.NewMeterProvider()
	}
	m, meter := &b.meters, p.Meter(telemetry.Scope)
	m.of = map[breaker.State]metric.MeasurementOption{}
	for _, s := range []breaker.State{breaker.Closed, breaker.Open, breaker.HalfOpen} {
		m.of[s] = metric.WithAttributeSet(attribute.NewSet(
			attribute.String(telemetry.TaskService, b.service), attribute.String(telemetry.BreakerState, string(s))))
	}
	var errs [3]error
	m.turns, errs[0] = meter.Int64Counter(telemetry.MetricBreakerTurns, metric.WithUnit("{transition}"),
		metric.WithDescription("Transitions of breakers that this process made, by the state they led to."))
	now, err := meter.Int64ObservableGauge(telemetry.MetricBreakers, metric.WithUnit("{destination}"),
		metric.WithDescription("Destinations whose breaker is not closed, as this process knows them."))
	errs[1] = err
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	m.registration, errs[2] = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		n := map[breaker.State]int64{}
		b.mu.RLock()
		for _, e := range b.all {
			n[e.State()]++
		}
		b.mu.RUnlock()
		for _, s := range []breaker.State{breaker.Open, breaker.HalfOpen} {
			o.ObserveInt64(now, n[s], m.of[s])
		}
		return nil
	}, now)
	return errs[2]
}

func (m *meters) turned(s breaker.State) { m.turns.Add(context.Background(), 1, m.of[s]) }

func (m *meters) close() { _ = m.registration.Unregister() } // it only fails when it was never registered
