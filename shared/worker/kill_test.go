package worker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

func TestMain(m *testing.M) {
	if worker.IsChild() && os.Getenv("DROVER_TEST_ROLE") == "" {
		os.Exit(imageMain())
	}
	natstest.Main(m, map[string]func() int{"worker": workerMain, "caller": callerMain, "isolated": isolatedMain, "stray": strayMain})
}

// Environment of the worker process.
const (
	envURL    = "TEST_URL"
	envLedger = "TEST_LEDGER" // file that every run is written to
	envSlots  = "TEST_SLOTS"
	envFair   = "TEST_FAIR" // serve the fair class bulk
	// A child that ends before it has begun its task.
	envBadChild = "TEST_BAD_CHILD"
)

// workerMain is a worker process: what a task does is in its text.
func workerMain() int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ledger, err := os.OpenFile(os.Getenv(envLedger), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	nc, err := nats.Connect(os.Getenv(envURL), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	js, err := jetstream.New(nc)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	slots, _ := strconv.Atoi(os.Getenv(envSlots)) // 0 without: the default
	class := worker.Class{Name: task.Default, Slots: slots, TimeLimit: time.Minute}
	if os.Getenv(envFair) != "" {
		class.Name, class.Partitions = task.Bulk, partitions
	}
	w, err := worker.New(js, "test", worker.Serve(class), worker.DrainLimit(10*time.Second), worker.Grace(time.Second))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	write := func(event string, info task.Info) {
		// One write of one short line: atomic with O_APPEND, and it outlives SIGKILL.
		fmt.Fprintf(ledger, "%s %s %d %d %d\n", event, info.ID, os.Getpid(), info.Attempt, time.Now().UnixMicro())
	}
	worker.Handle(w, func(ctx context.Context, n note) error {
		info, _ := task.FromContext(ctx)
		write("start", info)
		verb, arg, _ := strings.Cut(n.Text, " ")
		d, _ := time.ParseDuration(arg) // 0 without
		switch verb {
		case "sleep":
			select {
			case <-time.After(d):
			case <-ctx.Done():
				write("cancelled", info)
				return context.Cause(ctx)
			}
		case "kill":
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		case "exit":
			os.Exit(3)
		case "stuck":
			select {}
		case "permanent":
			return retry.Permanent(errors.New("no such account"))
		case "fail-empty":
			return errors.New("")
		case "fail-once":
			if info.Attempt == 0 {
				return errors.New("the first attempt fails")
			}
		}
		write("end", info)
		return nil
	}, worker.Retry(retry.Policy{Base: time.Second, Cap: time.Second}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch {
	case !worker.IsChild():
		fmt.Println("ready")
	case os.Getenv(envBadChild) != "":
		return 5
	}
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// event is one line of the ledger.
type event struct {
	what, id string
	pid      int
	attempt  int
	at       time.Time
}

// ledger is where the worker processes of one test write what they ran.
type ledger string

func newLedger(tb testing.TB) ledger {
	tb.Helper()
	return ledger(filepath.Join(tb.TempDir(), "ledger"))
}

func (l ledger) read(tb testing.TB) []event {
	tb.Helper()
	f, err := os.Open(string(l))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var events []event
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e event
		var us int64
		if _, err := fmt.Sscanf(lines.Text(), "%s %s %d %d %d", &e.what, &e.id, &e.pid, &e.attempt, &us); err != nil {
			tb.Fatalf("ledger line %q: %v", lines.Text(), err)
		}
		e.at = time.UnixMicro(us)
		events = append(events, e)
	}
	return events
}

// count returns how often each task has had an event.
func (l ledger) count(tb testing.TB, what string) map[string]int {
	tb.Helper()
	n := map[string]int{}
	for _, e := range l.read(tb) {
		if e.what == what {
			n[e.id]++
		}
	}
	return n
}

// wait returns once ok is true of the ledger, and fails the test after the limit.
func (l ledger) wait(tb testing.TB, limit time.Duration, what string, ok func([]event) bool) []event {
	tb.Helper()
	for deadline := time.Now().Add(limit); ; {
		events := l.read(tb)
		if ok(events) {
			return events
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s; the ledger has %d events", limit, what, len(events))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func ended(id string) func([]event) bool { return happened("end", id) }

func happened(what, id string) func([]event) bool {
	return func(events []event) bool {
		for _, e := range events {
			if e.what == what && e.id == id {
				return true
			}
		}
		return false
	}
}

func spawnWorker(tb testing.TB, url string, l ledger, env ...string) *natstest.Process {
	tb.Helper()
	return natstest.Spawn(tb, "worker", append([]string{envURL + "=" + url, envLedger + "=" + string(l)}, env...)...)
}

const shortAckWait = 2 * time.Second // not for production: see architecture

// A worker is killed in the middle of a task: another one has it within ack-wait
// and two seconds.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	first := spawnWorker(t, url, l)
	publish(t, js, "a", note{Text: "sleep 3s"})
	l.wait(t, 10*time.Second, "a starts", happened("start", "a"))
	second := spawnWorker(t, url, l)
	killed := time.Now()
	first.Kill()
	l.wait(t, 20*time.Second, "a ends", ended("a"))
	var again time.Time
	for _, e := range l.read(t) {
		if e.what == "start" && e.pid == second.PID() {
			again = e.at
		}
	}
	if took := again.Sub(killed); took > shortAckWait+2*time.Second {
		t.Errorf("the task was back after %v, want at most ack-wait + 2s", took)
	}
	second.Stop()
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// A worker is stopped (SIGSTOP) for longer than its lease and then goes on: its
// handler is cancelled and its acknowledgement never sent, so the second run is
// the one that counts.
func TestStoppedWorkerIsFenced(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	zombie := spawnWorker(t, url, l)
	publish(t, js, "a", note{Text: "sleep 6s"})
	l.wait(t, 10*time.Second, "a starts", happened("start", "a"))
	zombie.Pause()
	second := spawnWorker(t, url, l)
	l.wait(t, 20*time.Second, "a starts again", func(events []event) bool { return len(events) == 2 })
	zombie.Resume()
	l.wait(t, 10*time.Second, "the zombie is cancelled", happened("cancelled", "a"))
	l.wait(t, 20*time.Second, "a ends", ended("a"))
	zombie.Stop()
	second.Stop()
	for _, e := range l.read(t) {
		if e.what == "end" && e.pid != second.PID() {
			t.Errorf("the zombie finished its run")
		}
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// A task is handed to a worker that is stopped, and comes back when its lease is
// over: the worker finds it when it goes on, late, and does not run it.
func TestStoppedWorkerFindsLateTask(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	zombie := spawnWorker(t, url, l)
	until(t, 10*time.Second, "it asks for tasks", func() bool { return asked(t, js) })
	zombie.Pause()
	publish(t, js, "a", note{Text: "ok"})
	second := spawnWorker(t, url, l)
	l.wait(t, 20*time.Second, "a ends", ended("a"))
	second.Stop()
	zombie.Resume()
	publish(t, js, "b", note{Text: "ok"})
	l.wait(t, 20*time.Second, "it works again, and b ends", ended("b"))
	zombie.Stop()
	for _, e := range l.read(t) {
		if e.id == "a" && e.pid != second.PID() {
			t.Errorf("the stopped worker has run it: %s", e.what)
		}
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// asked reports whether a worker waits for tasks.
func asked(tb testing.TB, js jetstream.JetStream) bool {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), "TASKS_DEFAULT", "test")
	if err != nil {
		tb.Fatal(err)
	}
	return c.CachedInfo().NumWaiting > 0
}

// Five rolling restarts under load: nothing is lost, nothing runs twice, and
// nothing costs an attempt or counts as a death, started or not.
func TestRollingRestarts(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, 20*time.Second)
	l := newLedger(t)
	workers := []*natstest.Process{spawnWorker(t, url, l, envSlots+"=8"), spawnWorker(t, url, l, envSlots+"=8")}
	n := 0
	load := func(d time.Duration) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
			publish(t, js, strconv.Itoa(n), note{Text: "sleep 100ms"}) // 200/s, and room for 160/s: there is always a backlog
			<-tick.C
		}
	}
	load(time.Second)
	for i := range 5 {
		old := workers[i%2]
		old.Signal(syscall.SIGTERM)
		workers[i%2] = spawnWorker(t, url, l, envSlots+"=8")
		load(500 * time.Millisecond)
		old.Wait()
	}
	l.wait(t, 60*time.Second, "all tasks end", func([]event) bool { return len(l.count(t, "end")) == n })
	for _, w := range workers {
		w.Stop()
	}
	for _, e := range l.read(t) {
		if e.attempt != 0 || e.what == "cancelled" {
			t.Errorf("task %s: %s with attempt %d", e.id, e.what, e.attempt)
		}
	}
	for id, runs := range l.count(t, "start") {
		if runs != 1 {
			t.Errorf("task %s ran %d times", id, runs)
		}
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// A task that kills its process ends in DEAD after at most max-deliver + 1
// deaths; of the tasks that ran beside it none is lost, none is dead-lettered,
// and each is doubled at most once by each death.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kill", "exit"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			url, js := natstest.Listen(t)
			topology(t, js, shortAckWait)
			l := newLedger(t)
			const innocents = 60
			for i := range innocents {
				publish(t, js, fmt.Sprint("innocent", i), note{Text: "sleep 200ms"})
			}
			publish(t, js, "killer", note{Text: how})
			deaths := 0
			supervised := spawnWorker(t, url, l, envSlots+"=8")
			done := func() bool { return len(letters(t, js)) == 1 && len(l.count(t, "end")) == innocents }
			for deadline := time.Now().Add(60 * time.Second); !done(); {
				select {
				case <-supervised.Done():
					deaths++
					supervised = spawnWorker(t, url, l, envSlots+"=8")
				case <-time.After(50 * time.Millisecond):
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d dead letters and %d of %d innocents after a minute", len(letters(t, js)), len(l.count(t, "end")), innocents)
				}
			}
			supervised.Stop()
			st := state(t, "DEAD", letters(t, js)[0])
			if st.ID != "killer" || st.Reason != task.CrashLoop || st.Attempt != 0 {
				t.Errorf("%s is dead of %s after %d attempts, want the killer, of crash-loop, after none", st.ID, st.Reason, st.Attempt)
			}
			runs := l.count(t, "start")
			if runs["killer"] > 4 || runs["killer"] != deaths+1 {
				t.Errorf("the killer ran %d times and %d workers died, want at most 4 deaths, the last of a child", runs["killer"], deaths)
			}
			for id, n := range runs {
				if id != "killer" && n > deaths+1 {
					t.Errorf("%s ran %d times for %d deaths", id, n, deaths)
				}
			}
			empty(t, js, "TASKS_DEFAULT", "RETRY")
		})
	}
}

// publishSuspect publishes a task that two workers have died of already.
func publishSuspect(tb testing.TB, js jetstream.JetStream, text string) {
	tb.Helper()
	body, err := task.Marshal(note{Text: text})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: "retry.ready.default.test.note.a", Data: body, Header: nats.Header{
		"Task-Id": {"a"}, "Task-Subject": {"tasks.default.test.note"}, "Task-Deaths": {"2"}, "Task-Reason": {"suspect"},
	}}); err != nil {
		tb.Fatal(err)
	}
}

// What a suspect's handler returns in its child is its verdict, and a child that
// ends before it has begun the task is a failed attempt, not the task's fault.
func TestChildAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		env        []string
		reason     task.Reason // of the dead letter; "" for none
	}{
		{"done", "ok", nil, ""},
		{"fails once", "fail-once", nil, ""},
		{"fails without a word", "fail-empty", nil, task.Failed},
		{"permanent", "permanent", nil, task.Permanent},
		{"dies", "kill", nil, task.CrashLoop},
		{"never begins", "ok", []string{envBadChild + "=1"}, task.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, js := natstest.Listen(t)
			topology(t, js, 20*time.Second)
			l := newLedger(t)
			p := spawnWorker(t, url, l, tt.env...)
			publishSuspect(t, js, tt.text)
			until(t, 60*time.Second, "the task has come to its end", func() bool {
				if tt.reason == "" {
					return l.count(t, "end")["a"] > 0
				}
				return len(letters(t, js)) > 0
			})
			p.Stop()
			dead := letters(t, js)
			switch {
			case tt.reason == "" && (len(dead) != 0 || l.count(t, "end")["a"] != 1):
				t.Errorf("%d dead letters and %d runs that ended, want none and 1", len(dead), l.count(t, "end")["a"])
			case tt.reason != "" && (len(dead) != 1 || state(t, "DEAD", dead[0]).Reason != tt.reason):
				t.Errorf("dead letters %v, want one of %s", dead, tt.reason)
			}
			for _, e := range l.read(t) {
				if e.pid == p.PID() {
					t.Error("the suspect ran in the worker itself")
				}
			}
			empty(t, js, "TASKS_DEFAULT", "RETRY")
		})
	}
}

