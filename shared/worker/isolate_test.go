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
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/natstest"
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
	envDrain  = "TEST_DRAIN"             // the drain limit
	roleStray = "DROVER_TEST_ROLE=stray" // see natstest.Main
	envEscape = "TEST_ESCAPE"            // of a stray: start another one outside of this group, and end
)

// isolatedMain is a worker process with isolated kinds, and a kind beside them that
// is not.
func isolatedMain() int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	return runRole(newIsolated)
}

func newIsolated(js jetstream.JetStream) (*worker.Worker, error) {
	l := ledger(os.Getenv(envLedger))
	drain, err := time.ParseDuration(os.Getenv(envDrain))
	if err != nil {
		drain = 10 * time.Second
	}
	slots, _ := strconv.Atoi(os.Getenv(envSlots)) // 0 without: the default
	w, err := worker.New(js, "test", worker.Serve(worker.Class{Name: task.Default, Slots: slots}), worker.DrainLimit(drain), worker.Grace(2*time.Second), worker.TracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spanLedger{l}))))
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
		worker.Isolated(), worker.Timeout(3*time.Second), worker.Retry(retry.Policy{Attempts: 1}))
	return w, nil
}

// task does what its text says.
func (l ledger) task(ctx context.Context, n note) error {
	info, _ := task.FromContext(ctx)
	l.write("start", info.ID, os.Getpid(), info.Attempt)
	switch n.Text {
	case "sleep":
		time.Sleep(time.Second)
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
	case "shout":
		line := strings.Repeat("all work and no play ", 1000) + "\n"
		for {
			fmt.Print(line) // until its time is up
			time.Sleep(time.Millisecond)
		}
	case "fork":
		signal.Ignore(syscall.SIGTERM)
		for _, env := range []string{"", envEscape + "=1"} {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), roleStray, env)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				return err
			}
		}
		select {}
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
		if f, err := os.OpenFile(string(l)+".later", os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			_ = f.Close()
			return retry.After(time.Millisecond, errors.New("not yet"))
		}
	case "trace":
		return retry.Permanent(errors.New(telemetry.Traceparent(trace.SpanContextFromContext(ctx))))
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
	if os.Getenv(envEscape) != "" {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envEscape+"=")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return 1
		}
		return 0
	}
	ledger(os.Getenv(envLedger)).write("stray", "-", os.Getpid(), 0)
	select {}
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

const publisherTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func publishTo(tb testing.TB, js jetstream.JetStream, kind, id, text string) {
	tb.Helper()
	body, err := task.Marshal(note{Text: text})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: "tasks.default." + kind, Data: body, Header: nats.Header{"traceparent": {publisherTrace}}},
		jetstream.WithMsgID(id)); err != nil {
		tb.Fatal(err)
	}
}

// spawnIsolated starts a worker of isolated kinds whose temp folders are made in temp.
func spawnIsolated(tb testing.TB, url string, l ledger, env ...string) (p *natstest.Process, temp string) {
	tb.Helper()
	temp = tb.TempDir()
	return natstest.Spawn(tb, "isolated", append([]string{envURL + "=" + url, envLedger + "=" + string(l), "TMPDIR=" + temp}, env...)...), temp
}

