package webhookd_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/breaker"
)

// Retry-After to one process holds in both.
func TestRetryAfterOverProcesses(t *testing.T) {
	t.Parallel()
	const tasks, wait = 40, 5 * time.Second
	var asked atomic.Bool
	r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
		if !asked.Swap(true) {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	f := newFleet(t, []string{"DROVER_WEBHOOK_BREAKER_OPEN=1s"}, r)
	f.publish(t, r)
	until(t, 10*time.Second, "it is called", func() bool { return len(r.all()) == 1 })
	begun := r.all()[0].begun
	for range tasks {
		f.publish(t, r)
		time.Sleep(25 * time.Millisecond)
	}
	if record := f.record(t, r); record.State != breaker.Open || !strings.Contains(record.Reason, "answered 429") {
		t.Errorf("the bucket has %+v, want open, because of 429", record)
	}
	for i, m := range f.metrics(t) {
		if !has(m, "drover_breaker_destinations", `breaker_state="open"`) {
			t.Errorf("the metrics of process %d have no open breaker", i+1)
		}
		if !has(m, "drover_task_moves_total", `task_reason="circuit"`) {
			t.Errorf("the metrics of process %d have no task that waits for a breaker", i+1)
		}
	}
	until(t, 20*time.Second, "all are delivered", func() bool { return r.delivered() == tasks+1 })
	early := time.Duration(0)
	for _, c := range r.all()[1:] {
		if at := c.begun.Sub(begun); at < wait {
			early = max(early, at)
		}
	}
	t.Logf("it was left alone from %v to %v after it had asked", early.Round(time.Millisecond), r.all()[len(r.all())-tasks].begun.Sub(begun).Round(time.Millisecond))
	if early > time.Second {
		t.Errorf("it is called %v after it asked to be left alone for %v", early, wait)
	}
	if n := len(r.all()); n != tasks+2 {
		t.Errorf("%d calls, want one for each task and the first", n)
	}
	f.stop()
}

// A host that dies is called by nobody but the probes of one process, those to
// another host flow, and it recovers by itself.
func TestDeadHost(t *testing.T) {
	t.Parallel()
	const tasks, open = 200, 2 * time.Second
	dead, well := receive(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }), receive(t, nil)
	f := newFleet(t, []string{"DROVER_WEBHOOK_BREAKER_OPEN=" + open.String()}, dead, well)
	begun := time.Now()
	for range tasks {
		f.publish(t, dead)
		f.publish(t, well)
	}
	until(t, 5*time.Second, "deliveries to the other host flow", func() bool { return well.delivered() == tasks })
	flowed := time.Since(begun)
	until(t, 20*time.Second, "it has been probed", func() bool { return time.Since(begun) > 3*open })
	calls := dead.all()
	periods := int(time.Since(begun)/open) + 1
	// 10 to open, with what was in flight; then 3 probes each time.
	if most := 10 + 2*2*slots + 3*periods; len(calls) < 10 || len(calls) > most {
		t.Errorf("%d calls reach the dead host, want 10 to %d", len(calls), most)
	}
	opened := 0
	for _, c := range calls {
		if c.begun.Sub(calls[9].begun) < time.Second {
			opened++
		}
	}
	probes := len(calls) - opened
	t.Logf("%d calls until it was open, and %d probes in %d periods; %d to the other host were done in %v", opened, probes, periods, tasks, flowed.Round(time.Millisecond))
	if probes < 1 || probes > 3*periods {
		t.Errorf("%d calls after it was open, want probes alone, at most %d", probes, 3*periods)
	}
	dead.mend()
	until(t, 30*time.Second, "all are delivered once it is mended", func() bool { return dead.delivered() == tasks })
	f.stop()
	empty(t, f)
}

// A receiver that takes connections and never answers holds a slot for 5 s, and then
// its breaker opens: what is behind its deliveries flows.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	const tasks, others = 60, 100
	release := make(chan struct{})
	silent := receive(t, func(_ http.ResponseWriter, in *http.Request) {
		select {
		case <-in.Context().Done():
		case <-release:
		}
	})
	well := receive(t, nil)
	t.Cleanup(func() { close(release) }) // before the servers are closed
	f := newFleet(t, []string{"DROVER_WEBHOOK_BREAKER_OPEN=2s"}, silent, well)
	for range tasks {
		f.publish(t, silent)
	}
	until(t, 10*time.Second, "all slots are held", func() bool { return len(silent.all()) == 2*slots })
	begun := time.Now()
	for range others {
		f.publish(t, well)
	}
	until(t, 10*time.Second, "deliveries to the other host flow", func() bool { return well.delivered() == others })
	flowed := time.Since(begun)
	longest := time.Duration(0)
	for _, c := range silent.all() {
		longest = max(longest, c.took)
	}
	t.Logf("%d deliveries held every slot, for %v at most; those behind them were done after %v", 2*slots, longest.Round(10*time.Millisecond), flowed.Round(10*time.Millisecond))
	if limit := 5 * time.Second; longest < time.Second || longest > limit+limit/10 {
		t.Errorf("a delivery holds its slot for %v, want at most %v", longest, limit)
	}
	until(t, 5*time.Second, "its breaker opens", func() bool { return f.record(t, silent).State != "" })
	if record := f.record(t, silent); !strings.Contains(record.Reason, "not done within 5s") {
		t.Errorf("the bucket has %+v, want the limit as its reason", record)
	}
	silent.mend()
	until(t, 60*time.Second, "all are delivered once it answers", func() bool { return silent.delivered() == tasks })
	f.stop()
	empty(t, f)
}

// empty fails the test when a task is left, or dead.
func empty(t *testing.T, f *fleet) {
	t.Helper()
	for _, name := range []string{"TASKS_DEFAULT", "RETRY", "DEAD"} {
		s, err := f.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n > 0 {
			t.Errorf("%d messages are left in %s", n, name)
		}
	}
}
