package worker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

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
// the worker itself never notice. Where this machine lets the test make a cgroup and
// hand it over, all of it holds in cgroups too.
func TestIsolated(t *testing.T) {
	t.Parallel()
	t.Run("without a cgroup", func(t *testing.T) {
		t.Parallel()
		testIsolated(t, withoutCgroup(t), "rlimit", "environment")
	})
	t.Run("in a cgroup", func(t *testing.T) {
		t.Parallel()
		dir, memory := delegate(t)
		switch {
		case dir == "":
			t.Log("this machine lets nobody make cgroups of version 2 here: the same is shown without")
			testIsolated(t, "", "", "")
		case memory:
			testIsolated(t, dir, "cgroup", "cgroup")
		default:
			t.Log("this machine has cgroups of version 2 without memory in them: its cap is shown by RLIMIT_DATA")
			testIsolated(t, dir, "rlimit", "cgroup")
		}
	})
}

// misdeed is what a task does, and what becomes of it.
type misdeed struct {
	kind, text string
	reason     task.Reason // of the dead letter; "" for none
	starts     int
	errorType  string   // of each failure's span
	failure    []string // what each failure says
}

// timeIsUp is how the failure of one that had to be killed begins.
var timeIsUp = fmt.Sprintf("time limit reached (%v): killed: wall clock", hastyLimit)

var misdeeds = []misdeed{
	{"test.alone", "ok", "", 1, "", nil},
	{"test.alone", "allocate-some", "", 1, "", nil},
	{"test.alone", "later", "", 2, "", nil},
	{"test.alone", "linger", "", 1, "", nil},
	{"test.alone", "fork-and-end", "", 1, "", nil},
	{"test.alone", "permanent", task.Permanent, 1, "permanent", []string{"no such account"}},
	{"test.alone", "trace", task.Permanent, 1, "permanent", []string{"00-0af7651916cd43dd8448eb211c80319c-"}},
	{"test.alone", "exit", task.Failed, 2, "died", []string{"died: exit status 3", "so long"}},
	{"test.alone", "exit-0", task.Failed, 2, "died", []string{"died: exit status 0 without an answer"}},
	{"test.alone", "burn", task.Failed, 2, "killed", []string{"killed: it used up its processor time of 1s"}},
	{"test.alone", "fill", task.Failed, 2, "killed", []string{"killed: its temp folder took more than its limit of 8 MiB"}},
	{"test.alone", "large-file", task.Failed, 2, "_OTHER", []string{"file too large"}},
	{"test.alone", "open", task.Failed, 2, "_OTHER", []string{"too many open files"}},
	{"test.hasty", "shout", task.Failed, 1, "killed", []string{timeIsUp, "all work and no play"}},
	{"test.hasty", "shout-stderr", task.Failed, 1, "killed", []string{timeIsUp, "all work and no play"}},
	{"test.hasty", "fork", task.Failed, 1, "killed", []string{timeIsUp}},
	{"test.hasty", "hang-up", task.Failed, 1, "killed", []string{timeIsUp}},
	{"test.hasty", "stop", task.Failed, 1, "killed", []string{timeIsUp}},
	{"test.hasty", "wait", task.Failed, 1, "time_limit", []string{"time limit reached"}},
}

const neighbours = 8

