package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// A task twenty times longer than ack-wait runs once: its lease is extended for
// as long as it runs, and for the tasks that wait behind it.
func TestLongTaskRunsOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var runs atomic.Int32
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				runs.Add(1)
				time.Sleep(20 * ackWait)
				return nil
			})
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 1, TimeLimit: time.Hour}))
		publish(t, js, "a", note{})
		publish(t, js, "b", note{})
		time.Sleep(45 * ackWait)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := runs.Load(); got != 2 {
			t.Errorf("two tasks ran %d times", got)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// The time limit cancels the handler's context with its own cause, and the
// attempt counts as failed.
func TestTimeLimit(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var ran time.Duration
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				begin := time.Now()
				if d, ok := ctx.Deadline(); !ok || d.Sub(begin) != 7*time.Second {
					t.Errorf("the context ends in %v (%t), want 7s", d.Sub(begin), ok)
				}
				<-ctx.Done()
				ran = time.Since(begin)
				if cause := context.Cause(ctx); !errors.Is(cause, worker.ErrTimeLimit) {
					t.Errorf("cause %v, want %v", cause, worker.ErrTimeLimit)
				}
				return ctx.Err()
			}, worker.Timeout(7*time.Second), worker.Retry(retry.Policy{Attempts: 1}))
		})
		publish(t, js, "a", note{})
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if ran != 7*time.Second {
			t.Errorf("the handler ran %v, want 7s", ran)
		}
		if dead := letters(t, js); len(dead) != 1 || !strings.Contains(dead[0].Header.Get("Task-Errors"), "time limit reached (7s)") {
			t.Errorf("dead letters %v, want one that says the time limit was reached", dead)
		}
	})
}

// A handler that ignores its cancelled context is abandoned: the task goes on
// elsewhere, the slot is lost, and the worker ends when that happens too often.
func TestAbandoned(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		release := make(chan struct{})
		var stuck, fine atomic.Int32
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				if info, _ := task.FromContext(ctx); info.Attempt > 0 || n.Text != "stuck" {
					fine.Add(1)
					return nil
				}
				stuck.Add(1)
				<-release
				return nil
			})
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 3, TimeLimit: 10 * time.Second}), worker.LeakLimit(2))
		publish(t, js, "a", note{Text: "stuck"})
		time.Sleep(time.Minute)
		if stuck.Load() != 1 || fine.Load() != 1 {
			t.Fatalf("%d runs hang and %d are done, want the first to hang and its retry to be done", stuck.Load(), fine.Load())
		}
		for i := range 20 {
			publish(t, js, fmt.Sprint("fine", i), note{})
		}
		time.Sleep(time.Second)
		if fine.Load() != 21 {
			t.Fatalf("%d tasks done beside a leaked slot, want 21", fine.Load())
		}
		if err := w.Ready(); err != nil {
			t.Errorf("Ready() = %v with one leaked slot", err)
		}
		publish(t, js, "b", note{Text: "stuck"})
		time.Sleep(time.Minute)
		if err := w.Ready(); !errors.Is(err, worker.ErrDraining) {
			t.Errorf("Ready() = %v with as many leaked slots as are allowed, want it to drain", err)
		}
		close(release)
		if err := stop(); !errors.Is(err, worker.ErrLeaked) {
			t.Errorf("Run() = %v, want %v", err, worker.ErrLeaked)
		}
		synctest.Wait()
		if left := len(all(t, js, "TASKS_DEFAULT")) + len(all(t, js, "DEAD")); left != 0 {
			t.Errorf("%d tasks left over", left)
		}
	})
}

// A task that is about to start when draining begins is given back: one that started
// later would run on when everything else was cancelled.
func TestDrainBeforeStart(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		preparing, prepare := make(chan struct{}), make(chan struct{})
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				t.Error("the handler ran")
				<-ctx.Done()
				return context.Cause(ctx)
			}, worker.Breaker(breaker.Policy{}, func(note) string {
				close(preparing)
				<-prepare
				return ""
			}))
		}, worker.Only(worker.LivePool), worker.DrainLimit(0))
		publish(t, js, "one", note{})
		<-preparing
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		time.Sleep(time.Second)
		if !w.Status().Draining {
			t.Error("the worker does not drain")
		}
		close(prepare)
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
		for _, m := range all(t, js, "RETRY") {
			if st := state(t, "RETRY", m); st.Reason != task.GaveBack || st.Attempt != 0 || st.Deaths != 0 {
				t.Errorf("it has reason %q, attempt %d and %d deaths, want given-back and nothing", st.Reason, st.Attempt, st.Deaths)
			}
		}
		if live, back := len(all(t, js, "TASKS_DEFAULT")), len(all(t, js, "RETRY")); live != 0 || back != 1 {
			t.Errorf("%d in TASKS_DEFAULT and %d in RETRY, want the task in RETRY", live, back)
		}
	})
}

