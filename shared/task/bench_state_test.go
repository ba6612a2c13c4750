package task_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/task"
)

func BenchmarkReadState(b *testing.B) {
	h := nats.Header{"Nats-Msg-Id": {"1234"}, "traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := task.ReadState("tasks.default.email.send", h, stored); err != nil {
			b.Fatal(err)
		}
	}
}