// Whatever a task of an isolated kind does, only its own process ends of it: it
// fails with the reason in its history, leaves nothing behind, and the tasks in
// the worker itself never notice.
func TestIsolated(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, 20*time.Second)
	l := newLedger(t)
	p, temp := spawnIsolated(t, url, l)
	type test struct {
		kind, text string
		reason     task.Reason // of the dead letter; "" for none
		starts     int
		errorType  string   // of each failure's span
		failure    []string // what each failure says
	}
	tests := []test{
		{"test.alone", "ok", "", 1, "", nil},
		{"test.alone", "allocate-some", "", 1, "", nil},
		{"test.alone", "later", "", 2, "", nil},
		{"test.alone", "permanent", task.Permanent, 1, "permanent", []string{"no such account"}},
		{"test.alone", "trace", task.Permanent, 1, "permanent", []string{"00-0af7651916cd43dd8448eb211c80319c-"}},
		{"test.alone", "exit", task.Failed, 2, "died", []string{"died: exit status 3", "so long"}},
		{"test.alone", "burn", task.Failed, 2, "killed", []string{"killed: it used up its processor time of 1s"}},
		{"test.alone", "fill", task.Failed, 2, "killed", []string{"killed: its temp folder took more than its limit of 8 MiB"}},
		{"test.alone", "large-file", task.Failed, 2, "_OTHER", []string{"file too large"}},
		{"test.hasty", "shout", task.Failed, 1, "killed", []string{"time limit reached (3s): killed: wall clock", "all work and no play"}},
		{"test.hasty", "fork", task.Failed, 1, "killed", []string{"time limit reached (3s): killed: wall clock"}},
		{"test.hasty", "wait", task.Failed, 1, "time_limit", []string{"time limit reached"}},
	}
	if !raced {
		tests = append(tests, test{"test.alone", "allocate", task.Failed, 2, "oom", []string{"oom: it reached its memory cap of 96 MiB ("}})
	}
	ends := 0
	for i := range 8 {
		publishTo(t, js, "test.note", fmt.Sprint("neighbour", i), "sleep")
		ends++
	}
	failing := 0
	for _, tt := range tests {
		publishTo(t, js, tt.kind, tt.text, tt.text)
		if tt.reason == "" {
			ends++
		} else {
			failing++
		}
	}
	until(t, 30*time.Second, "every task has come to its end", func() bool {
		return len(letters(t, js)) == failing && len(l.count(t, "end")) == ends
	})
	p.Stop()
	dead := map[string]task.State{}
	for _, m := range letters(t, js) {
		st := state(t, "DEAD", m)
		dead[st.ID] = st
	}
	starts := l.count(t, "start")
	for _, tt := range tests {
		st := dead[tt.text]
		if st.Reason != tt.reason || starts[tt.text] != tt.starts || st.Deaths != 0 {
			t.Errorf("%s: %d runs, dead of %q after %d deaths, want %d, %q, 0", tt.text, starts[tt.text], st.Reason, st.Deaths, tt.starts, tt.reason)
		}
		if tt.reason != "" && len(st.Errors) != tt.starts {
			t.Errorf("%s: %d failures in its history, want %d", tt.text, len(st.Errors), tt.starts)
		}
		if n := l.count(t, "failure:"+tt.errorType)[tt.text]; tt.reason != "" && n != tt.starts {
			t.Errorf("%s: %d spans with error.type %s, want %d", tt.text, n, tt.errorType, tt.starts)
		}
		for _, f := range st.Errors {
			for _, want := range tt.failure {
				if !strings.Contains(f.Error, want) {
					t.Errorf("%s failed of %q, want %q in it", tt.text, f.Error, want)
				}
			}
		}
	}
	if f := dead["trace"].Errors; len(f) == 1 && f[0].Error != f[0].Trace {
		t.Errorf("the handler is in %s, want the span of its attempt: %s", f[0].Error, f[0].Trace)
	}
	strays, most := 0, 0
	for _, e := range l.read(t) {
		switch {
		case e.what == "stray":
			strays++
			if !gone(e.pid) {
				t.Errorf("process %d, which a task left behind, goes on", e.pid)
				_ = syscall.Kill(e.pid, syscall.SIGKILL)
			}
		case e.what == "occupies":
			most = max(most, e.attempt)
		case strings.HasPrefix(e.id, "neighbour") != (e.pid == p.PID()):
			t.Errorf("%s ran in process %d, and the worker is %d", e.id, e.pid, p.PID())
		case strings.HasPrefix(e.id, "neighbour") && starts[e.id] != 1:
			t.Errorf("%s ran %d times, want once", e.id, starts[e.id])
		}
	}
	if strays != 2 {
		t.Errorf("%d processes were left behind, want 2", strays)
	}
	if !raced && (most < 60 || most > 96) {
		t.Errorf("the process under a cap of 96 MiB occupied up to %d MiB, want most of the cap and no more", most)
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("temp folders are left: %v", left)
	}
	if n := len(p.Output()); n > 1<<20 {
		t.Errorf("the worker printed %d bytes, want at most 64 KiB for each task", n)
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY")
}

// A worker that drains asks isolated tasks to end, kills those that do not, and
// gives them back without an attempt burned.
func TestIsolatedDrain(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, 20*time.Second)
	l := newLedger(t)
	p, temp := spawnIsolated(t, url, l, envDrain+"=10ms")
	publishTo(t, js, "test.alone", "wait", "wait")
	publishTo(t, js, "test.alone", "stuck", "stuck")
	l.wait(t, 10*time.Second, "both start", func(events []event) bool { return len(events) == 2 })
	p.Stop()
	if l.count(t, "process")["wait"] != 1 { // of ErrDraining
		t.Errorf("events %v, want one of the handler that was told of the drain", l.read(t))
	}
	back := all(t, js, "RETRY")
	if len(back) != 2 {
		t.Errorf("%d tasks in RETRY, want 2", len(back))
	}
	for _, m := range back {
		if st := state(t, "RETRY", m); st.Reason != task.GaveBack || st.Attempt != 0 || st.Deaths != 0 {
			t.Errorf("%s is back for %s with %d attempts and %d deaths, want gave-back, 0 and 0", st.ID, st.Reason, st.Attempt, st.Deaths)
		}
	}
	for _, e := range l.read(t) {
		if !gone(e.pid) {
			t.Errorf("the process of %s goes on", e.id)
		}
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("temp folders are left: %v", left)
	}
	empty(t, js, "TASKS_DEFAULT", "DEAD")
}

// The process of an isolated task whose worker is killed ends too, and removes its
// temp folder.
func TestIsolatedOrphan(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	p, temp := spawnIsolated(t, url, l)
	publishTo(t, js, "test.alone", "stuck", "stuck")
	events := l.wait(t, 10*time.Second, "it starts", happened("start", "stuck"))
	p.Kill()
	until(t, 10*time.Second, "its process has ended", func() bool { return gone(events[0].pid) })
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("temp folders are left: %v", left)
	}
}

// Limits that cannot be meant are mistakes, which Run returns.
func TestIsolatedMistakes(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	for _, tt := range []struct {
		name string
		opts []worker.HandlerOption
		want string
	}{
		{"little memory", []worker.HandlerOption{worker.Isolated(worker.Memory(1 << 20))}, "memory 1048576 B: want at least 33554432 (32 MiB)"},
		{"no processor time", []worker.HandlerOption{worker.Isolated(worker.CPUTime(0))}, "processor time 0s: want more than 0"},
		{"no temp space", []worker.HandlerOption{worker.Isolated(worker.TempSpace(0))}, "temp space 0 B: want at least 1048576 (1 MiB)"},
		{"twice", []worker.HandlerOption{worker.Isolated(), worker.Isolated()}, "isolated: given twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, err := worker.New(js, "test")
			if err != nil {
				t.Fatal(err)
			}
			worker.Handle(w, func(context.Context, note) error { return nil }, tt.opts...)
			if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %v, want %q in it", err, tt.want)
			}
		})
	}
}
