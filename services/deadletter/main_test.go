package deadletter_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/services/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

func TestMain(m *testing.M) {
	natstest.Main(m, map[string]func() int{"watchdog": watchdogMain})
}

const patience = 20 * time.Second // a loaded machine; normally milliseconds

// fleet is small: one class, one service.
func fleet() *streams.Fleet {
	return &streams.Fleet{
		AllowShortAckWait: true,
		Classes: []streams.Class{{
			Name: task.Default, AckWait: time.Second, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3,
			WaitObjective: time.Second, Slots: 4, MaxBytes: 64 << 20,
		}},
		Services: []streams.Service{{Name: "email", Classes: []task.Class{task.Default}}},
	}
}

const (
	live    = "TASKS_DEFAULT"
	subject = "tasks.default.email.send"
	maxDead = 2 // deliveries after which the broker gives up here
)

// topology makes the fleet's streams on the broker, with a broker that gives a
// task up after two deliveries of 100 ms.
func topology(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if _, err := streams.Apply(tb.Context(), js, fleet()); err != nil {
		tb.Fatal(err)
	}
	for _, c := range []struct{ stream, name string }{{live, "email"}, {task.RetryStream, "default-email"}} {
		setConsumer(tb, js, c.stream, c.name, func(c *jetstream.ConsumerConfig) { c.MaxDeliver, c.AckWait = maxDead, 100*time.Millisecond })
	}
	// So that what a killed process held comes back soon.
	setConsumer(tb, js, task.AdvisoryStream, "deadletter", func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
	setConsumer(tb, js, task.DeadStream, "deadletter", func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
}

func setConsumer(tb testing.TB, js jetstream.JetStream, stream, name string, change func(*jetstream.ConsumerConfig)) {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), stream, name)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := c.CachedInfo().Config
	change(&cfg)
	if _, err := js.UpdateConsumer(tb.Context(), stream, cfg); err != nil {
		tb.Fatal(err)
	}
}

func setStream(tb testing.TB, js jetstream.JetStream, name string, change func(*jetstream.StreamConfig)) {
	tb.Helper()
	s, err := js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	change(&cfg)
	if _, err := js.UpdateStream(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
}

// quick is a configuration with short times.
func quick() deadletter.Config {
	return deadletter.Config{
		Interval: time.Hour, Gather: 50 * time.Millisecond, Sweep: 50 * time.Millisecond, Lease: time.Second,
		OrphanSweep: time.Hour,
	}
}

// running is a Watchdog that runs in this process.
type running struct {
	log   *journal
	ready func() error
	stop  func()
}

// start runs a Watchdog until the test ends, or stop is called.
func start(tb testing.TB, js jetstream.JetStream, c deadletter.Config) *running {
	tb.Helper()
	return startWith(tb, js, c, nil)
}

func startWith(tb testing.TB, js jetstream.JetStream, c deadletter.Config, meters metric.MeterProvider) *running {
	tb.Helper()
	w, err := deadletter.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	r := &running{log: newJournal(tb)}
	d := deadletter.Deps{JetStream: js, Fleet: fleet(), MeterProvider: meters, Logger: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.Run(ctx, d, func(f func() error) { r.ready = f; close(ready) }) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tb.Errorf("Run = %v, want nil", err)
			}
		case <-time.After(patience):
			tb.Error("Run does not end")
		}
		r.log.close()
	})
	tb.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-ended:
		tb.Fatalf("Run = %v before it was ready", err)
	}
	return r
}

const (
	envURL   = "DEADLETTER_TEST_URL"
	envCrash = "DEADLETTER_TEST_CRASH" // kills itself between copy and delete
)

// watchdogMain is a Watchdog as a process.
func watchdogMain() int {
	if os.Getenv(envCrash) != "" {
		deadletter.AfterCopy(func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} })
	}
	return natstest.RunRole(os.Getenv(envURL), func(ctx context.Context, js jetstream.JetStream, ready func()) error {
		w, err := deadletter.New(quick())
		if err != nil {
			return err
		}
		d := deadletter.Deps{JetStream: js, Fleet: fleet(), Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
		return w.Run(ctx, d, func(func() error) { ready() })
	})
}

// journal is a log that a test can wait on.
type journal struct {
	tb    testing.TB
	w     *io.PipeWriter
	lines chan map[string]any
	ended chan struct{}
}

func newJournal(tb testing.TB) *journal {
	tb.Helper()
	r, w := io.Pipe()
	j := &journal{tb: tb, w: w, lines: make(chan map[string]any, 100_000), ended: make(chan struct{})}
	go func() {
		defer close(j.ended)
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) == nil {
				j.lines <- line
			}
		}
	}()
	return j
}

func (j *journal) Write(p []byte) (int, error) {
	n, err := j.w.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		return len(p), nil
	}
	return n, err
}

func (j *journal) close() {
	_ = j.w.Close()
	<-j.ended
}

// wait returns the next line that has want in it, keyed by the attribute.
func (j *journal) wait(match func(map[string]any) bool) map[string]any {
	j.tb.Helper()
	limit := time.After(patience)
	for {
		select {
		case line := <-j.lines:
			if match(line) {
				return line
			}
		case <-limit:
			j.tb.Fatal("the log has no such line")
		}
	}
}

// rest returns the lines that were logged and not looked at, once the Watchdog
// has ended.
func (j *journal) rest(match func(map[string]any) bool) []map[string]any {
	j.tb.Helper()
	<-j.ended
	var out []map[string]any
	for {
		select {
		case line := <-j.lines:
			if match(line) {
				out = append(out, line)
			}
		default:
			return out
		}
	}
}

func saying(text string) func(map[string]any) bool {
	return func(line map[string]any) bool { return line["msg"] == text }
}

func publish(tb testing.TB, js jetstream.JetStream, msg *nats.Msg) {
	tb.Helper()
	if _, err := js.PublishMsg(tb.Context(), msg); err != nil {
		tb.Fatal(err)
	}
}

// letters waits until DEAD holds n letters, and returns them.
func letters(tb testing.TB, js jetstream.JetStream, n int) []*jetstream.RawStreamMsg {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	c, err := js.OrderedConsumer(ctx, task.DeadStream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := js.Stream(ctx, task.DeadStream)
	if err != nil {
		tb.Fatal(err)
	}
	var out []*jetstream.RawStreamMsg
	for range n {
		msg, err := c.Next(jetstream.FetchContext(ctx))
		if err != nil {
			tb.Fatalf("DEAD has %d letters, want %d: %v", len(out), n, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			tb.Fatal(err)
		}
		raw, err := s.GetMsg(ctx, meta.Sequence.Stream)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, raw)
	}
	return out
}

// messages is how many messages the stream holds.
func messages(tb testing.TB, js jetstream.JetStream, stream string) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}
