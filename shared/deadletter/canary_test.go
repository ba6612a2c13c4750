package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

const quickFleet = `
classes:
  - {name: default, ack_wait: 30s, time_limit: 60s, attempts: 2, max_deliver: 3, wait_objective: 5s, slots: 16, backoff: {base: 1h, cap: 1h}}
services:
  - {name: email, classes: [default]}
`

type mail struct {
	To string `msgpack:"to"`
}

func (mail) Kind() string { return "email.send" }

// working makes a fleet, and starts a worker that does what handle says with each
// mail until the test ends.
func working(tb testing.TB, js jetstream.JetStream, handle func(context.Context, mail) error) {
	tb.Helper()
	f, err := streams.Parse([]byte(quickFleet))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := streams.Apply(tb.Context(), js, f); err != nil {
		tb.Fatal(err)
	}
	if handle == nil {
		return
	}
	c := f.Classes[0]
	w, err := worker.New(js, "email", worker.Logger(slog.New(slog.DiscardHandler)), worker.Serve(worker.Class{
		Name: c.Name, Slots: c.Slots, RetrySlots: c.RetrySlots, TimeLimit: c.TimeLimit, Retry: c.Retry(), MaxDeliver: c.MaxDeliver,
	}))
	if err != nil {
		tb.Fatal(err)
	}
	worker.Handle(w, handle)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context())) // until the cleanup
	var wg sync.WaitGroup
	wg.Go(func() { err = w.Run(ctx) })
	tb.Cleanup(func() {
		cancel()
		wg.Wait()
		if err != nil {
			tb.Errorf("worker: %v", err)
		}
	})
}

// buryMails stores n dead letters of mails to one address.
func buryMails(tb testing.TB, js jetstream.JetStream, n int, to string) {
	tb.Helper()
	for i := range n {
		bury(tb, js, dead(name(i)), nil, body(tb, mail{To: to}))
	}
}

// story is what a canary told, without what is only counted.
func story(events []deadletter.Event) []string {
	var out []string
	for _, e := range events {
		switch e.What {
		case deadletter.Began:
			out = append(out, fmt.Sprintf("stage %d of %d", e.Stage, e.Size))
		case deadletter.Ended:
			out = append(out, fmt.Sprintf("ended %d: %d done, %d failed", e.Stage, e.Tally.Done, e.Tally.Failed))
		case deadletter.Failed:
			out = append(out, fmt.Sprintf("%s: %s", e.Fate, e.Text))
		case deadletter.Refused:
			out = append(out, "refused "+e.Letter.ID)
		case deadletter.Skipped:
			out = append(out, "skipped "+e.Letter.ID)
		case deadletter.Redriven, deadletter.Looked:
		}
	}
	return out
}

func TestCanaryGoesThrough(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	working(t, js, func(context.Context, mail) error { return nil })
	const n = 40
	buryMails(t, js, n, "ada@example.org")
	var events []deadletter.Event
	var batches []int
	c := deadletter.Canary{
		Rate: 1000, Wait: time.Minute,
		Before:  func(_ context.Context, b []deadletter.Letter) error { batches = append(batches, len(b)); return nil },
		Observe: func(e deadletter.Event) { events = append(events, e) },
	}
	tally, err := c.Run(t.Context(), js, deadletter.List(t.Context(), js, deadletter.Filter{}))
	if want := (deadletter.Tally{Redriven: n, Done: n}); err != nil || tally != want {
		t.Errorf("Run = %+v, %v, want %+v", tally, err, want)
	}
	want := []string{"stage 1 of 1", "ended 1: 1 done, 0 failed", "stage 2 of 10", "ended 2: 11 done, 0 failed", "stage 3 of 0", "ended 3: 40 done, 0 failed"}
	if diff := cmp.Diff(want, story(events)); diff != "" {
		t.Errorf("story (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{1, 10, 29}, batches); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	if d, w := stored(t, js, task.DeadStream), stored(t, js, "TASKS_DEFAULT"); d != 0 || w != 0 {
		t.Errorf("%d letters and %d tasks left, want none", d, w)
	}
}

// One fails again, and the others stay where they are.
func TestCanaryStops(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"dead again", retry.Permanent(errors.New("550 no such mailbox")), "died again: 550 no such mailbox"},
		{"its first attempt failed", errors.New("connection refused"), "retrying: connection refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			working(t, js, func(context.Context, mail) error { return tt.err })
			buryMails(t, js, 20, "ada@exmaple.org")
			var events []deadletter.Event
			c := deadletter.Canary{Wait: time.Minute, Tolerated: deadletter.Tolerance{Share: 0.1}, Observe: func(e deadletter.Event) { events = append(events, e) }}
			tally, err := c.Run(t.Context(), js, deadletter.List(t.Context(), js, deadletter.Filter{}))
			want := deadletter.Tally{Redriven: 1, Failed: 1}
			stop, ok := errors.AsType[*deadletter.StopError](err)
			if !ok || !stop.Failing || stop.Stage != 1 || stop.Tally != want || tally != want {
				t.Errorf("Run = %+v, %v, want a stop in stage 1 with %+v", tally, err, want)
			}
			if diff := cmp.Diff([]string{"stage 1 of 1", tt.want}, story(events)); diff != "" {
				t.Errorf("story (-want +got):\n%s", diff)
			}
			if n := len(list(t, js, deadletter.Filter{})); n < 19 {
				t.Errorf("%d letters left, want the 19 that were not tried at least", n)
			}
		})
	}
}

