package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/shared/worker"
)

// alone is the isolated kind of these tests, and hasty one with a short time limit
// and one attempt.
type (
	alone note
	hasty note
)

func (alone) Kind() string { return "test.alone" }
func (hasty) Kind() string { return "test.hasty" }

const (
	envDrain    = "TEST_DRAIN"             // the drain limit
	roleStray   = "DROVER_TEST_ROLE=stray" // see natstest.Main
	envEscape   = "TEST_ESCAPE"            // of a stray: start another one outside of this group, and end
	envVanish   = "TEST_VANISH"            // and without the task's mark
	envVanished = "TEST_VANISHED"          // such a one
	envNoClone3 = "TEST_NO_CLONE3"         // have it refused
	envCgroup   = "TEST_CGROUP"            // go there first
)

const smallTask = 20 * time.Millisecond

// connection is that of this process, for a task to close.
var connection *nats.Conn

// reader is where the metrics of this process are.
var reader = sdkmetric.NewManualReader()

// isolatedMain is a worker process with isolated kinds, and a kind beside them that
// is not.
func isolatedMain() int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err := confineSelf(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	child := worker.IsChild() // asked first: the worker forgets it when it runs
	var w *worker.Worker
	code := runRole(func(js jetstream.JetStream) (_ *worker.Worker, err error) {
		w, err = newIsolated(js)
		return w, err
	})
	if lingers {
		<-time.After(time.Hour) // it is killed long before
	}
	if code == 0 && !child {
		s := w.Status()
		fmt.Printf("confined by %s and %s\n", s.Confinement.Memory, s.Confinement.Processes)
		for _, k := range s.Isolated {
			fmt.Printf("%s: %d oom, %d killed, %d died\n", k.Kind, k.OOM, k.Killed, k.Died)
		}
	}
	return code
}

// confineSelf puts a worker where the test wants it.
func confineSelf() error {
	if worker.IsChild() {
		return nil
	}
	if dir := os.Getenv(envCgroup); dir != "" {
		if err := enter(dir); err != nil {
			return err
		}
	}
	if os.Getenv(envNoClone3) != "" {
		return forbidClone3()
	}
	return nil
}

func newIsolated(js jetstream.JetStream) (*worker.Worker, error) {
	connection = js.Conn()
	l := ledger(os.Getenv(envLedger))
	drain, err := time.ParseDuration(os.Getenv(envDrain))
	if err != nil {
		drain = 10 * time.Second
	}
	slots, _ := strconv.Atoi(os.Getenv(envSlots)) // 0 without: the default
	w, err := worker.New(js, "test", worker.Serve(worker.Class{Name: task.Default, Slots: slots}), worker.DrainLimit(drain), worker.Grace(2*time.Second),
		worker.TracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spanLedger{l}))),
		worker.MeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	if err != nil {
		return nil, err
	}
	twice := worker.Retry(retry.Policy{Base: time.Millisecond, Cap: time.Millisecond, Attempts: 2})
	limits := []worker.IsolationLimit{worker.CPUTime(time.Second), worker.TempSpace(8 << 20)}
	if !raced {
		limits = append(limits, worker.Memory(96<<20)) // with C in the binary each new thread takes 8 MiB of it
	}
	worker.Handle(w, func(ctx context.Context, n note) error { return l.task(ctx, n) }, twice)
	worker.Handle(w, func(ctx context.Context, n alone) error { return l.task(ctx, note(n)) }, twice, worker.Isolated(limits...))
	worker.Handle(w, func(ctx context.Context, n hasty) error { return l.task(ctx, note(n)) },
		worker.Isolated(), worker.Timeout(hastyLimit), worker.Retry(retry.Policy{Attempts: 1}))
	return w, nil
}

// lingers is set by a task whose process is not to end.
var lingers bool

