package worker_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// BenchmarkFair drains a class of 8 partitions, and in the same round one that is not
// fair: tiny tasks of 100 tenants, of one, and of none, in a stream of two services as
// the fleet has them. The ratio is of their rates, and of the processor time of a task.
func BenchmarkFair(b *testing.B) {
	for _, bb := range []struct {
		name   string
		tenant func(int) string
	}{
		{"tenants=100", func(i int) string { return "tenant" + strconv.Itoa(i%100) }},
		{"tenants=1", func(int) string { return "one" }},
		{"tenants=0", func(int) string { return "" }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var took, used [2]time.Duration // plain, fair
			for b.Loop() {
				for i, of := range []int{0, partitions} {
					t, u := drainBulk(b, of, bb.tenant)
					took[i] += t
					used[i] += u
				}
			}
			rate := func(d time.Duration) float64 { return drainTasks * float64(b.N) / d.Seconds() }
			b.ReportMetric(rate(took[1]), "tasks/s")
			b.ReportMetric(rate(took[0]), "plain-tasks/s")
			b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "ratio")
			b.ReportMetric(used[0].Seconds()/used[1].Seconds(), "cpu-ratio")
			b.ReportMetric(0, "ns/op") // a round is more than what it measures
		})
	}
}

// drainBulk measures one drain, on a broker of its own.
func drainBulk(b *testing.B, partitions int, tenant func(int) string) (took, used time.Duration) {
	b.Helper()
	_, js := natstest.Listen(b)
	bulkTopology(b, js, ackWait, partitions, "test", "other")
	preloadFor(b, js, drainTasks, tenant)
	var n atomic.Int64
	all := make(chan struct{})
	begin, before := time.Now(), cpu(b)
	_, stop := start(b, js, func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, note) error {
			if n.Add(1) == drainTasks {
				close(all)
			}
			return nil
		})
	}, worker.Serve(worker.Class{Name: task.Bulk, Slots: 16, Partitions: partitions}))
	<-all
	took, used = time.Since(begin), cpu(b)-before
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	return took, used
}

// preloadFor publishes n tasks of class bulk as fast as the server takes them.
func preloadFor(b *testing.B, js jetstream.JetStream, n int, tenant func(int) string) {
	b.Helper()
	body, err := task.Marshal(note{Text: "a message of about this length, as tasks often have", N: 1})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		s := task.Subject{Class: task.Bulk, Service: "test", Action: "note", Tenant: tenant(i)}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: s.String(), Data: body, Header: nats.Header{"Nats-Msg-Id": {strconv.Itoa(i)}}}); err != nil {
			b.Fatal(err)
		}
		if i%2000 == 1999 {
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
}
