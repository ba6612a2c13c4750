package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/tools/chaos"
)

// tale is a ledger made by hand. Times are ms.
type tale struct {
	events []chaos.Event
	runs   int
	faults int
}

func (l *tale) at(ms int64, e chaos.Event) {
	e.Mono = ms*int64(time.Millisecond) + 1
	l.events = append(l.events, e)
}

const noEnd = -1

// run is one run of task t in a worker's process, until its end or for ever.
func (l *tale) run(attempt, pid int, from, to int64, verdict string) {
	l.runs++
	run, proc := strconv.Itoa(l.runs), fmt.Sprint("worker-", pid)
	l.at(from, chaos.Event{What: chaos.Start, Run: run, ID: "t", Attempt: attempt, Proc: proc, PID: pid})
	if to != noEnd {
		l.at(to, chaos.Event{What: chaos.End, Run: run, Proc: proc, PID: pid, Verdict: verdict})
	}
}

func (l *tale) fault(name string, pid int, from, to int64) {
	l.faults++
	l.at(from, chaos.Event{What: chaos.Begin, Proc: "driver", Fault: l.faults, Name: name, Target: fmt.Sprint("worker-", pid), PID: pid})
	l.at(to, chaos.Event{What: chaos.Over, Proc: "driver", Fault: l.faults})
}

func (l *tale) letter(ms int64, reason string, attempt, failures int) {
	l.at(ms, chaos.Event{What: chaos.Letter, ID: "t", Reason: reason, Attempt: attempt, Failures: failures, HasBody: true})
}

