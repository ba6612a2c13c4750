// The benchmarks of this package take minutes and the whole machine, so nothing
// runs them but who asks for them:
//
//	go test -run '^$' -bench . -benchtime 1x -timeout 30m ./tools/chaos
package chaos_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/tools/bench"
)

// BenchmarkThreeNodes measures what package bench measures on a cluster of three,
// with three replicas: all of it on this one machine, so its rates are not those
// of three machines. The ratios are Drover's to bare nats.go's on the same nodes.
func BenchmarkThreeNodes(b *testing.B) {
	for _, bb := range []struct {
		name string
		opts []natstest.ClusterOption
	}{
		{"sync=default", nil},
		{"sync=always", []natstest.ClusterOption{natstest.SyncAlways()}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c := natstest.StartCluster(b, bb.opts...)
			for b.Loop() {
				r, err := bench.Run(b.Context(), bench.Config{
					Broker:   &broker.Options{URL: c.URL(), Logger: slog.New(slog.DiscardHandler)},
					Replicas: natstest.Nodes, Rounds: 3, Tasks: 10_000, Single: 500, Start: 2 * time.Second,
					Logger: slog.New(slog.DiscardHandler), Progress: func(line string) { b.Log(line) },
				})
				if err != nil {
					b.Fatal(err)
				}
				for unit, n := range map[string]float64{
					"one-ms": r.PublishOne * 1e3, "one-p99-ms": r.PublishOneP99 * 1e3, "one-ratio": r.PublishOneRatio,
					"many/s": r.PublishMany, "many-ratio": r.PublishManyRatio,
					"drain/s": r.Drain, "drain-ratio": r.DrainRatio,
					"start-p50-ms": r.StartP50 * 1e3, "start-p50-ratio": r.StartP50Ratio,
					"start-p99-ms": r.StartP99 * 1e3, "start-p99-ratio": r.StartP99Ratio,
				} {
					b.ReportMetric(n, unit)
				}
			}
			b.ReportMetric(0, "ns/op") // of nothing in particular
		})
	}
}
