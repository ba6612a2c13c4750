package chaos_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/worker"
)

// BenchmarkLeaderKill kills the node that leads the stream of three, while tasks
// are published at a steady rate and worked on, and measures for how long no task
// is completed. Each iteration is one kill: -benchtime 5x.
func BenchmarkLeaderKill(b *testing.B) {
	c := natstest.StartCluster(b)
	connect := func() jetstream.JetStream {
		js, err := broker.Connect(b.Context(), broker.Options{URL: c.URL(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(js.Conn().Close)
		return js
	}
	js := connect()
	benchApply(b, js, benchTopology(natstest.Nodes))
	c.Wait(b)
	done := make(chan time.Time, 1<<16) // more than a kill completes
	stop := benchFlow(b, connect(), connect(), func() { done <- time.Now() })
	defer stop()

	var gaps []time.Duration
	for b.Loop() {
		var leader int
		for leader = -1; leader < 0; leader = c.Leader(b, js, "TASKS_DEFAULT") {
			<-done
		}
		last, longest := <-done, time.Duration(0)
		for len(done) > 0 {
			last = <-done
		}
		killed := last
		c.Nodes[leader].Kill()
		for at := range done { // until five quiet seconds have passed since the stall
			if gap := at.Sub(last); gap > longest {
				longest, killed = gap, at
			}
			last = at
			if longest > time.Second && at.Sub(killed) > 5*time.Second || at.Sub(killed) > 20*time.Second {
				break
			}
		}
		gaps = append(gaps, longest)
		b.Logf("no task was completed for %v", longest.Round(time.Millisecond))
		b.StopTimer()
		c.Nodes[leader].Restart(b)
		c.Wait(b)
		b.StartTimer()
	}
	slices.Sort(gaps)
	b.ReportMetric(gaps[len(gaps)/2].Seconds(), "s-median")
	b.ReportMetric(gaps[len(gaps)-1].Seconds(), "s-longest")
	b.ReportMetric(0, "ns/op") // of nothing in particular
}

// benchFlow publishes 100 tasks a second and works on them, until stop is called.
func benchFlow(b *testing.B, pub, sub jetstream.JetStream, done func()) (stop func()) {
	b.Helper()
	w, err := worker.New(sub, "bench", worker.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	worker.Handle(w, func(context.Context, benchNote) error { done(); return nil })
	c, err := client.New(pub)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	wg.Go(func() {
		ticks := time.NewTicker(10 * time.Millisecond)
		defer ticks.Stop()
		for ctx.Err() == nil {
			<-ticks.C
			wg.Go(func() { // in a goroutine of its own: one that waits holds up no other
				if _, err := c.Publish(context.WithoutCancel(ctx), benchNote{}); err != nil {
					b.Error(err)
				}
			})
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
