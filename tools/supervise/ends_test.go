package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/tools/supervise"
)

func TestKilledProcessRestarts(t *testing.T) {
	t.Parallel()
	c := config(t)
	j := newJournal()
	c.Events = j.event
	s := start(t, c)
	ready(t, s)
	victim := s.Processes()[0]
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := j.wait(t, "ended with signal: killed"); e.Kind != supervise.Ended || e.Process != "work-1" {
		t.Errorf("event = %+v, want work-1 to have ended", e)
	}
	eventually(t, "work-1 is ready again", func() bool {
		p := s.Processes()[0]
		return p.Ready && p.Restarts == 1 && p.PID != victim.PID
	})
	if p := s.Processes()[1]; p.Restarts != 0 {
		t.Errorf("work-2 was started again as well")
	}
	stop(t, s)
}

func TestProcessThatEndsAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := config(t)
	j := newJournal()
	c.Events, c.Scale = j.event, map[string]int{"work": 0, "broken": 1}
	c.Env = append(c.Env, "TEST_EXIT=1")
	s := start(t, c)
	e := j.wait(t, "ends at once, again and again (3 times, now ended with exit status 1)")
	for _, want := range []string{"there is no such thing", filepath.Join(s.Logs(), "broken-1.log")} {
		if !strings.Contains(e.Text, want) {
			t.Errorf("event %q does not say %q", e.Text, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "broken-1 is not ready") {
		t.Errorf("WaitReady() = %v, want it to name broken-1", err)
	}
	stop(t, s)
}

// A process that was configured wrongly says so once and stays down; the others
// work.
func TestProcessThatIsMisconfigured(t *testing.T) {
	t.Parallel()
	c := config(t)
	j := newJournal()
	c.Events, c.Scale = j.event, map[string]int{"work": 1, "broken": 1}
	s := start(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const refused = "broken-1 is not started again: wrong flags or environment: broken: wrong usage: there is no such thing"
	if err := s.WaitReady(ctx); !errors.Is(err, supervise.ErrRefused) || err.Error() != refused {
		t.Errorf("WaitReady() = %v, want %s", err, refused)
	}
	all := s.Processes()
	if p := all[0]; !p.Ready {
		t.Errorf("work-1 is not ready: %s", p.Status)
	}
	if p := all[1]; p.Ready || p.PID != 0 || p.Restarts != 0 || p.Status != supervise.ErrRefused.Error() {
		t.Errorf("broken-1 = %+v, want it to stay down", p)
	}
	publish(t, s.JetStream(), "warn") // its event comes after any other that there may be
	j.wait(t, "something is odd")
	stop(t, s)
	if err := s.Refused(); err == nil || err.Error() != refused {
		t.Errorf("Refused() = %v, want %s", err, refused)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if e := j.all[0]; len(j.all) != 2 || e.Kind != supervise.Ended || !strings.Contains(e.Text, "(exit code 78): broken: wrong usage: there is no such thing") {
		t.Errorf("events = %+v, want one of broken-1", j.all)
	}
}

// A process that the Go runtime has ended is started again.
func TestCrashedProcessRestarts(t *testing.T) {
	t.Parallel()
	c := config(t)
	j := newJournal()
	c.Events, c.Scale["work"] = j.event, 1
	s := start(t, c)
	ready(t, s)
	publish(t, s.JetStream(), "crash")
	j.wait(t, "ended with exit status 2 after ")
	eventually(t, "work-1 lives again", func() bool { p := s.Processes()[0]; return p.Restarts > 0 && p.Ready })
	stop(t, s)
	if err := s.Refused(); err != nil {
		t.Errorf("Refused() = %v, want nil", err)
	}
}

func TestProcessThatDoesNotDrainIsKilled(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Scale["work"] = 1
	s := start(t, c)
	ready(t, s)
	publish(t, s.JetStream(), "hang")
	eventually(t, "the task runs", func() bool { _, n := waiting(t, s); return n == 1 })
	pid := s.Processes()[0].PID
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the second ctrl-C
	if err := s.Stop(ctx); err == nil || !strings.Contains(err.Error(), "work-1 did not drain") {
		t.Errorf("Stop() = %v, want it to name work-1", err)
	}
	if alive(pid) {
		t.Errorf("process %d still runs", pid)
	}
}

// A process at its mark is followed by a fresh one at once, which is no failure.
func TestRecycledProcess(t *testing.T) {
	t.Parallel()
	c := config(t)
	j := newJournal()
	c.Events = j.event
	c.Scale["work"] = 1
	c.Env = append(c.Env, "DROVER_RECYCLE_AFTER=3")
	s := start(t, c)
	ready(t, s)
	old := s.Processes()[0]
	publish(t, s.JetStream(), "this", "that", "more")
	e := j.wait(t, "ended for a fresh process to take its place after ")
	const why = ", starts again at once: service wants a fresh process: time for a fresh process: work has settled 3 tasks, its mark is 3"
	if e.Process != "work-1" || !strings.HasSuffix(e.Text, why) {
		t.Errorf("event = %+v, want work-1 to end and %q", e, why)
	}
	eventually(t, "the fresh one is ready", func() bool {
		p := s.Processes()[0]
		return p.Ready && p.PID != old.PID && p.Restarts == 0
	})
	stop(t, s)
}

// A supervisor that is killed takes its children with it.
func TestKilledSupervisorLeavesNoOrphans(t *testing.T) {
	t.Parallel()
	p := natstest.Spawn(t, "supervisor", "TEST_DIR="+t.TempDir(), "TEST_FLEET="+writeFleet(t))
	var a, b int
	_, line, _ := strings.Cut(p.Output(), "ready ")
	if _, err := fmt.Sscan(line, &a, &b); err != nil {
		t.Fatalf("%q: %v", p.Output(), err)
	}
	if !alive(a) || !alive(b) {
		t.Fatalf("children %d and %d do not run", a, b)
	}
	p.Signal(syscall.SIGKILL) // it alone, not its group
	<-p.Done()
	eventually(t, "its children end", func() bool { return !alive(a) && !alive(b) })
}
