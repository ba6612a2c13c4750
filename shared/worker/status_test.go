package worker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// nap is a second kind of the tests' service.
type nap struct {
	Seconds int `msgpack:"seconds"`
}

func (nap) Kind() string { return "test.nap" }

func TestStatus(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		release, stuck := make(chan struct{}), make(chan struct{})
		w, err := worker.New(js, "test", worker.Serve(
			worker.Class{Name: task.Urgent, Slots: 3, RetrySlots: 2}, worker.Class{Name: task.Default, Slots: 4, RetrySlots: 2, TimeLimit: time.Minute}))
		if err != nil {
			t.Fatal(err)
		}
		worker.Handle(w, func(_ context.Context, n note) error {
			switch n.Text {
			case "wait":
				<-release
			case "fail":
				return retry.Permanent(errors.New("no"))
			}
			return nil
		})
		worker.Handle(w, func(context.Context, nap) error { <-stuck; return nil }, worker.Timeout(10*time.Second), worker.Retry(retry.Policy{Attempts: 1}))
		check := func(when string, want worker.Status, not error) {
			t.Helper()
			synctest.Wait()
			got := w.Status()
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(worker.Status{}, "Ready")); diff != "" || (got.Ready == nil) != (not == nil) {
				t.Errorf("%s, Ready is %v, and Status (-want +got):\n%s", when, got.Ready, diff)
			}
		}
		check("before Run", worker.Status{Pool: worker.AllPools}, errors.New("starting"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()

		lanes := func(running, leaked int) []worker.LaneStatus {
			return []worker.LaneStatus{
				{Class: task.Urgent, Slots: 3},
				{Class: task.Urgent, Retry: true, Slots: 2},
				{Class: task.Default, Slots: 4, Running: running, Held: running, Leaked: leaked},
				{Class: task.Default, Retry: true, Slots: 2},
			}
		}
		check("idle", worker.Status{Pool: worker.AllPools, Lanes: lanes(0, 0)}, nil)
		publish(t, js, "a", note{})
		publish(t, js, "b", note{Text: "fail"})
		publish(t, js, "c", note{Text: "wait"})
		time.Sleep(2 * time.Second)
		publish(t, js, "d", note{Text: "wait"})
		if _, err := js.Publish(t.Context(), "tasks.default.test.nap", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		check("busy", worker.Status{Pool: worker.AllPools, Lanes: lanes(3, 0), Settled: 2, Busy: []worker.Busy{
			{Kind: "test.note", Running: 2, Longest: 5 * time.Second}, {Kind: "test.nap", Running: 1, Longest: 3 * time.Second},
		}}, nil)
		time.Sleep(13 * time.Second) // past the time limit of nap and its grace; it had one attempt
		cancel()
		check("draining", worker.Status{Pool: worker.AllPools, Lanes: lanes(2, 1), Settled: 3, Draining: true, Busy: []worker.Busy{
			{Kind: "test.note", Running: 2, Longest: 18 * time.Second},
		}}, worker.ErrDraining)
		close(release)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		close(stuck)
	})
}
