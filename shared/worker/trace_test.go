package worker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/shared/worker"
)

// Every attempt is a child of the publish span and linked to the attempt before;
// the moves are spans of their own under the attempt that made them.
func TestTrace(t *testing.T) {
	const publisher = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, tt := range []struct {
		name        string
		traceparent string
	}{
		{"from a publisher with a trace", publisher},
		{"raw: the first attempt is the root", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				spans := tracetest.NewSpanRecorder()
				provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error { return errors.New("no") }, worker.Retry(retry.Policy{Attempts: 2}))
				}, worker.TracerProvider(provider))
				msg := &nats.Msg{Subject: "tasks.default.test.note", Header: nats.Header{"Nats-Msg-Id": {"a"}}}
				if tt.traceparent != "" {
					msg.Header["Traceparent"] = []string{tt.traceparent} // as net/http would write it
				}
				if _, err := js.PublishMsg(t.Context(), msg); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				ended := spans.Ended() // the moves end before their attempts
				var names []string
				for _, s := range ended {
					names = append(names, s.Name())
				}
				if diff := cmp.Diff([]string{"retry test.note", "process test.note", "dead test.note", "process test.note"}, names); diff != "" {
					t.Fatalf("spans (-want +got):\n%s", diff)
				}
				first, second := ended[1], ended[3]
				parent := telemetry.ParseTraceparent(publisher)
				if tt.traceparent == "" {
					if first.Parent().IsValid() {
						t.Errorf("the first attempt of a raw task has parent %v", first.Parent())
					}
					parent = first.SpanContext()
				} else if first.Parent().SpanID() != parent.SpanID() {
					t.Errorf("the first attempt's parent is %s, want the publisher's %s", first.Parent().SpanID(), parent.SpanID())
				}
				if second.Parent().SpanID() != parent.SpanID() || second.SpanContext().TraceID() != parent.TraceID() {
					t.Errorf("the second attempt is under %s of trace %s, want %s of %s",
						second.Parent().SpanID(), second.SpanContext().TraceID(), parent.SpanID(), parent.TraceID())
				}
				if links := second.Links(); tt.traceparent != "" && (len(links) != 1 || links[0].SpanContext.SpanID() != first.SpanContext().SpanID()) {
					t.Errorf("the second attempt links to %v, want the first", links)
				}
				for i, move := range []sdktrace.ReadOnlySpan{ended[0], ended[2]} {
					if attempt := ended[2*i+1]; move.Parent().SpanID() != attempt.SpanContext().SpanID() {
						t.Errorf("%s is under %s, want its attempt %s", move.Name(), move.Parent().SpanID(), attempt.SpanContext().SpanID())
					}
				}
				got := map[attribute.Key]string{}
				for _, kv := range second.Attributes() {
					got[kv.Key] = kv.Value.String()
				}
				for k, want := range map[attribute.Key]string{
					telemetry.TaskID: "a", telemetry.TaskKind: "test.note", telemetry.TaskClass: "default", telemetry.TaskAttempt: "2",
					telemetry.TaskVerdict: "dead", telemetry.TaskReason: "failed", telemetry.ErrorType: "_OTHER", telemetry.MessagingDestination: "RETRY",
				} {
					if got[k] != want {
						t.Errorf("the second attempt has %s = %q, want %q", k, got[k], want)
					}
				}
			})
		})
	}
}

// A publish that was not sampled makes no span, whatever the worker's sampler
// says, and its trace is still told to the handler and to a dead letter.
func TestUnsampled(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		const publisher = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
		spans := tracetest.NewSpanRecorder()
		var seen []string
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				info, _ := task.FromContext(ctx)
				seen = append(seen, info.ID+" "+telemetry.Traceparent(trace.SpanContextFromContext(ctx)))
				return errors.New("no")
			}, worker.Retry(retry.Policy{Attempts: 2}))
		}, worker.TracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample()))))
		msg := &nats.Msg{Subject: "tasks.default.test.note", Header: nats.Header{"Nats-Msg-Id": {"a"}, "traceparent": {publisher}}}
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a " + publisher, "a " + publisher}, seen); diff != "" {
			t.Errorf("what handlers saw of task and trace (-want +got):\n%s", diff)
		}
		if got := spans.Started(); len(got) != 0 {
			t.Errorf("%d spans were started, want none", len(got))
		}
		dead := letters(t, js)
		if len(dead) != 1 {
			t.Fatalf("%d dead letters, want 1", len(dead))
		}
		if st := state(t, task.DeadStream, dead[0]); len(st.Errors) != 2 || st.Errors[1].Trace != publisher {
			t.Errorf("the dead letter says %+v, want two failures of trace %s", st.Errors, publisher)
		}
	})
}

// The metrics reconcile: what was published is what was settled, by verdict.
func TestMetrics(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		reader := metric.NewManualReader()
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				info, _ := task.FromContext(ctx)
				switch {
				case n.Text == "never":
					return retry.Permanent(errors.New("no"))
				case n.Text == "twice" && info.Attempt == 0:
					return errors.New("not yet")
				case n.Text == "hold":
					time.Sleep(time.Hour)
				}
				return nil
			})
		}, worker.MeterProvider(metric.NewMeterProvider(metric.WithReader(reader))), worker.DrainLimit(2*time.Hour),
			worker.Serve(worker.Class{Name: task.Default, TimeLimit: 3 * time.Hour}))
		for i, text := range []string{"once", "once", "once", "never", "twice", "hold"} {
			publish(t, js, string(rune('a'+i)), note{Text: text})
		}
		if _, err := js.Publish(t.Context(), "tasks.default.test.nobody", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, m := range all.ScopeMetrics[0].Metrics {
			add := func(set attribute.Set, n float64) {
				name := []string{m.Name}
				for _, key := range []attribute.Key{telemetry.TaskKind, telemetry.TaskLane, telemetry.TaskVerdict, telemetry.TaskReason} {
					if v, ok := set.Value(key); ok {
						name = append(name, v.String())
					}
				}
				got[strings.Join(name, " ")] += n
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Count))
				}
			}
		}
		want := map[string]float64{
			"drover.task.wait test.note live": 6, "drover.task.wait test.note retry": 1,
			"drover.task.run test.note live": 5, "drover.task.run test.note retry": 1,
			"drover.task.settled test.note live done": 3, "drover.task.settled test.note retry done": 1,
			"drover.task.settled test.note live moved": 1, "drover.task.settled test.note live dead": 1, "drover.task.settled unknown live dead": 1,
			"drover.task.moves test.note live retry": 1, "drover.task.dead test.note live permanent": 1, "drover.task.dead unknown live unknown-kind": 1,
			"drover.worker.in_flight live": 1, "drover.worker.in_flight retry": 0,
			"drover.worker.held live": 1, "drover.worker.held retry": 0,
			"drover.worker.slots live": 32, "drover.worker.slots retry": 8,
			"drover.worker.slots_taken live": 1, "drover.worker.slots_taken retry": 0,
			"drover.worker.leaked live": 0, "drover.worker.leaked retry": 0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