// A draining worker gives back what it holds and has not started, lets what runs
// finish, and cancels and gives back what does not: nothing of that costs an
// attempt or counts as a death.
func TestDrain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var mu sync.Mutex
		runs := map[string][]task.Info{}
		handle := func(sleep time.Duration) func(*worker.Worker) {
			return func(w *worker.Worker) {
				worker.Handle(w, func(ctx context.Context, n note) error {
					info, _ := task.FromContext(ctx)
					mu.Lock()
					runs[info.ID] = append(runs[info.ID], info)
					mu.Unlock()
					d := sleep
					if n.Text == "quick" {
						d = 0
					}
					if n.Text == "long" && sleep > 0 {
						d = time.Hour
					}
					select {
					case <-time.After(d):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
			}
		}
		one := worker.Serve(worker.Class{Name: task.Default, Slots: 2, TimeLimit: 2 * time.Hour})
		_, stop := start(t, js, handle(10*time.Second), one, worker.DrainLimit(20*time.Second))
		for i := range 200 { // so that it pulls ahead
			publish(t, js, fmt.Sprint("quick", i), note{Text: "quick"})
		}
		time.Sleep(time.Second)
		publish(t, js, "long", note{Text: "long"})
		publish(t, js, "short", note{Text: "short"})
		time.Sleep(time.Second) // both slots are taken: what comes now waits
		for i := range 20 {
			publish(t, js, fmt.Sprint("held", i), note{Text: "held"})
		}
		time.Sleep(time.Second)
		begin := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 20*time.Second || took > 21*time.Second {
			t.Errorf("drained in %v, want the drain limit of 20s", took)
		}
		for _, m := range all(t, js, "RETRY") {
			st := state(t, "RETRY", m)
			if st.Attempt != 0 || st.Deaths != 0 || st.Reason != task.GaveBack {
				t.Errorf("%s was given back with attempt %d, %d deaths and reason %s", st.ID, st.Attempt, st.Deaths, st.Reason)
			}
		}
		if got := len(runs["short"]); got != 1 {
			t.Errorf("the short task ran %d times before the restart, want once", got)
		}
		_, stop = start(t, js, handle(0), one)
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for id, of := range runs {
			want := 1
			if id == "long" {
				want = 2 // cancelled, and run again
			}
			if len(of) != want || of[len(of)-1].Attempt != 0 {
				t.Errorf("%s ran %d times, last as %+v, want %d times and attempt 0", id, len(of), of[len(of)-1], want)
			}
		}
		if len(runs) != 222 {
			t.Errorf("%d tasks ran, want 222", len(runs))
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// Tasks that take time are left to whoever is free: two workers of two slots
// start four of them at once, and neither holds a fifth.
func TestNoHoarding(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var runs [2]atomic.Int32
		var stops [2]func() error
		for i := range runs {
			_, stops[i] = start(t, js, func(w *worker.Worker) {
				worker.Handle(w, func(ctx context.Context, n note) error {
					runs[i].Add(1)
					time.Sleep(10 * time.Second)
					return nil
				})
			}, worker.Serve(worker.Class{Name: task.Default, Slots: 2}))
		}
		synctest.Wait()
		for i := range 20 {
			publish(t, js, strconv.Itoa(i), note{})
		}
		time.Sleep(time.Second)
		c, err := js.Consumer(t.Context(), "TASKS_DEFAULT", "test")
		if err != nil {
			t.Fatal(err)
		}
		if got := c.CachedInfo().NumAckPending; got != 4 {
			t.Errorf("%d tasks are held for 4 slots", got)
		}
		time.Sleep(49 * time.Second)
		if a, b := runs[0].Load(), runs[1].Load(); a != 10 || b != 10 {
			t.Errorf("the workers ran %d and %d of 20 tasks, want 10 each", a, b)
		}
		for _, stop := range stops {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}
