package telemetry_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/telemetry"
)

func BenchmarkExtract(b *testing.B) {
	for _, bb := range []struct {
		name string
		h    nats.Header
	}{
		{"none", nats.Header{"Nats-Msg-Id": {"1"}}},
		{"traceparent", nats.Header{"Nats-Msg-Id": {"1"}, "traceparent": {traceparent}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				telemetry.Extract(b.Context(), bb.h)
			}
		})
	}
}