// A suspect runs in a child of its own, and the child ends with its parent even
// when its handler does not listen: else it would run on beside the next one.
func TestOrphanedChildEnds(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	parent := spawnWorker(t, url, l)
	publishSuspect(t, js, "stuck")
	events := l.wait(t, 10*time.Second, "a starts", happened("start", "a"))
	child := events[0].pid
	if child == parent.PID() {
		t.Fatal("the suspect runs in the worker itself")
	}
	parent.Kill()
	until(t, 10*time.Second, "the child has ended", func() bool { return syscall.Kill(child, 0) != nil })
}

// The broker is killed and started again on its store, under load: every task
// that was acknowledged to its publisher runs.
func TestKilledBroker(t *testing.T) {
	t.Parallel()
	b := natstest.StartBroker(t)
	js := b.Connect(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	workers := []*natstest.Process{spawnWorker(t, b.URL, l), spawnWorker(t, b.URL, l)}
	accepted := map[string]bool{}
	n := 0
	body, err := task.Marshal(note{Text: "fail-once"})
	if err != nil {
		t.Fatal(err)
	}
	load := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
			id := strconv.Itoa(n)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := js.PublishMsg(ctx, &nats.Msg{Subject: "tasks.default.test.note", Data: body}, jetstream.WithMsgID(id))
			cancel()
			if err == nil {
				accepted[id] = true
			} else {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	load(time.Second)
	for range 2 {
		b.Kill()
		load(200 * time.Millisecond)
		b.Restart(t)
		load(time.Second)
	}
	l.wait(t, 60*time.Second, "all accepted tasks end", func([]event) bool {
		ends := l.count(t, "end")
		for id := range accepted {
			if ends[id] == 0 {
				return false
			}
		}
		return true
	})
	for _, w := range workers {
		w.Stop()
	}
	t.Logf("%d tasks accepted of %d, over 2 kills", len(accepted), n)
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}