// The promises, one by one: what is a violation of each, and what is none. Each
// tale is of one task t that was acknowledged at 10 ms, on a fleet with an
// ack-wait of 2 s, a time limit of 3 s, a grace of 1 s and 3 attempts.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		tell func(*tale)
		want []string // kinds of violations
	}{
		{"done", func(l *tale) { l.run(0, 1, 20, 30, chaos.Done) }, nil},
		{"lost", func(*tale) {}, []string{chaos.Lost}},
		{"left over", func(l *tale) { l.at(9000, chaos.Event{What: chaos.Left, ID: "t", Stream: "RETRY"}) }, []string{chaos.LeftOver}},
		{"done and dead", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Done)
			l.run(1, 1, 40, 50, chaos.Permanent)
			l.letter(60, "permanent", 1, 1)
		}, []string{chaos.AttemptSkipped, chaos.BothEnds}},
		{"two letters", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Permanent)
			l.letter(40, "permanent", 1, 1)
			l.letter(50, "permanent", 1, 1)
		}, []string{chaos.TwoLetters}},
		{"retried", func(l *tale) { l.run(0, 1, 20, 30, chaos.Failed); l.run(1, 1, 40, 50, chaos.Done) }, nil},
		{"attempt skipped", func(l *tale) { l.run(0, 1, 20, 30, chaos.Failed); l.run(2, 1, 40, 50, chaos.Done) }, []string{chaos.AttemptSkipped}},
		{"attempt not counted", func(l *tale) { l.run(0, 1, 20, 30, chaos.Failed); l.run(0, 1, 40, 50, chaos.Done) }, []string{chaos.AttemptRepeated}},
		{"attempts spent", func(l *tale) {
			for i := range 3 {
				l.run(i, 1, int64(100*i+20), int64(100*i+30), chaos.Failed)
			}
			l.letter(300, "failed", 3, 3)
		}, nil},
		{"one attempt too many", func(l *tale) {
			for i := range 4 {
				l.run(i, 1, int64(100*i+20), int64(100*i+30), chaos.Failed)
			}
			l.letter(500, "failed", 4, 4)
		}, []string{chaos.AttemptSkipped, chaos.OverAttempts, chaos.WrongDeath}},
		{"put off burns an attempt", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.PutOff)
			l.run(1, 1, 40, 50, chaos.Done)
		}, []string{chaos.AttemptSkipped}},
		{"put off, run twice", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.PutOff)
			l.run(0, 1, 40, 50, chaos.Done)
			l.run(0, 1, 60, 70, chaos.Done)
		}, []string{chaos.RanAfterDone}},
		{"ran while it waited", func(l *tale) {
			l.at(900, chaos.Event{What: chaos.Timer, ID: "t", Since: int64(100 * time.Millisecond)})
			l.run(0, 1, 20, 30, chaos.PutOff)
			l.run(0, 1, 500, 600, chaos.Done)
		}, []string{chaos.RanWhileWaiting}},
		{"done, then killed at once", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Done)
			l.fault(chaos.KillWorker, 1, 100, 200)
			l.run(0, 2, 2100, 2110, chaos.Done)
		}, nil},
		{"done, then killed too late to explain it", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Done)
			l.fault(chaos.KillWorker, 1, 2100, 2200)
			l.run(0, 2, 2300, 2310, chaos.Done)
		}, []string{chaos.RanAfterDone}},
		{"done, and another worker killed", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Done)
			l.fault(chaos.KillWorker, 3, 25, 200)
			l.run(0, 2, 2100, 2110, chaos.Done)
		}, []string{chaos.RanAfterDone}},
		{"killed at work", func(l *tale) {
			l.run(0, 1, 20, noEnd, "")
			l.fault(chaos.KillWorker, 1, 100, 200)
			l.at(101, chaos.Event{What: chaos.Exit, Proc: "worker-1", PID: 1, Code: -1})
			l.run(0, 2, 2100, 2110, chaos.Done)
		}, nil},
		{"killed at work, run twice", func(l *tale) {
			l.run(0, 1, 20, noEnd, "")
			l.fault(chaos.KillWorker, 1, 100, 200)
			l.at(101, chaos.Event{What: chaos.Exit, Proc: "worker-1", PID: 1, Code: -1})
			l.run(0, 2, 2100, 2110, chaos.Done)
			l.run(0, 3, 9100, 9110, chaos.Done)
		}, nil}, // the kill explains one more: it is the known weak side of the rule
		{"beside each other", func(l *tale) {
			l.run(0, 1, 20, 2500, chaos.Done)
			l.run(0, 2, 2100, 2600, chaos.Done)
		}, []string{chaos.RanBeside}},
		{"beside one that was stopped", func(l *tale) {
			l.fault(chaos.StopWorker, 1, 30, 2400)
			l.run(0, 1, 20, 2500, chaos.LeaseLost)
			l.run(0, 2, 2100, 2600, chaos.Done)
		}, nil},
		{"lease lost for nothing", func(l *tale) {
			l.run(0, 1, 20, 2500, chaos.LeaseLost)
			l.run(0, 2, 2600, 2700, chaos.Done)
		}, []string{chaos.LeaseWithout}},
		{"over time", func(l *tale) { l.run(0, 1, 20, 6000, chaos.Done) }, []string{chaos.OverTime}},
		{"over time while stopped", func(l *tale) {
			l.fault(chaos.StopWorker, 1, 1000, 3000)
			l.run(0, 1, 20, 6000, chaos.Done)
		}, nil},
		{"dead without reason", func(l *tale) { l.run(0, 1, 20, 30, chaos.Failed); l.letter(40, "failed", 3, 3) }, []string{chaos.WrongDeath}},
		{"dead without history", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Permanent)
			l.letter(40, "permanent", 1, 0)
		}, []string{chaos.NoHistory}},
		{"ran when it was dead", func(l *tale) {
			l.run(0, 1, 20, noEnd, "")
			l.at(30, chaos.Event{What: chaos.Exit, Proc: "worker-1", PID: 1, Code: 0})
			l.run(0, 1, 40, 50, chaos.Permanent)
			l.letter(60, "permanent", 1, 1)
			l.run(1, 1, 1100, 1200, chaos.Permanent)
		}, []string{chaos.AttemptSkipped, chaos.RanAfterDeath}},
		{"a process that ends by itself", func(l *tale) {
			l.run(0, 1, 20, 30, chaos.Done)
			l.at(40, chaos.Event{What: chaos.Exit, Proc: "worker-1", PID: 1, Code: 2})
		}, []string{chaos.Crashed}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var l tale
			l.at(0, chaos.Event{What: chaos.Setup, Limits: &chaos.Limits{
				Brokers: 1, AckWait: 2 * time.Second, TimeLimit: 3 * time.Second, Grace: time.Second, Attempts: 3, MaxDeliver: 3,
			}})
			for pid := range 4 {
				l.at(1, chaos.Event{What: chaos.Up, Proc: fmt.Sprint("worker-", pid), PID: pid})
			}
			l.at(5, chaos.Event{What: chaos.Intend, ID: "t", Plan: chaos.PlanWork, Proc: "publisher"})
			l.at(10, chaos.Event{What: chaos.Stored, ID: "t", Proc: "publisher"})
			tt.tell(&l)
			l.at(10000, chaos.Event{What: chaos.Quiet, Proc: "driver"})
			r := l.check(t)
			var got []string
			for _, v := range r.Violations {
				got = append(got, v.Kind)
			}
			slices.Sort(got)
			got = slices.Compact(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s\n%v", diff, r.Violations)
			}
		})
	}
}

// check writes the tale to a ledger and has it judged.
func (l *tale) check(t *testing.T) *chaos.Report {
	t.Helper()
	dir := t.TempDir()
	w, err := chaos.Open(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l.events {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := chaos.Check(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A process may be killed in the middle of a line: that line is counted and left
// out. A line in the middle of a file that does not parse is an error.
func TestTornLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		events     int
		torn       int
		err        string
	}{
		{"whole", `{"what":"up"}` + "\n" + `{"what":"up"}` + "\n", 2, 0, ""},
		{"torn", `{"what":"up"}` + "\n" + `{"what":"u`, 1, 1, ""},
		{"damaged", `{"what":"u` + "\n" + `{"what":"up"}` + "\n", 0, 0, "line 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a-1.jsonl"), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := chaos.Read(dir)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Read() = %v, want an error that says %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Events) != tt.events || l.Torn != tt.torn {
				t.Errorf("Read() = %d events and %d torn lines, want %d and %d", len(l.Events), l.Torn, tt.events, tt.torn)
			}
		})
	}
}
