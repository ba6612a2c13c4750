package worker_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// run runs a worker to its own end, which must come within the limit.
func run(t *testing.T, js jetstream.JetStream, limit time.Duration, register func(*worker.Worker), opts ...worker.Option) error {
	t.Helper()
	w, err := worker.New(js, "test", opts...)
	if err != nil {
		t.Fatal(err)
	}
	register(w)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err = w.Run(ctx)
	if ctx.Err() != nil {
		t.Fatalf("Run goes on after %v", limit)
	}
	return err
}

// At its mark a worker finishes what runs, gives back what has not started, and
// says what it needs.
func TestRecycleAfter(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		for i := range 10 {
			publish(t, js, strconv.Itoa(i), note{N: i})
		}
		ran := map[int]int{}
		ended := 0
		err := run(t, js, time.Minute, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				ran[n.N]++
				time.Sleep(700 * time.Millisecond)
				ended++
				return ctx.Err()
			})
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 1}), worker.RecycleAfter(3))
		if !errors.Is(err, worker.ErrRecycle) {
			t.Errorf("Run() = %v, want %v", err, worker.ErrRecycle)
		}
		left := len(all(t, js, "TASKS_DEFAULT")) + len(all(t, js, "RETRY"))
		if len(ran) < 3 || len(ran) > 5 || ended != len(ran) || left != 10-len(ran) {
			t.Errorf("%d ran, %d ended, %d are left of 10; want 3 or a few more, all of them ended, and the rest left", len(ran), ended, left)
		}
	})
}

// It goes on working until it is its turn.
func TestRecycleWaitsForItsTurn(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var done, asked atomic.Int64
		begun := time.Now()
		go func() {
			for i := range 30 {
				publish(t, js, strconv.Itoa(i), note{})
				time.Sleep(time.Second)
			}
		}()
		err := run(t, js, 2*time.Minute, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { done.Add(1); return nil })
		}, worker.RecycleAfter(1), worker.Turn(func(context.Context) error {
			asked.Add(1)
			if time.Since(begun) < 40*time.Second {
				return errors.New("another process has it")
			}
			return nil
		}))
		if !errors.Is(err, worker.ErrRecycle) {
			t.Errorf("Run() = %v, want %v", err, worker.ErrRecycle)
		}
		if took := time.Since(begun); took < 40*time.Second || took > 45*time.Second {
			t.Errorf("it has ended after %v, want soon after its turn came at 40s", took)
		}
		if done.Load() != 30 || asked.Load() < 30 {
			t.Errorf("%d tasks are done and it has asked %d times, want 30 and about 40", done.Load(), asked.Load())
		}
	})
}

// Leaked slots wait for the turn as well, but not for ever, and not when nothing
// is left of a lane.
func TestLeakedWaitsForItsTurn(t *testing.T) {
	for _, tt := range []struct {
		name        string
		slots       int
		least, most time.Duration
	}{
		{"some slots", 4, time.Minute, 80 * time.Second},
		{"all slots", 2, 0, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				release := make(chan struct{})
				publish(t, js, "a", note{})
				publish(t, js, "b", note{})
				begun := time.Now()
				err := run(t, js, 5*time.Minute, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error { <-release; return nil })
				}, worker.Serve(worker.Class{Name: task.Default, Slots: tt.slots, RetrySlots: 8, TimeLimit: time.Second}), worker.Only(worker.LivePool),
					worker.LeakLimit(2), worker.Turn(func(context.Context) error { return errors.New("another process has it") }))
				if !errors.Is(err, worker.ErrLeaked) {
					t.Errorf("Run() = %v, want %v", err, worker.ErrLeaked)
				}
				if took := time.Since(begun); took < tt.least || took > tt.most {
					t.Errorf("it has ended after %v, want %v to %v", took, tt.least, tt.most)
				}
				close(release)
			})
		})
	}
}

// Garbage is not growth: a worker whose tasks need much memory and give it back
// goes on.
func TestRecycleAbove(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js, ackWait)
	publish(t, js, "a", note{})
	err := run(t, js, time.Minute, func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, note) error { return nil })
	}, worker.RecycleAbove(1<<20)) // no process is that small
	if !errors.Is(err, worker.ErrRecycle) {
		t.Errorf("Run() = %v, want %v", err, worker.ErrRecycle)
	}
	for _, o := range []worker.Option{worker.RecycleAbove(-1), worker.RecycleAfter(-1)} {
		if _, err := worker.New(js, "test", o); err == nil {
			t.Error("New with a negative mark = nil, want an error")
		}
	}
}