// testIsolated has a worker in cgroup run them all beside tasks of its own. memory and
// processes are how it should say that it confines them; "" is for not known.
func testIsolated(t *testing.T, cgroup, memory, processes string) {
	t.Helper()
	url, js := natstest.Listen(t)
	topology(t, js, 20*time.Second)
	l := newLedger(t)
	p, temp := spawnIsolated(t, url, l, envCgroup+"="+cgroup)
	tests := misdeeds
	if !raced || memory == "cgroup" {
		tests = append(slices.Clip(tests), misdeed{"test.alone", "allocate", task.Failed, 2, "oom", []string{"oom: it reached its memory cap of 96 MiB"}})
	}
	ends := 0
	for i := range neighbours {
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
	defer func() {
		if t.Failed() {
			t.Logf("what happened: %v", l.read(t))
		}
	}()
	until(t, 40*time.Second, "every task has come to its end", func() bool {
		return len(letters(t, js)) == failing && len(l.count(t, "end")) == ends
	})
	publishTo(t, js, "test.note", "neighbour-that-measures", "measure")
	l.wait(t, 10*time.Second, "it has measured", happened("end", "neighbour-that-measures"))
	p.Stop()
	checkMisdeeds(t, js, l, tests)
	checkTraces(t, l, p, processes)
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("temp folders are left: %v", left)
	}
	if n := len(p.Output()); n > 2<<20 {
		t.Errorf("the worker printed %d bytes, want at most 64 KiB for each task", n)
	}
	if want := "confined by " + memory + " and " + processes + "\n"; memory != "" && !strings.Contains(p.Output(), want) {
		t.Errorf("the worker says %q, want %q in it", p.Output(), want)
	}
	checkMetrics(t, l, tests, memory, processes)
	if cgroup != "" {
		checkEmptied(t, cgroup)
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY")
}

// checkMisdeeds says how each task ended, by the dead letters and the ledger.
func checkMisdeeds(t *testing.T, js jetstream.JetStream, l ledger, tests []misdeed) {
	t.Helper()
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
		t.Errorf("a span of the handler is under %s, want that of its attempt: %s", f[0].Error, f[0].Trace)
	}
}

// checkTraces says where the tasks ran, and what is left of them.
func checkTraces(t *testing.T, l ledger, p *natstest.Process, processes string) {
	t.Helper()
	starts := l.count(t, "start")
	strays, escaped, most := 0, 0, 0
	for _, e := range l.read(t) {
		switch {
		case e.what == "stray":
			strays++
			if gone(e.pid) {
				break
			}
			_ = syscall.Kill(e.pid, syscall.SIGKILL)
			if e.id == "vanished" {
				escaped++
			} else {
				t.Errorf("process %d, which a task left behind, goes on", e.pid)
			}
		case e.what == "occupies":
			most = max(most, e.attempt)
		case strings.HasPrefix(e.what, "metric:"):
		case strings.HasPrefix(e.id, "neighbour") != (e.pid == p.PID()) && e.pid != 0:
			t.Errorf("%s ran in process %d, and the worker is %d", e.id, e.pid, p.PID())
		case strings.HasPrefix(e.id, "neighbour") && starts[e.id] != 1:
			t.Errorf("%s ran %d times, want once", e.id, starts[e.id])
		}
	}
	if strays != 6 {
		t.Errorf("%d processes were left behind, want 6", strays)
	}
	// This is what is not promised without a cgroup: nothing tells whose they are.
	if want := 2; processes == "environment" && escaped != want || processes == "cgroup" && escaped != 0 {
		t.Errorf("%d processes that left their group and cleared their environment go on, want 0 in a cgroup and %d without", escaped, want)
	}
	if !raced && (most < 60 || most > 96) {
		t.Errorf("the process under a cap of 96 MiB occupied up to %d MiB, want most of the cap and no more", most)
	}
}