// What fails within bounds does not stop it; the rest stops in its midst.
func TestCanaryTolerates(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	working(t, js, func(_ context.Context, m mail) error {
		if m.To == "bad" {
			return retry.Permanent(errors.New("550"))
		}
		return nil
	})
	const good, bad = 30, 500
	buryMails(t, js, good, "good")
	for i := range bad {
		bury(t, js, dead(fmt.Sprint("bad-", i)), nil, body(t, mail{To: "bad"}))
	}
	c := deadletter.Canary{Rate: 100, Wait: time.Minute, Tolerated: deadletter.Tolerance{Number: 3, Share: 0.2}}
	tally, err := c.Run(t.Context(), js, deadletter.List(t.Context(), js, deadletter.Filter{}))
	stop, ok := errors.AsType[*deadletter.StopError](err)
	if !ok || !stop.Failing || stop.Stage != 3 {
		t.Errorf("Run = %+v, %v, want a stop in stage 3", tally, err)
	}
	if tally.Done+tally.Waiting < good || tally.Failed <= 3 || tally.Redriven == good+bad {
		t.Errorf("Run = %+v, want all the good, more than 3 failures, and not all of the bad", tally)
	}
}

// Without a worker nothing ends, and it does not wait for ever.
func TestCanaryWithoutWorker(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	working(t, js, nil)
	buryMails(t, js, 3, "ada@example.org")
	tally, err := deadletter.Canary{Wait: time.Second}.Run(t.Context(), js, deadletter.List(t.Context(), js, deadletter.Filter{}))
	stop, ok := errors.AsType[*deadletter.StopError](err)
	if !ok || stop.Failing || stop.Stage != 1 || tally != (deadletter.Tally{Redriven: 1, Waiting: 1}) {
		t.Errorf("Run = %+v, %v, want a stop in stage 1 with one that waits", tally, err)
	}
	if n := len(list(t, js, deadletter.Filter{})); n != 2 {
		t.Errorf("%d letters left, want 2", n)
	}
}

// An interrupted canary says how far it came, and leaves the others.
func TestCanaryInterrupted(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	working(t, js, nil)
	buryMails(t, js, 50, "ada@example.org")
	why := errors.New("ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := deadletter.Canary{Stages: []int{}, Rate: 200, Unwatched: true, Observe: func(e deadletter.Event) {
		if e.Tally.Redriven == 5 {
			cancel(why)
		}
	}}
	tally, err := c.Run(ctx, js, deadletter.List(ctx, js, deadletter.Filter{}))
	if !errors.Is(err, why) || tally.Redriven < 5 || tally.Redriven == 50 {
		t.Errorf("Run = %+v, %v, want an interruption after 5", tally, err)
	}
	if n, left := stored(t, js, "TASKS_DEFAULT"), len(list(t, js, deadletter.Filter{})); int(n) != tally.Redriven || left != 50-tally.Redriven {
		t.Errorf("%d tasks and %d letters, want %d and the others", n, left, tally.Redriven)
	}
}

// Letters that cannot be redriven, or that somebody else took, do not stop it, and
// are no canaries.
func TestCanarySkips(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	working(t, js, func(context.Context, mail) error { return nil })
	put(t, js, "dead.default.email.send.lost", nil, nil)
	buryMails(t, js, 3, "ada@example.org")
	var events []deadletter.Event
	c := deadletter.Canary{Stages: []int{1}, Wait: time.Minute, Observe: func(e deadletter.Event) {
		events = append(events, e)
	}, Before: func(ctx context.Context, batch []deadletter.Letter) error {
		if batch[0].ID == name(1) {
			return deadletter.Discard(ctx, js, batch[0], "first")
		}
		return nil
	}}
	tally, err := c.Run(t.Context(), js, deadletter.List(t.Context(), js, deadletter.Filter{}))
	if want := (deadletter.Tally{Redriven: 2, Done: 2, Skipped: 1, Refused: 1}); err != nil || tally != want {
		t.Errorf("Run = %+v, %v, want %+v", tally, err, want)
	}
	got := story(events)
	if len(got) != 6 || got[0] != "stage 1 of 1" || got[2] != "ended 1: 1 done, 0 failed" || got[4] != "skipped "+name(1) {
		t.Errorf("story %q, want the lost one refused, and the discarded one skipped", got)
	}
}

func TestCanaryRefusedByBefore(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	working(t, js, nil)
	buryMails(t, js, 2, "ada@example.org")
	why := errors.New("no audit trail")
	c := deadletter.Canary{Before: func(context.Context, []deadletter.Letter) error { return why }}
	tally, err := c.Run(t.Context(), js, deadletter.List(t.Context(), js, deadletter.Filter{}))
	if !errors.Is(err, why) || tally != (deadletter.Tally{}) || len(list(t, js, deadletter.Filter{})) != 2 {
		t.Errorf("Run = %+v, %v, want nothing done", tally, err)
	}
}
