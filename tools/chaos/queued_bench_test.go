package chaos_test

import (
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

var queued = flag.Int("chaos.queued", 1_000_000, "tasks that BenchmarkQueued queues")

// benchNote is a task of about the size that most have.
type benchNote struct {
	Text string `msgpack:"text"`
}

func (benchNote) Kind() string { return "bench.note" }

// benchTopology is one class that one service serves.
func benchTopology(replicas int) streams.Topology {
	return (&streams.Fleet{
		Replicas: replicas,
		Classes: []streams.Class{{
			Name: task.Default, AckWait: 20 * time.Second, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3, WaitObjective: time.Second, Slots: 32,
		}},
		Services: []streams.Service{{Name: "bench", Classes: []task.Class{task.Default}, Processes: 2}},
	}).Topology()
}

// benchApply makes the streams and consumers of a topology, and its bucket.
func benchApply(b *testing.B, js jetstream.JetStream, t streams.Topology) {
	b.Helper()
	for _, s := range t.Streams {
		if _, err := js.CreateStream(b.Context(), s); err != nil {
			b.Fatalf("create %s: %v", s.Name, err)
		}
	}
	for _, c := range t.Consumers {
		if _, err := js.CreateConsumer(b.Context(), c.Stream, c.Config); err != nil {
			b.Fatalf("create consumer of %s: %v", c.Stream, err)
		}
	}
}

// BenchmarkQueued queues a million tasks on one broker and measures what that
// does to its memory and to the next publish. The broker keeps the ids of all tasks
// of the dedupe window in memory, queued or done: with the window of a fleet, ten
// minutes, they are what it grows by. With a window so short that it holds nearly
// none, the memory does not depend on how many are queued.
func BenchmarkQueued(b *testing.B) {
	for _, window := range []time.Duration{10 * time.Minute, 200 * time.Millisecond} {
		b.Run(fmt.Sprint("window=", window), func(b *testing.B) {
			broker := natstest.StartBroker(b)
			js := broker.Connect(b)
			t := benchTopology(1)
			t.Streams[0].Duplicates = window
			t.Streams[0].MaxBytes = 4 << 30
			benchApply(b, js, t)
			c, err := client.New(js)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				benchSingles(b, js, c, 500) // both sides warm
				empty, before := benchSingles(b, js, c, 5000), benchRSS(b, broker.PID())
				benchFill(b, c, *queued)
				time.Sleep(20 * time.Second) // until memory is given back
				full, after := benchSingles(b, js, c, 5000), benchRSS(b, broker.PID())
				for unit, n := range map[string]float64{
					"MB-empty": before, "MB-full": after,
					"p99-ms-empty": empty.ours, "p99-ms-full": full.ours,
					"bare-p99-ms-empty": empty.bare, "bare-p99-ms-full": full.bare,
				} {
					b.ReportMetric(n, unit)
				}
			}
			b.ReportMetric(0, "ns/op") // of nothing in particular
		})
	}
}

func benchFill(b *testing.B, c *client.Client, n int) {
	b.Helper()
	batch := make([]benchNote, 10_000)
	for i := range batch {
		batch[i].Text = strings.Repeat("a message of some length ", 8)
	}
	for left := n; left > 0; left -= len(batch) {
		if _, err := client.PublishAll(b.Context(), c, batch[:min(left, len(batch))]); err != nil {
			b.Fatal(err)
		}
	}
}

// benchP99 is the 99th percentile of Drover's publish and of a bare one, in ms.
type benchP99 struct{ ours, bare float64 }

// benchSingles publishes n tasks with each in turn.
func benchSingles(b *testing.B, js jetstream.JetStream, c *client.Client, n int) benchP99 {
	b.Helper()
	args := benchNote{Text: strings.Repeat("a message of some length ", 8)}
	body, err := task.Marshal(args)
	if err != nil {
		b.Fatal(err)
	}
	var ours, bare []time.Duration
	for range n {
		begin := time.Now()
		if _, err := c.Publish(b.Context(), args); err != nil {
			b.Fatal(err)
		}
		between := time.Now()
		if _, err := js.PublishMsg(b.Context(), &nats.Msg{
			Subject: "tasks.default.bench.note", Data: body, Header: nats.Header{task.HeaderMsgID: {rand.Text()}},
		}); err != nil {
			b.Fatal(err)
		}
		ours, bare = append(ours, between.Sub(begin)), append(bare, time.Since(between))
	}
	return benchP99{benchQuantile(ours, 0.99).Seconds() * 1e3, benchQuantile(bare, 0.99).Seconds() * 1e3}
}

func benchQuantile(v []time.Duration, q float64) time.Duration {
	slices.Sort(v)
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

// benchRSS is the memory that a process has, in MB.
func benchRSS(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	b.Fatalf("process %d does not say how much memory it has", pid)
	return 0
}
