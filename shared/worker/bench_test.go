package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// preload publishes n tasks as fast as the server takes them, with the headers
// that the client gives them; one trace in a hundred is sampled.
func preload(b *testing.B, js jetstream.JetStream, n int) {
	b.Helper()
	body, err := task.Marshal(note{Text: "a message of about this length, as tasks often have", N: 1})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		sampled := 0
		if i%100 == 0 {
			sampled = 1
		}
		h := nats.Header{
			"Nats-Msg-Id": {strconv.Itoa(i)},
			"traceparent": {fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%016x-%02x", i+1, sampled)},
		}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "tasks.default.test.note", Data: body, Header: h}); err != nil {
			b.Fatal(err)
		}
		if i%2000 == 1999 {
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
}

const drainTasks = 50_000

func BenchmarkDrainBare(b *testing.B) {
	b.ReportAllocs()
	var total, used time.Duration
	for b.Loop() {
		b.StopTimer()
		_, js := natstest.Listen(b)
		topology(b, js, ackWait)
		preload(b, js, drainTasks)
		c, err := js.Consumer(b.Context(), "TASKS_DEFAULT", "test")
		if err != nil {
			b.Fatal(err)
		}
		var n atomic.Int64
		all := make(chan struct{})
		b.StartTimer()
		begin, before := time.Now(), cpu(b)
		cc, err := c.Consume(func(m jetstream.Msg) {
			_ = m.Ack()
			if n.Add(1) == drainTasks {
				close(all)
			}
		}, jetstream.PullMaxMessages(1000))
		if err != nil {
			b.Fatal(err)
		}
		<-all
		total, used = total+time.Since(begin), used+cpu(b)-before
		b.StopTimer()
		cc.Stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(drainTasks)*float64(b.N)/total.Seconds(), "tasks/s")
	b.ReportMetric(float64(used.Microseconds())/drainTasks/float64(b.N), "cpu-µs/task")
}

func BenchmarkDrain(b *testing.B) { drain(b, func(context.Context, note) error { return nil }) }

// drain has a worker run all that was preloaded.
func drain(b *testing.B, handle func(context.Context, note) error, opts ...worker.HandlerOption) {
	b.Helper()
	b.ReportAllocs()
	var total, used time.Duration
	traces := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0.01))))
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	for b.Loop() {
		b.StopTimer()
		_, js := natstest.Listen(b)
		topology(b, js, ackWait)
		preload(b, js, drainTasks)
		var n atomic.Int64
		all := make(chan struct{})
		b.StartTimer()
		begin, before := time.Now(), cpu(b)
		_, stop := start(b, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, x note) error {
				err := handle(ctx, x)
				if n.Add(1) == drainTasks {
					close(all)
				}
				return err
			}, opts...)
		}, worker.TracerProvider(traces), worker.MeterProvider(meter))
		<-all
		total, used = total+time.Since(begin), used+cpu(b)-before
		b.StopTimer()
		if err := stop(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(drainTasks)*float64(b.N)/total.Seconds(), "tasks/s")
	b.ReportMetric(float64(used.Microseconds())/drainTasks/float64(b.N), "cpu-µs/task")
}

// BenchmarkDrainBreaker is [BenchmarkDrain] without a breaker and with one, whose
// destination is well, or has failed within the window, so that it is counted.
func BenchmarkDrainBreaker(b *testing.B) {
	well := func(context.Context, note) error { return nil }
	opts := []worker.HandlerOption{worker.Breaker(breaker.Policy{}, host), worker.Retry(retry.Policy{Base: time.Hour, Cap: time.Hour})}
	b.Run("without", func(b *testing.B) { drain(b, well) })
	b.Run("well", func(b *testing.B) { drain(b, well, opts...) })
	b.Run("failed", func(b *testing.B) {
		var n atomic.Int64
		drain(b, func(context.Context, note) error {
			if n.Add(1)%drainTasks == 1 {
				return errors.New("connection refused")
			}
			return nil
		}, opts...)
	})
}

// cpu is the processor time that this process has used, server included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const isolatedTasks = 20

// BenchmarkIsolated is what a process of its own adds to a task, in a lane of one slot
// that is never idle: to a task of 20 ms, without a cgroup and in one, while the next
// process starts beside it, and to one that takes no time. Beside that what a process
// takes that does as much to start, connects and builds its worker, and ends without a
// task.
func BenchmarkIsolated(b *testing.B) {
	task := func(b *testing.B, cgroup, what string, takes time.Duration) {
		b.Helper()
		url, js := natstest.Listen(b)
		topology(b, js, ackWait)
		l := newLedger(b)
		p, _ := spawnIsolated(b, url, l, envSlots+"=1", envCgroup+"="+cgroup)
		n := 0
		var total time.Duration
		for b.Loop() {
			for range isolatedTasks {
				n++
				publishTo(b, js, "test.alone", strconv.Itoa(n), what)
			}
			events := l.wait(b, time.Minute, "all end", func(events []event) bool { return len(events) == 2*n })
			events = events[len(events)-2*isolatedTasks:]
			total += events[len(events)-1].at.Sub(events[1].at) // from the end of the first to that of the last
		}
		p.Stop()
		b.ReportMetric(float64(total.Microseconds())/1000/(isolatedTasks-1)/float64(b.N)-takes.Seconds()*1000, "ms/task")
	}
	b.Run("task", func(b *testing.B) { task(b, withoutCgroup(b), "nap", smallTask) })
	b.Run("cgroup", func(b *testing.B) { // where this machine allows it; else as above
		dir, _ := delegate(b)
		task(b, dir, "nap", smallTask)
	})
	b.Run("empty", func(b *testing.B) { task(b, withoutCgroup(b), "ok", 0) })
	b.Run("process", func(b *testing.B) {
		url, _ := natstest.Listen(b)
		for b.Loop() {
			for range isolatedTasks {
				cmd := exec.CommandContext(b.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), "DROVER_TEST_ROLE=isolated", "DROVER_CHILD=1", envURL+"="+url, envLedger+"="+b.TempDir(), envBadChild+"=1")
				_ = cmd.Run() // exit status 5
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/isolatedTasks/float64(b.N), "ms/process")
	})
}
