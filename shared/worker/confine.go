package worker

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/telemetry"
)

// Confinement is how a worker holds isolated tasks, as this machine allows it. The
// zero value is that of a worker without isolated kinds.
type Confinement struct {
	// Memory is what enforces the memory cap: "cgroup", for a task and all that it
	// starts together; "rlimit", for each of its processes; or "none".
	Memory string

	// Processes is how what a task starts is found and killed with it: "cgroup", all of
	// it; "environment", by its process group and a variable of its environment; or
	// "group", by its process group.
	Processes string
}

// IsolatedKind is what became of the tasks of an isolated kind whose process ended
// without a verdict, since Run began.
type IsolatedKind struct {
	Kind   string
	OOM    int64 // reached their memory cap
	Killed int64 // reached another limit
	Died   int64 // by themselves, or by someone else
}

// ends counts such tasks of one kind.
type ends struct{ oom, killed, died atomic.Int64 }

func (e *ends) count(r endReason) {
	switch r {
	case endOOM:
		e.oom.Add(1)
	case endKilled:
		e.killed.Add(1)
	case endDied:
		e.died.Add(1)
	}
}

// isolates reports whether a kind of the worker is isolated.
func (w *Worker) isolates() bool {
	for _, k := range w.kinds {
		if k.isolation != nil {
			return true
		}
	}
	return false
}

// confine finds out how isolated tasks are held here, and says so once.
func (w *Worker) confine(ctx context.Context) {
	if !w.isolates() {
		return
	}
	c := Confinement{Memory: "none", Processes: "group"}
	if limitsEnforced {
		c = Confinement{Memory: "rlimit", Processes: "environment"}
	}
	in, err := delegated()
	why := ""
	switch {
	case err != nil:
		why = err.Error()
	default:
		w.cgroups, c.Processes, why = in, "cgroup", in.lacking
		if in.memory {
			c.Memory = "cgroup"
		}
	}
	w.mu.Lock()
	w.confinement = c
	w.mu.Unlock()
	attrs := []slog.Attr{slog.String(telemetry.IsolationMemory, c.Memory), slog.String(telemetry.IsolationProcesses, c.Processes)}
	if why != "" {
		attrs = append(attrs, slog.String("no_cgroup", why))
	}
	w.log.LogAttrs(ctx, slog.LevelInfo, "isolated tasks are confined", attrs...)
	for _, k := range w.kinds {
		if i := k.isolation; i != nil && !limitsEnforced && (i.memory > 0 || i.cpu > 0) {
			w.log.WarnContext(ctx, "this system does not limit the memory or processor time of isolated tasks: only Linux does",
				slog.String(telemetry.TaskKind, k.name))
		}
	}
}

// sweep ends and removes what isolated tasks of workers that were killed have left
// on this machine.
func (w *Worker) sweep(ctx context.Context) {
	if !w.isolates() {
		return
	}
	temps, groups := sweepTemp(), 0
	if w.cgroups != nil {
		groups = w.cgroups.sweep()
	}
	if temps+groups > 0 {
		w.log.InfoContext(ctx, "removed what isolated tasks of a worker that was killed had left",
			slog.Int("temp_folders", temps), slog.Int("cgroups", groups))
	}
}

// measureIsolation reports how isolated tasks are confined and what became of them,
// until end is called.
func (w *Worker) measureIsolation() (end func(), err error) {
	if !w.isolates() {
		return func() {}, nil
	}
	meter := w.meter.Meter(telemetry.Scope)
	confined, err := meter.Int64ObservableGauge(telemetry.MetricIsolated, metric.WithUnit("{worker}"),
		metric.WithDescription("1, by how isolated tasks are confined."))
	if err != nil {
		return nil, err
	}
	ended, err := meter.Int64ObservableCounter(telemetry.MetricIsolatedEnded, metric.WithUnit("{task}"),
		metric.WithDescription("Isolated tasks whose process ended without a verdict, by how."))
	if err != nil {
		return nil, err
	}
	how := metric.WithAttributes(
		attribute.String(telemetry.TaskService, w.service),
		attribute.String(telemetry.IsolationMemory, w.confinement.Memory),
		attribute.String(telemetry.IsolationProcesses, w.confinement.Processes),
	)
	of := func(kind string, r endReason) metric.MeasurementOption {
		return metric.WithAttributes(attribute.String(telemetry.TaskService, w.service),
			attribute.String(telemetry.TaskKind, kind), attribute.String(telemetry.ErrorType, string(r)))
	}
	r, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(confined, 1, how)
		for _, k := range w.isolated() {
			o.ObserveInt64(ended, k.OOM, of(k.Kind, endOOM))
			o.ObserveInt64(ended, k.Killed, of(k.Kind, endKilled))
			o.ObserveInt64(ended, k.Died, of(k.Kind, endDied))
		}
		return nil
	}, confined, ended)
	if err != nil {
		return nil, err
	}
	return func() { _ = r.Unregister() }, nil // it only fails when it was never registered
}

// isolated is what became of the isolated kinds, in the order of their names.
func (w *Worker) isolated() []IsolatedKind {
	var out []IsolatedKind
	for _, k := range w.kinds {
		if i := k.isolation; i != nil {
			out = append(out, IsolatedKind{Kind: k.name, OOM: i.ends.oom.Load(), Killed: i.ends.killed.Load(), Died: i.ends.died.Load()})
		}
	}
	slices.SortFunc(out, func(a, b IsolatedKind) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}
