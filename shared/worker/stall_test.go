package worker_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// counted runs a worker of class default that counts what it has done.
func counted(t *testing.T, js jetstream.JetStream, opts ...worker.Option) (w *worker.Worker, done *atomic.Int64, stop func() error) {
	t.Helper()
	done = new(atomic.Int64)
	w, stop = start(t, js, func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, note) error { done.Add(1); return nil })
	}, opts...)
	return w, done, stop
}

// ready fails the test unless Ready says what it should; "" is that it is.
func ready(t *testing.T, w *worker.Worker, when, want string) {
	t.Helper()
	err := w.Ready()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s, Ready() = %v, want %q", when, err, want)
	}
}

// The consumer is deleted under a worker: it says so within 30 s, and works on
// by itself when the consumer is made again.
func TestDeletedConsumer(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		w, done, stop := counted(t, js)
		time.Sleep(time.Minute)
		publish(t, js, "before", note{})
		synctest.Wait()
		ready(t, w, "with its consumer", "")
		if err := js.DeleteConsumer(t.Context(), "TASKS_DEFAULT", "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		ready(t, w, "without its consumer", "test: ")
		publish(t, js, "meanwhile", note{})
		topology(t, js, ackWait)
		time.Sleep(15 * time.Second)
		ready(t, w, "with its consumer again", "")
		if n := done.Load(); n != 2 {
			t.Errorf("%d tasks are done, want both", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// All that the consumer may hand out is in somebody else's hands, who does not
// settle it: that is no fault of this worker, and it says what it is.
func TestExhaustedAckPending(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		c, err := js.Consumer(t.Context(), "TASKS_DEFAULT", "test")
		if err != nil {
			t.Fatal(err)
		}
		cfg := c.CachedInfo().Config
		cfg.MaxAckPending = 2
		if _, err := js.UpdateConsumer(t.Context(), "TASKS_DEFAULT", cfg); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			publish(t, js, id, note{})
		}
		hoard, err := c.Fetch(2, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		var held []jetstream.Msg
		for m := range hoard.Messages() {
			held = append(held, m)
		}
		w, done, stop := counted(t, js)
		keep := func(d time.Duration) { // their holder holds on
			for range int(d / (10 * time.Second)) {
				for _, m := range held {
					if err := m.InProgress(); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Second)
			}
		}
		keep(20 * time.Second)
		ready(t, w, "with nothing left to hand out", "3 tasks wait, but 2 are handed out and not settled, which is all that the consumer allows")
		for _, m := range held {
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		ready(t, w, "when they are settled", "")
		if n := done.Load(); n != 3 {
			t.Errorf("%d tasks are done, want 3", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// A paused lane, an idle one, and one whose slots are all taken are well.
func TestQuietIsNotStalled(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		asked, err := js.Conn().SubscribeSync("$JS.API.CONSUMER.INFO.TASKS_DEFAULT.test")
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		var done atomic.Int64
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(_ context.Context, n note) error {
				if n.Text == "long" {
					<-release
				}
				done.Add(1)
				return nil
			})
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 1, TimeLimit: time.Hour}))
		calm := func(what string) {
			t.Helper()
			for range 60 {
				time.Sleep(2 * time.Second)
				ready(t, w, what, "")
			}
		}
		calm("idle")
		if n, _, _ := asked.Pending(); n > 14 {
			t.Errorf("an idle lane asked %d times in two minutes, want once in 10 s", n)
		}
		if _, err := js.PauseConsumer(t.Context(), "TASKS_DEFAULT", "test", time.Now().Add(5*time.Minute)); err != nil {
			t.Fatal(err)
		}
		publish(t, js, "paused", note{})
		calm("paused")
		if _, err := js.ResumeConsumer(t.Context(), "TASKS_DEFAULT", "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if done.Load() != 1 {
			t.Error("the task has not run after the pause")
		}
		publish(t, js, "long", note{Text: "long"})
		publish(t, js, "behind", note{})
		calm("full")
		close(release)
		time.Sleep(time.Second)
		if n := done.Load(); n != 3 {
			t.Errorf("%d tasks are done, want 3", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// Every slot of a lane is lost: its worker is not ready, below the limit at which
// it ends.
func TestAllSlotsLeaked(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		release := make(chan struct{})
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(_ context.Context, n note) error {
				if n.Text == "stuck" {
					<-release
				}
				return nil
			})
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 1, TimeLimit: time.Second}))
		publish(t, js, "a", note{Text: "stuck"})
		time.Sleep(10 * time.Second)
		ready(t, w, "with its only slot leaked", "all 1 slots are lost to handlers")
		close(release)
		time.Sleep(3 * time.Second)
		ready(t, w, "with its slot back", "")
		_ = stop()
	})
}

// A subscription that is dead, or an interest that the broker has lost, is mended
// without a restart.
func TestDeadSubscription(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		w, done, stop := counted(t, js)
		time.Sleep(time.Minute)
		worker.KillPulls(w)
		publish(t, js, "a", note{})
		time.Sleep(5 * time.Second)
		ready(t, w, "while the broker does not answer", "the broker does not answer")
		time.Sleep(25 * time.Second)
		ready(t, w, "after it has subscribed anew", "")
		if n := done.Load(); n != 1 {
			t.Errorf("%d tasks are done, want 1", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// diverted is a JetStream whose pulls go elsewhere for as long as somewhere is set.
type diverted struct {
	jetstream.JetStream
	elsewhere atomic.Bool
}

func (d *diverted) Options() jetstream.JetStreamOptions {
	o := d.JetStream.Options()
	if d.elsewhere.Load() {
		o.APIPrefix = "elsewhere."
	}
	return o
}

// When the broker says that tasks wait, answers the pulls and hands nothing out,
// the worker says within 30 s that it is not ready.
func TestStalled(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		pulls := 0
		_, err := js.Conn().Subscribe("elsewhere.CONSUMER.MSG.NEXT.TASKS_DEFAULT.test", func(m *nats.Msg) {
			pulls++
			for _, status := range []string{"100", "408"} { // alive, and nothing to bring
				time.Sleep(time.Second)
				_ = js.Conn().PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Status": {status}}})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		through := &diverted{JetStream: js}
		w, done, stop := counted(t, through)
		time.Sleep(time.Minute)
		through.elsewhere.Store(true)
		time.Sleep(5 * time.Second) // the pull of before has expired
		publish(t, js, "a", note{})
		time.Sleep(29 * time.Second)
		ready(t, w, "with a task that waits", "1 tasks wait and none has arrived for ")
		if pulls < 10 {
			t.Errorf("it has pulled %d times, want that it goes on", pulls)
		}
		through.elsewhere.Store(false)
		time.Sleep(5 * time.Second)
		ready(t, w, "when tasks come again", "")
		if n := done.Load(); n != 1 {
			t.Errorf("%d tasks are done, want 1", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
