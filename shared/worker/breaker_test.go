package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

func host(n note) string { return n.Text }

// records are the breakers in the bucket, by destination.
func records(tb testing.TB, js jetstream.JetStream) map[string]breaker.Record {
	tb.Helper()
	out := map[string]breaker.Record{}
	for e, err := range circuit.List(tb.Context(), js, "test") {
		if err != nil {
			tb.Fatal(err)
		}
		out[e.Destination] = e.Record
	}
	return out
}

// A dead destination is left alone, its tasks wait without burning an attempt and
// come back spread over a window, the others flow, and it recovers by itself.
func TestBreakerParks(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		tasks, spread := storm(1000, 10_000), 10*time.Second
		var mu sync.Mutex
		dead, calls, burned, well := true, 0, 0, 0
		var back []time.Time
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				mu.Lock()
				defer mu.Unlock()
				if n.Text == "well" {
					well++
					return nil
				}
				calls++
				if dead {
					return errors.New("connection refused")
				}
				info, _ := task.FromContext(ctx)
				burned += info.Attempt
				back = append(back, time.Now())
				return nil
			}, worker.Breaker(breaker.Policy{Failures: 10, Open: 5 * time.Minute, Probes: 2, Spread: spread}, host), worker.Retry(retry.Policy{Attempts: 3}))
		}, worker.Serve(worker.Class{Name: task.Default, RetrySlots: 32}))
		for i := range tasks {
			publish(t, js, fmt.Sprintf("a%d", i), note{Text: "dead"})
		}
		for i := range 50 {
			publish(t, js, fmt.Sprintf("b%d", i), note{Text: "well"})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		mu.Lock()
		tripped := calls
		if calls < 10 || calls > 10+32 || well != 50 {
			t.Errorf("%d calls reached the dead destination and %d the other, want 10, and what was in flight, and 50", calls, well)
		}
		mu.Unlock()
		failed := 0
		for _, m := range all(t, js, "RETRY") {
			st := state(t, "RETRY", m)
			failed += st.Attempt
			if len(st.Errors) != st.Attempt {
				t.Errorf("%d failures in the history of %d attempts", len(st.Errors), st.Attempt)
			}
			if st.Reason != task.Circuit && st.Attempt == 0 {
				t.Errorf("a task that waits without an attempt has reason %q, want circuit", st.Reason)
			}
		}
		if failed > tripped {
			t.Errorf("%d attempts were burned by %d calls", failed, tripped)
		}
		if r := records(t, js)["dead"]; r.State != breaker.Open || r.Reason == "" {
			t.Errorf("record %+v, want open, with a reason", r)
		}

		time.Sleep(5*time.Minute + 2*spread) // it is probed once, and still dead
		mu.Lock()
		if probes := calls - tripped; probes < 1 || probes > 2 {
			t.Errorf("%d probes, want 1 or 2", probes)
		}
		tripped, dead = calls, false
		mu.Unlock()
		time.Sleep(6 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(back) != tasks {
			t.Errorf("%d of %d tasks ran", len(back), tasks)
		}
		if burned > tripped {
			t.Errorf("%d attempts were burned by %d failed calls", burned, tripped)
		}
		flat(t, back, spread)
		if r := records(t, js)["dead"]; r.State == breaker.Open {
			t.Errorf("record %+v, want closed", r)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// flat fails the test when tasks came back as a wave: the fullest second of the
// window may hold half as many again as the mean.
func flat(t *testing.T, at []time.Time, window time.Duration) {
	t.Helper()
	if len(at) == 0 {
		return
	}
	bins := map[int64]int{}
	most := 0
	for _, a := range at {
		bins[a.Unix()]++
		most = max(most, bins[a.Unix()])
	}
	mean := float64(len(at)) / window.Seconds()
	t.Logf("%d tasks came back within %v, at most %d in one second: %.2f of the mean", len(at), window, most, float64(most)/mean)
	if ratio := float64(most) / mean; ratio > 1.5 {
		t.Errorf("in the fullest second %d tasks came back, %.2f of the mean of %.0f; want at most 1.5", most, ratio, mean)
	}
}

// Retry-After holds for all tasks of a destination; what is permanent says nothing
// about it, and neither does what the hook leaves out.
func TestBreakerVerdicts(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		opts []worker.HandlerOption
		open bool
	}{
		{name: "plain", err: errors.New("connection refused"), open: true},
		{name: "permanent", err: retry.Permanent(errors.New("no such account"))},
		{name: "asked to wait", err: retry.After(time.Hour, errors.New("429")), open: true},
		{name: "put off for a moment", err: retry.After(time.Millisecond, nil)},
		{name: "not its fault", err: errors.New("ours"), opts: []worker.HandlerOption{worker.BreakerFailure(func(error) bool { return false })}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				var runs atomic.Int32
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error {
						if runs.Add(1) > 10 {
							return nil
						}
						return tt.err
					}, append(tt.opts, worker.Breaker(breaker.Policy{Failures: 2}, host))...)
				}, worker.Serve(worker.Class{Name: task.Default, Slots: 1}))
				for i := range 10 {
					publish(t, js, strconv.Itoa(i), note{Text: "a"})
				}
				time.Sleep(time.Second)
				synctest.Wait()
				r := records(t, js)["a"]
				if open := r.State == breaker.Open; open != tt.open {
					t.Errorf("breaker %+v, want open: %v", r, tt.open)
				}
				if tt.name == "asked to wait" && (runs.Load() != 1 || time.Until(r.Until) < 59*time.Minute) {
					t.Errorf("%d runs and open until %v, want 1 and an hour", runs.Load(), r.Until)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// That a task waited behind a breaker is in its history when it dies, and no attempt
// of it.
func TestBreakerInHistory(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { return retry.Permanent(errors.New("no such account")) },
				worker.Breaker(breaker.Policy{Spread: time.Second}, host))
		})
		for range 2 {
			if _, err := circuit.Open(t.Context(), js, circuit.Order{Service: "test", Destination: "a", For: 10 * time.Second}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			publish(t, js, "one", note{Text: "a"}) // the second one is a duplicate
			time.Sleep(8 * time.Second)
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		dead := letters(t, js)
		if len(dead) != 1 {
			t.Fatalf("%d dead letters, want 1", len(dead))
		}
		st := state(t, "DEAD", dead[0])
		if len(st.Waits) != 1 || st.Waits[0].Reason != task.Circuit || st.Waits[0].Times < 2 || !st.Waits[0].Last.After(st.Waits[0].First) {
			t.Errorf("Waits = %+v, want twice or more for a breaker", st.Waits)
		}
		if st.Attempt != 1 || len(st.Errors) != 1 || st.Reason != task.Permanent {
			t.Errorf("%d attempts, %d failures, reason %s, want the one that was made", st.Attempt, len(st.Errors), st.Reason)
		}
	})
}

