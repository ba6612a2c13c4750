package deadletter_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/droverhq/drover/shared/natstest"
)

// value is the sum of a metric's points that have the label; -1 when there are none.
func value(tb testing.TB, r sdkmetric.Reader, name string, label attribute.KeyValue) int64 {
	tb.Helper()
	var all metricdata.ResourceMetrics
	if err := r.Collect(tb.Context(), &all); err != nil {
		tb.Fatal(err)
	}
	out := int64(-1)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			var points []metricdata.DataPoint[int64]
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = d.DataPoints
			case metricdata.Gauge[int64]:
				points = d.DataPoints
			}
			for _, p := range points {
				if v, ok := p.Attributes.Value(label.Key); m.Name == name && (label.Key == "" || ok && v == label.Value) {
					out = max(out, 0) + p.Value
				}
			}
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	reader := sdkmetric.NewManualReader()
	r := startWith(t, js, quick(), sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}})
	giveUp(t, js, live, "email", 1)
	r.log.wait(told)
	limit := time.Now().Add(patience)
	for _, want := range []struct {
		name  string
		label attribute.KeyValue
		value int64
	}{
		{"drover.deadletter.alerts", attribute.String("channel", "log"), 1},
		{"drover.task.dead", attribute.String("task.reason", "crash-loop"), 1},
		{"drover.deadletter.leader", attribute.KeyValue{}, 1},
		{"drover.deadletter.groups", attribute.KeyValue{}, 1},
		{"drover.deadletter.orphans", attribute.KeyValue{}, 0},
	} {
		got := value(t, reader, want.name, want.label)
		for got != want.value && time.Now().Before(limit) {
			time.Sleep(10 * time.Millisecond) // counted a moment after it happened
			got = value(t, reader, want.name, want.label)
		}
		if got != want.value {
			t.Errorf("%s %s = %d, want %d", want.name, want.label.Value.AsString(), got, want.value)
		}
	}
	handled(t, js)
	done := value(t, reader, "drover.deadletter.advisories", attribute.String("outcome", "copied")) +
		value(t, reader, "drover.deadletter.advisories", attribute.String("outcome", "gone")) // when the sweep was faster
	if done < 0 {
		t.Error("drover.deadletter.advisories counts nothing")
	}
}