// enter puts this process into a cgroup, or where a worker before it has made room for
// processes in it.
func enter(dir string) error {
	if below := filepath.Join(dir, "worker"); os.WriteFile(filepath.Join(below, "cgroup.procs"), []byte("0"), 0) == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// task does what its text says.
func (l ledger) task(ctx context.Context, n note) error {
	info, _ := task.FromContext(ctx)
	l.write("start", info.ID, os.Getpid(), info.Attempt)
	switch n.Text {
	case "sleep":
		time.Sleep(time.Second)
	case "hold":
		if l.first() {
			<-ctx.Done()
			return context.Cause(ctx)
		}
	case "nap":
		time.Sleep(smallTask)
	case "allocate":
		for all := [][]byte{}; ; {
			all = append(all, bytes.Repeat([]byte{1}, 1<<20))
			l.write("occupies", info.ID, os.Getpid(), occupied())
			runtime.KeepAlive(all)
		}
	case "allocate-some":
		some := bytes.Repeat([]byte{1}, 40<<20)
		fmt.Println(len(some))
	case "burn":
		for time.Now().Year() > 0 {
		}
	case "fill":
		for i := 0; ; i++ {
			dir := filepath.Join(os.TempDir(), strconv.Itoa(i))
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600); err != nil {
				return err
			}
			if err := os.Chmod(dir, 0o500); err != nil { // not to be removed easily
				return err
			}
			time.Sleep(time.Millisecond)
		}
	case "large-file":
		f, err := os.CreateTemp("", "")
		if err != nil {
			return err
		}
		return errors.Join(f.Truncate(9<<20), f.Close())
	case "shout", "shout-stderr":
		to := os.Stdout
		if n.Text == "shout-stderr" {
			to = os.Stderr
		}
		line := strings.Repeat("all work and no play ", 1000) + "\n"
		for {
			_, _ = to.WriteString(line) // until its time is up
			time.Sleep(time.Millisecond)
		}
	case "fork", "fork-and-end":
		signal.Ignore(syscall.SIGTERM)
		for _, env := range []string{"", envEscape + "=1", envVanish + "=1"} {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), roleStray, env)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				return err
			}
		}
		if n.Text == "fork" {
			select {}
		}
		// There would be nothing to find if it ended before they are there: those of the
		// other task are counted too.
		for tick := time.Tick(time.Millisecond); len(l.events("stray")) < 6; <-tick {
		}
	case "open":
		for all := []*os.File{}; ; {
			f, err := os.Open(os.DevNull)
			if err != nil {
				return fmt.Errorf("after %d: %w", len(all), err)
			}
			all = append(all, f)
		}
	case "hang-up":
		connection.Close()
		select {}
	case "linger":
		lingers = true
	case "stop":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
		select {}
	case "exit-0":
		os.Exit(0)
	case "measure":
		l.measure(ctx)
	case "wait":
		<-ctx.Done()
		l.write(strings.Fields(context.Cause(ctx).Error())[0], info.ID, os.Getpid(), info.Attempt)
		return context.Cause(ctx)
	case "stuck":
		if err := os.WriteFile(filepath.Join(os.TempDir(), "f"), nil, 0o600); err != nil {
			return err
		}
		select {}
	case "exit":
		fmt.Println("so long")
		os.Exit(3)
	case "permanent":
		return retry.Permanent(errors.New("no such account"))
	case "later":
		if l.first() {
			return retry.After(time.Millisecond, errors.New("not yet"))
		}
	case "trace":
		_, span := sdktrace.NewTracerProvider().Tracer("handler").Start(ctx, "what the handler does")
		defer span.End()
		parent := trace.SpanContext{}
		if made, ok := span.(sdktrace.ReadOnlySpan); ok {
			parent = made.Parent()
		}
		return retry.Permanent(errors.New(telemetry.Traceparent(parent)))
	}
	l.write("end", info.ID, os.Getpid(), info.Attempt)
	return nil
}

// occupied is the memory of this process, in MiB, without files that are mapped.
func occupied() int {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "RssAnon:")
	var kib int
	_, _ = fmt.Sscan(after, &kib)
	return kib >> 10
}

// first reports whether it is asked for the first time.
func (l ledger) first() bool {
	f, err := os.OpenFile(string(l)+".first", os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// measure writes the metrics about isolation.
func (l ledger) measure(ctx context.Context) {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			var points []metricdata.DataPoint[int64]
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				points = d.DataPoints
			case metricdata.Sum[int64]:
				points = d.DataPoints
			}
			for _, p := range points {
				value := func(key attribute.Key) string { v, _ := p.Attributes.Value(key); return v.AsString() }
				switch m.Name {
				case telemetry.MetricIsolated:
					l.write("metric:confined", value(telemetry.IsolationMemory)+","+value(telemetry.IsolationProcesses), 0, int(p.Value))
				case telemetry.MetricIsolatedEnded:
					l.write("metric:"+value(telemetry.ErrorType), value(telemetry.TaskKind), 0, int(p.Value))
				}
			}
		}
	}
}

// events are those of one sort so far.
func (l ledger) events(what string) (found []string) {
	text, _ := os.ReadFile(string(l))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, what+" ") {
			found = append(found, line)
		}
	}
	return found
}

// spanLedger writes the error.type of each attempt into the ledger.
type spanLedger struct{ ledger }

func (l spanLedger) OnEnd(s sdktrace.ReadOnlySpan) {
	id, failure := "", ""
	for _, kv := range s.Attributes() {
		switch kv.Key {
		case telemetry.TaskID:
			id = kv.Value.AsString()
		case telemetry.ErrorType:
			failure = kv.Value.AsString()
		}
	}
	if failure != "" {
		l.write("failure:"+failure, id, 0, 0)
	}
}

func (spanLedger) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (spanLedger) Shutdown(context.Context) error                  { return nil }
func (spanLedger) ForceFlush(context.Context) error                { return nil }

// strayMain is a process that a task leaves behind: it ignores SIGTERM, and does not
// end by itself.
func strayMain() int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	if vanish := os.Getenv(envVanish) != ""; vanish || os.Getenv(envEscape) != "" {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envEscape+"=")
		if vanish {
			cmd.Env = []string{roleStray, envLedger + "=" + os.Getenv(envLedger), envVanished + "=1"}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return 1
		}
		return 0
	}
	id := "-"
	if os.Getenv(envVanished) != "" {
		id = "vanished"
	}
	ledger(os.Getenv(envLedger)).write("stray", id, os.Getpid(), 0)
	select {}
}

// standsStill reports whether a process was stopped by a signal.
func standsStill(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "T")
}

// gone reports whether a process has ended. It may not have been waited for yet.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}