// A mistake in the option is told by Run.
func TestBreakerMistakes(t *testing.T) {
	t.Parallel()
	w, err := worker.New(natstest.JetStream(t), "test")
	if err != nil {
		t.Fatal(err)
	}
	worker.Handle(w, func(context.Context, note) error { return nil },
		worker.Breaker(breaker.Policy{Failures: -1}, func(anything) string { return "" }))
	if err := w.Run(t.Context()); err == nil {
		t.Error("Run() = nil, want the mistakes of the breaker")
	}
}

// While the bucket is away, each process goes on with its own breakers, and what it
// knows is there again afterwards.
func TestBreakerWithoutBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		if err := js.DeleteStream(t.Context(), "KV_BREAKERS"); err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int32
		var dead atomic.Bool
		dead.Store(true)
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error {
				calls.Add(1)
				if dead.Load() {
					return errors.New("connection refused")
				}
				return nil
			}, worker.Breaker(breaker.Policy{Failures: 3, Open: time.Minute, Probes: 1, Spread: time.Second}, host), worker.Retry(retry.Policy{Base: time.Minute}))
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 1, RetrySlots: 1}))
		for i := range 100 {
			publish(t, js, strconv.Itoa(i), note{Text: "a"})
		}
		time.Sleep(30 * time.Second)
		if n := calls.Load(); n != 3 {
			t.Errorf("%d calls without the bucket, want 3", n)
		}
		time.Sleep(time.Minute) // it is probed
		if n := calls.Load(); n < 4 || n > 5 {
			t.Errorf("%d calls after a half-open period without the bucket, want 4", n)
		}
		topology(t, js, ackWait) // as `drover streams apply`
		time.Sleep(10 * time.Second)
		if r := records(t, js)["a"]; r.State != breaker.Open {
			t.Errorf("record %+v once there is a bucket, want open", r)
		}
		if err := js.DeleteStream(t.Context(), "KV_BREAKERS"); err != nil {
			t.Fatal(err)
		}
		topology(t, js, ackWait) // a new and empty one
		time.Sleep(35 * time.Second)
		if r := records(t, js)["a"]; r.State == "" {
			t.Error("the new bucket is empty, want what was open in the old one")
		}
		dead.Store(false)
		time.Sleep(3 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}
