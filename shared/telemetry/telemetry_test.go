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

// Only a traceparent that parses says anything about sampling.
func TestUnsampled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"sampled", traceparent, false},
		{"not sampled", traceparent[:53] + "00", true},
		{"random flag only", traceparent[:53] + "02", true},
		{"flags that are not defined", traceparent[:53] + "0e", false},
		{"all flags", traceparent[:53] + "ff", false},
		{"another version", "01" + traceparent[2:53] + "00", false},
		{"no trace id", "00-00000000000000000000000000000000-b7ad6b7169203331-00", false},
		{"no span id", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00", false},
		{"capitals", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false},
		{"a dash too many", "00-0af7651916cd43dd8448eb211c80319--b7ad6b7169203331-00", false},
		{"short", "00", false},
		{"empty", "", false},
	} {
		h := nats.Header{"traceparent": {tt.value}}
		if got := telemetry.Unsampled(h); got != tt.want {
			t.Errorf("%s: Unsampled = %v, want %v", tt.name, got, tt.want)
		}
		sc := telemetry.ParseTraceparent(tt.value)
		if tt.value[:min(2, len(tt.value))] == "00" && telemetry.Unsampled(h) != (sc.IsValid() && !sc.IsSampled()) {
			t.Errorf("%s: Unsampled = %v, and the propagator reads %v", tt.name, telemetry.Unsampled(h), sc)
		}
	}
	if telemetry.Unsampled(nil) {
		t.Error("Unsampled(nil) = true")
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
