package client_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

func TestPublishSpan(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	spans := tracetest.NewSpanRecorder()
	c := newClient(t, js, client.TracerProvider(sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))))
	one, err := c.Publish(t.Context(), Send{}, client.ID("one"), client.Tenant("acme"))
	if err != nil {
		t.Fatalf("Publish = %v", err)
	}
	all, err := client.PublishAll(t.Context(), c, []task.Args{Reset{}, task.Raw{Name: "billing.charge"}})
	if err == nil {
		t.Fatal("PublishAll = nil, want an error for billing.charge")
	}
	ended := spans.Ended()
	if len(ended) != 3 {
		t.Fatalf("%d spans, want 3", len(ended))
	}
	slices.SortStableFunc(ended[1:], func(a, b sdk.ReadOnlySpan) int { return strings.Compare(b.Name(), a.Name()) })
	attrs := func(s sdk.ReadOnlySpan) map[string]any {
		m := map[string]any{}
		for _, kv := range s.Attributes() {
			m[string(kv.Key)] = kv.Value.AsInterface()
		}
		return m
	}
	want := map[string]any{
		"messaging.system": "nats", "messaging.operation.name": "publish", "messaging.operation.type": "send",
		"messaging.destination.name": "TASKS_DEFAULT", "messaging.message.id": "one", "messaging.nats.sequence": int64(1),
		"task.kind": "email.send", "task.class": "default", "task.tenant": "acme", "task.id": "one",
	}
	if diff := cmp.Diff(want, attrs(ended[0])); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	for i, rc := range []client.Receipt{one, all[0].Receipt} {
		s := ended[i]
		if want := "publish " + []string{"email.send", "email.reset"}[i]; s.Name() != want || s.SpanKind() != trace.SpanKindProducer {
			t.Errorf("span %q %v, want %q producer", s.Name(), s.SpanKind(), want)
		}
		want := "00-" + s.SpanContext().TraceID().String() + "-" + s.SpanContext().SpanID().String() + "-01"
		if got := message(t, js, rc).Header["traceparent"]; !cmp.Equal(got, []string{want}) {
			t.Errorf("traceparent %v, want %v", got, want)
		}
	}
	if s := ended[2]; s.Status().Code != codes.Error || attrs(s)["error.type"] != "no_stream" {
		t.Errorf("status %v, error.type %v, want an error no_stream", s.Status(), attrs(s)["error.type"])
	}
}

func TestPublishCarriesCallersSpan(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	rc, err := newClient(t, js, client.TracerProvider(nil)).Publish(trace.ContextWithSpanContext(t.Context(), parent), Send{})
	if err != nil {
		t.Fatalf("Publish = %v", err)
	}
	want := []string{"00-01000000000000000000000000000000-0200000000000000-00"}
	if diff := cmp.Diff(want, message(t, js, rc).Header["traceparent"]); diff != "" {
		t.Errorf("traceparent (-want +got):\n%s", diff)
	}
}
