package service_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/fleet"
)

// A photo that would take 3 GiB, and the process with it, dies alone at its cap, in a
// fleet of two processes whose other tasks do not notice. Its dead letter says why
// and what to do, the metrics count it, and the fleet's list says how it is confined.
func TestPhoto(t *testing.T) {
	t.Parallel()
	l := newLabourers(t)
	const tasks = 12
	for i := range tasks {
		l.publish("urgent", fmt.Sprint("beside-", i), labour{Millis: 1500})
	}
	var admins []func(string) (int, string)
	var stops []func()
	for range 2 {
		cmd, log, ended := l.start("--admin", "127.0.0.1:0")
		admins = append(admins, log.admin())
		stops = append(stops, func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(patience):
				t.Errorf("a process does not end; it logged:\n%s", log)
			}
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("a process ended with %d, want 0; it logged:\n%s", code, log)
			}
		})
	}
	l.until(patience, "half of the tasks run", func(all []entry) bool { return count(all, "start", "beside-") >= tasks/2 })
	if _, err := l.js.PublishMsg(t.Context(), &nats.Msg{Subject: "tasks.urgent.email.photo"}, jetstream.WithMsgID("photo")); err != nil {
		t.Fatal(err)
	}
	l.until(patience, "every other task has ended", func(all []entry) bool { return count(all, "end", "beside-") == tasks })

	letter := l.dead("photo")
	if len(letter.Errors) != 2 {
		t.Fatalf("the dead letter has %d failures, want 2", len(letter.Errors))
	}
	how, advice := "oom: it reached its memory cap of 256 MiB", "release a email with more memory for email.photo (worker.Memory)"
	ends := "oom"
	if raced && !strings.HasPrefix(letter.Errors[0].Error, "oom: ") { // the race detector ends the process before the runtime can say why
		how, advice, ends = "died: ", "the end of its output", "died"
	}
	for _, f := range letter.Errors {
		if !strings.HasPrefix(f.Error, how) {
			t.Errorf("attempt %d failed of %q, want %q", f.Attempt, f.Error, how)
		}
	}
	if text := deadletter.Explain(letter).String(); !strings.Contains(text, advice) {
		t.Errorf("the explanation has no %q:\n%s", advice, text)
	}
	starts := 0
	for _, e := range l.entries() {
		switch e.what {
		case "start":
			starts++
		case "cut":
			t.Errorf("%s was cut short", e.id)
		}
	}
	if starts != tasks {
		t.Errorf("%d starts of %d tasks beside it", starts, tasks)
	}

	counted := 0
	for _, get := range admins {
		_, body := get("/metrics")
		for line := range strings.Lines(body) {
			if !strings.HasPrefix(line, "drover_isolated_ended_total{") || !strings.Contains(line, `error_type="`+ends+`"`) {
				continue
			}
			var n float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1:], &n); err != nil {
				t.Errorf("metric %q: %v", line, err)
			}
			counted += int(n)
		}
		if !strings.Contains(body, `drover_worker_isolation{isolation_memory="`) {
			t.Error("/metrics does not say how isolated tasks are confined")
		}
	}
	if counted != 2 {
		t.Errorf("the metrics count %d attempts that ended of %s, want 2", counted, ends)
	}
	l.listed(func(all []fleet.Process) bool { // its counts are up to 10 s old
		return len(all) == 2 && !slices.ContainsFunc(all, func(p fleet.Process) bool {
			return p.Confined == nil || p.Confined.Memory == "none" || len(p.Isolated) != 1 || p.Isolated[0].Kind != "email.photo"
		})
	})
	for _, stop := range stops {
		stop()
	}
}

// dead waits for a dead letter.
func (l *labourers) dead(id string) deadletter.Letter {
	l.tb.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if letter, err := deadletter.Get(l.tb.Context(), l.js, id); err == nil {
			return letter
		}
	}
	l.tb.Fatalf("no dead letter of %s", id)
	return deadletter.Letter{}
}

// listed waits for what the list of the fleet's processes says.
func (l *labourers) listed(ok func([]fleet.Process) bool) {
	l.tb.Helper()
	var all []fleet.Process
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		all = nil
		for p, err := range fleet.Processes(l.tb.Context(), l.js, "email") {
			if err == nil {
				all = append(all, p)
			}
		}
		if ok(all) {
			return
		}
	}
	l.tb.Fatalf("the list of processes does not say what it should: %+v", all)
}