// checkMetrics says what the worker has counted.
func checkMetrics(t *testing.T, l ledger, tests []misdeed, memory, processes string) {
	t.Helper()
	want := map[string]int{}
	for _, tt := range tests {
		switch tt.errorType {
		case "oom", "killed", "died":
			want[tt.errorType+" "+tt.kind] += tt.starts
		}
	}
	got, confined := map[string]int{}, ""
	for _, e := range l.read(t) {
		what, ok := strings.CutPrefix(e.what, "metric:")
		switch {
		case !ok || e.attempt == 0:
		case what == "confined":
			confined = e.id
		default:
			got[what+" "+e.id] = e.attempt
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("isolated tasks that ended without a verdict (-want +got):\n%s", diff)
	}
	if want := memory + "," + processes; memory != "" && confined != want {
		t.Errorf("the metric says that they are confined by %q, want %q", confined, want)
	}
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

// The broker is away for longer than a lease: the process of an isolated task ends before
// its task may be another worker's, leaves nothing, and the task runs again afterwards.
func TestIsolatedWithoutBroker(t *testing.T) {
	t.Parallel()
	broker := natstest.StartBroker(t)
	js := broker.Connect(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	p, temp := spawnIsolated(t, broker.URL, l, envCgroup+"="+withoutCgroup(t))
	publishTo(t, js, "test.alone", "hold", "hold")
	pid := l.wait(t, 10*time.Second, "it runs", happened("start", "hold"))[0].pid
	broker.Kill()
	until(t, shortAckWait+time.Second, "the process has ended, while the broker is away", func() bool { return gone(pid) })
	time.Sleep(outage())
	broker.Restart(t)
	l.wait(t, 30*time.Second, "it runs again, and ends", ended("hold"))
	p.Stop()
	if n := l.count(t, "start")["hold"]; n != 2 {
		t.Errorf("it ran %d times, want twice", n)
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("temp folders are left: %v", left)
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// The process of an isolated task whose worker is killed ends too, with what it
// started, and removes its temp folder. What is left of one that cannot, the next
// worker removes.
func TestIsolatedOrphan(t *testing.T) {
	t.Parallel()
	for _, delegated := range []bool{false, true} {
		t.Run(fmt.Sprintf("delegated=%t", delegated), func(t *testing.T) {
			t.Parallel()
			url, js := natstest.Listen(t)
			topology(t, js, shortAckWait)
			l, dir := newLedger(t), withoutCgroup(t)
			if delegated {
				dir, _ = delegate(t)
			}
			confined := delegated && dir != ""
			p, temp := spawnIsolated(t, url, l, envCgroup+"="+dir)
			publishTo(t, js, "test.alone", "stuck", "stuck")
			publishTo(t, js, "test.alone", "fork", "fork")
			events := l.wait(t, 10*time.Second, "they run", func(events []event) bool { return len(events) == 5 })
			p.Kill()
			for _, e := range events {
				until(t, 10*time.Second, e.what+" "+e.id+" has ended", func() bool { return gone(e.pid) || e.id == "vanished" && !confined })
				_ = syscall.Kill(e.pid, syscall.SIGKILL) // the one that is not promised
			}
			until(t, 10*time.Second, "their temp folders are removed, and that of the process that waited", func() bool {
				left, _ := os.ReadDir(temp)
				return len(left) == 0
			})

			p, _ = spawnIsolated(t, url, l, envCgroup+"="+dir, "TMPDIR="+temp)
			publishTo(t, js, "test.alone", "stop", "stop")
			events = l.wait(t, 10*time.Second, "it runs", happened("start", "stop"))
			stopped := events[slices.IndexFunc(events, func(e event) bool { return e.id == "stop" })].pid
			until(t, 10*time.Second, "it stands still", func() bool { return standsStill(stopped) })
			p.Kill()
			before, _ := filepath.Glob(filepath.Join(temp, "*"))
			if len(before) == 0 {
				t.Error("a process that stands still has removed its temp folder")
			}
			if confined {
				for _, b := range before {
					before = append(before, filepath.Join(dir, filepath.Base(b)))
				}
			}
			p, _ = spawnIsolated(t, url, l, envCgroup+"="+dir, "TMPDIR="+temp)
			until(t, 10*time.Second, "the next worker has removed what was left", func() bool {
				left := slices.DeleteFunc(slices.Clone(before), func(dir string) bool { _, err := os.Stat(dir); return err != nil })
				return gone(stopped) && len(left) == 0
			})
			p.Kill()
			if dir != "" {
				sweepCgroup(t, dir)
			}
		})
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
