package telemetry_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/telemetry"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// Names are written in lower case and found in any, and an exact match wins.
func TestCarrier(t *testing.T) {
	t.Parallel()
	h := nats.Header{"TraceParent": {"theirs"}, "X": {"1"}}
	c := telemetry.Carrier(h)
	if got := c.Get("traceparent"); got != "theirs" {
		t.Errorf("Get finds %q in another case, want theirs", got)
	}
	c.Set("traceparent", "ours")
	if got := h["traceparent"]; !slices.Equal(got, []string{"ours"}) || h["TraceParent"] != nil {
		t.Errorf("after Set the headers are %v, want one traceparent in lower case", h)
	}
	keys := c.Keys()
	slices.Sort(keys)
	if !slices.Equal(keys, []string{"X", "traceparent"}) {
		t.Errorf("Keys() = %v", keys)
	}
	if got := telemetry.Carrier(nil).Get("traceparent"); got != "" {
		t.Errorf("a nil carrier has %q", got)
	}
}

func TestTraceparentRoundTrip(t *testing.T) {
	t.Parallel()
	sc := telemetry.ParseTraceparent(traceparent)
	if got := telemetry.Traceparent(sc); got != traceparent {
		t.Errorf("%q reads and writes as %q", traceparent, got)
	}
	for _, bad := range []string{"", "00-00-00-00", "garbage"} {
		if sc := telemetry.ParseTraceparent(bad); sc.IsValid() {
			t.Errorf("%q reads as %v", bad, sc)
		}
	}
	if got := telemetry.Traceparent(trace.SpanContext{}); got != "" {
		t.Errorf("no span writes as %q", got)
	}
}

func TestExtractAndInject(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"traceparent", "Traceparent", "TRACEPARENT"} {
		ctx := telemetry.Extract(t.Context(), nats.Header{name: {traceparent}, "Baggage": {"a=b"}})
		h := nats.Header{}
		telemetry.Inject(ctx, h)
		if got := h["traceparent"]; !slices.Equal(got, []string{traceparent}) || !slices.Equal(h["baggage"], []string{"a=b"}) {
			t.Errorf("from %s the headers become %v", name, h)
		}
	}
	if ctx := telemetry.Extract(t.Context(), nats.Header{"X": {"1"}}); trace.SpanContextFromContext(ctx).IsValid() {
		t.Error("a span came from nowhere")
	}
}
