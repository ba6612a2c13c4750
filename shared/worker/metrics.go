package worker

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/telemetry"
)

// metrics are the worker's instruments. Labels are class, lane, kind, and a
// closed set of verdicts and reasons; a kind without a handler is "unknown".
type metrics struct {
	wait, run      metric.Float64Histogram
	movesN, deadN  metric.Int64Counter
	deathsN, lostN metric.Int64Counter
	registration   metric.Registration
}

// buckets of both histograms, in seconds.
var buckets = metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900)

func newMetrics(w *Worker) (*metrics, error) {
	meter := w.meter.Meter(telemetry.Scope)
	m := &metrics{}
	var errs [13]error
	m.wait, errs[0] = meter.Float64Histogram(telemetry.MetricWait, metric.WithUnit("s"), buckets,
		metric.WithDescription("From when a task was due to the start of its handler."))
	m.run, errs[1] = meter.Float64Histogram(telemetry.MetricRun, metric.WithUnit("s"), buckets,
		metric.WithDescription("Time in the handler."))
	settled, err := meter.Int64ObservableCounter(telemetry.MetricSettled, metric.WithUnit("{task}"),
		metric.WithDescription("Deliveries settled, by verdict."))
	errs[2] = err
	m.movesN, errs[3] = meter.Int64Counter(telemetry.MetricMoves, metric.WithUnit("{move}"),
		metric.WithDescription("Moves to RETRY, by reason."))
	m.deadN, errs[4] = meter.Int64Counter(telemetry.MetricDead, metric.WithUnit("{task}"),
		metric.WithDescription("Tasks moved to DEAD, by reason."))
	m.deathsN, errs[5] = meter.Int64Counter(telemetry.MetricDeaths, metric.WithUnit("{death}"),
		metric.WithDescription("Deliveries that ended in no verdict: a process died or hung."))
	m.lostN, errs[6] = meter.Int64Counter(telemetry.MetricLeaseLost, metric.WithUnit("{task}"),
		metric.WithDescription("Leases that ran out while their task was held."))
	gauge := func(name, unit, about string) (g metric.Int64ObservableGauge, err error) {
		return meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
	}
	var inFlight, held, slots, leaked, taken metric.Int64ObservableGauge
	inFlight, errs[7] = gauge(telemetry.MetricInFlight, "{task}", "Handlers that are running.")
	held, errs[8] = gauge(telemetry.MetricHeld, "{task}", "Tasks under a lease of this process, running or not.")
	slots, errs[9] = gauge(telemetry.MetricSlots, "{slot}", "Room for handlers.")
	leaked, errs[10] = gauge(telemetry.MetricLeaked, "{slot}", "Slots lost to handlers that ignore their cancelled context.")
	taken, errs[11] = gauge(telemetry.MetricTaken, "{slot}", "Slots that running handlers take, heavy ones several.")
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	for _, l := range w.lanes {
		l.instrument()
	}
	m.registration, errs[12] = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, l := range w.lanes {
			l.mu.Lock()
			nRunning, nHeld, nLeaked, nTaken := l.running, l.held.n, l.leaked, l.taken()
			l.mu.Unlock()
			o.ObserveInt64(inFlight, int64(nRunning), l.labels)
			o.ObserveInt64(held, int64(nHeld), l.labels)
			o.ObserveInt64(slots, int64(l.slots), l.labels)
			o.ObserveInt64(leaked, int64(nLeaked), l.labels)
			o.ObserveInt64(taken, int64(nTaken), l.labels)
			for _, lb := range l.byKind {
				for name := range lb.settled {
					if n := lb.settled[name].Load(); n > 0 {
						o.ObserveInt64(settled, n, lb.verdicts[name])
					}
				}
			}
		}
		return nil
	}, settled, inFlight, held, slots, leaked, taken)
	return m, errs[12]
}

func (m *metrics) close() { _ = m.registration.Unregister() } // it only fails when it was never registered

// labels are the measurement options of one kind in one lane, made once because
// making an attribute set costs more than recording with it.
type labels struct {
	record   []metric.RecordOption // class, lane, kind
	attrs    []attribute.KeyValue
	settled  [len(verdicts)]atomic.Int64 // counted here: cheaper than a counter that is told of each
	verdicts [len(verdicts)]metric.MeasurementOption
}

func (l *lane) instrument() {
	base := []attribute.KeyValue{
		attribute.String(telemetry.TaskService, l.w.service),
		attribute.String(telemetry.TaskClass, string(l.class.Name)),
		attribute.String(telemetry.TaskLane, string(l.kind)),
	}
	l.labels = metric.WithAttributeSet(attribute.NewSet(base...))
	l.byKind = map[*kind]*labels{}
	add := func(k *kind, name string) {
		attrs := slices.Concat(base, []attribute.KeyValue{attribute.String(telemetry.TaskKind, name)})
		lb := &labels{attrs: attrs, record: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attrs...))}}
		for i, v := range verdicts {
			lb.verdicts[i] = metric.WithAttributeSet(attribute.NewSet(append(slices.Clip(attrs), attribute.String(telemetry.TaskVerdict, v))...))
		}
		l.byKind[k] = lb
	}
	add(nil, "unknown")
	for _, k := range l.w.kinds {
		add(k, k.name)
	}
}

// with is for the paths that a task does not take normally.
func (lb *labels) with(more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(slices.Clip(lb.attrs), more...)...)
}

// measured is the context under which a run is measured: the SDK looks into it
// for a sampled span, to name as an example of the measurement.
func (r *run) measured() context.Context {
	if r.span.IsRecording() {
		return r.ctx
	}
	return context.Background()
}

func (m *metrics) started(l *lane, r *run, start time.Time, d *delivery) {
	wait := time.Duration(start.UnixNano() - d.storedAt)
	m.wait.Record(r.measured(), max(0, wait.Seconds()), l.byKind[r.kind].record...)
}

func (m *metrics) ran(l *lane, r *run) {
	if r.invoked {
		m.run.Record(r.measured(), r.ran.Seconds(), l.byKind[r.kind].record...)
	}
}

func (m *metrics) moved(l *lane, r *run, v verdict) {
	n := m.movesN
	if v.outcome == dead {
		n = m.deadN
	}
	n.Add(r.ctx, 1, l.byKind[r.kind].with(attribute.String(telemetry.TaskReason, string(v.reason))))
}

func (m *metrics) death(l *lane, r *run) { m.deathsN.Add(r.ctx, 1, l.byKind[r.kind].with()) }

func (m *metrics) leaseLost(l *lane) { m.lostN.Add(context.Background(), 1, l.labels) }
