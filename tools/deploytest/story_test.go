package deploytest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	watch "github.com/droverhq/drover/services/deadletter"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// job is a task of email that says what its handler shall do.
type job struct {
	Do   string `msgpack:"do"`
	Data []byte `msgpack:"data,omitempty"`
}

func (job) Kind() string { return "email.send" }

// events are what the handler was given, in order.
type events struct {
	mu   sync.Mutex
	seen []string
	more chan struct{} // holds one when seen grew
}

func (e *events) add(what string) {
	e.mu.Lock()
	e.seen = append(e.seen, what)
	e.mu.Unlock()
	select {
	case e.more <- struct{}{}:
	default:
	}
}

// wait returns when what was seen n times.
func (e *events) wait(t *testing.T, what string, n int) {
	t.Helper()
	timeout := time.After(limit)
	for {
		e.mu.Lock()
		count := 0
		for _, s := range e.seen {
			if s == what {
				count++
			}
		}
		seen := slices.Clone(e.seen)
		e.mu.Unlock()
		if count >= n {
			return
		}
		select {
		case <-e.more:
		case <-timeout:
			t.Fatalf("%q was seen %d times after %v, want %d; all: %q", what, count, limit, n, seen)
		}
	}
}

// startWorker runs a worker of email under its permissions. stop drains it.
func startWorker(t *testing.T, u *user, f *streams.Fleet, e *events) (w *worker.Worker, stop func()) {
	t.Helper()
	var classes []worker.Class
	for _, c := range f.Classes {
		if s, _ := f.Service("email"); s.Serves(c.Name) {
			classes = append(classes, worker.Class{
				Name: c.Name, Slots: 2, RetrySlots: 2, TimeLimit: c.TimeLimit,
				Retry: retry.Policy{Base: time.Millisecond, Cap: time.Millisecond, Attempts: 2}, MaxDeliver: c.MaxDeliver, Partitions: c.Partitions,
			})
		}
	}
	w, err := worker.New(u.js, "email", worker.Serve(classes...), worker.Logger(slog.New(slog.DiscardHandler)), worker.DrainLimit(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	worker.Handle(w, func(ctx context.Context, j job) error {
		info, _ := task.FromContext(ctx)
		defer e.add(j.Do)
		switch {
		case j.Do == "fail once" && info.Attempt == 0:
			return errors.New("once")
		case j.Do == "die" && info.Generation == 0:
			return retry.Permanent(errors.New("it cannot"))
		case j.Do == "hang" && info.Attempt == 0:
			e.add("hangs")
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(stop)
	return w, stop
}

// All that Drover does, each under the permissions of who does it, and the broker
// refuses nothing: check, publish one and many, run, retry, die, a large body, a
// redelivery, drain, presence, lanes, redrive and discard.
func TestStoryUnderPermissions(t *testing.T) {
	t.Parallel()
	f := fleetOfShops()
	f.AllowShortAckWait = true
	for i := range f.Classes {
		f.Classes[i].AckWait = 2 * time.Second
	}
	g := guard(t, f)
	email, producer, archive, operator := g.as(t, "email"), g.as(t, "producer"), g.as(t, "archive"), g.as(t, "drover")
	ctx := t.Context()
	if err := streams.Check(ctx, email.js, f, "email"); err != nil {
		t.Fatal(err)
	}

	watchdog := g.as(t, task.DeadletterService)
	if err := streams.Check(ctx, watchdog.js, f, task.DeadletterService); err != nil {
		t.Fatal(err)
	}

	stopWatchdog := startWatchdog(t, watchdog, f)

	// A process took a task and died.
	publish(t, producer, job{Do: "redelivered"})
	inbox, err := email.nc.SubscribeSync(email.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := email.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.TASKS_DEFAULT.email", inbox.Subject, []byte(`{"batch":1}`)); err != nil {
		t.Fatal(err)
	}
	if m, err := inbox.NextMsg(limit); err != nil || m.Reply == "" {
		t.Fatalf("pull a task: %v, %v", m, err)
	}

	e := &events{more: make(chan struct{}, 1)}
	w, stop := startWorker(t, email, f, e)
	many := make([]job, 50)
	for i := range many {
		many[i].Do = "many"
	}
	c, err := client.New(producer.js)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PublishAll(ctx, c, many); err != nil {
		t.Fatal(err)
	}
	e.wait(t, "many", len(many))
	for _, do := range []string{"fail once", "die", "die"} {
		publish(t, producer, job{Do: do})
	}
	large := incompressible()
	publish(t, archive, job{Do: "large", Data: large})
	publish(t, archive, job{Do: "die", Data: large})
	e.wait(t, "fail once", 2)
	e.wait(t, "large", 1)
	e.wait(t, "redelivered", 1)
	e.wait(t, "die", 3)
	if err := w.Ready(); err != nil {
		t.Errorf("Ready = %v", err)
	}

	// Presence and pauses, as processes keep them.
	bucket, err := email.js.KeyValue(ctx, task.FleetBucket)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := bucket.Watch(ctx, "pause.>")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := operator.js.KeyValue(ctx, task.FleetBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Put(ctx, "pause.default.email", []byte("{}")); err != nil {
		t.Error(err)
	}
	for entry := range watch.Updates() {
		if entry != nil {
			break
		}
	}
	if err := watch.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := bucket.Get(ctx, "pause.default.email"); err != nil {
		t.Error(err)
	}
	if _, err := bucket.Put(ctx, "process.email.1", nil); err != nil {
		t.Error(err)
	}

	// What has not ended is given back when the worker drains, and runs in the next.
	publish(t, producer, job{Do: "hang"})
	e.wait(t, "hangs", 1)
	stop()
	waitBodies(t, operator, 1) // of the dead letter

	alerted(t, operator)
	stopWatchdog()
	redriveOne(t, operator)
	discardRest(t, operator)
	waitBodies(t, operator, 0)
	if _, err := streams.Lanes(ctx, operator.js, f); err != nil {
		t.Error(err)
	}
	if changes, err := streams.Plan(ctx, operator.js, f); err != nil || len(changes) > 0 {
		t.Errorf("Plan = %v, %v; want nothing to do", changes, err)
	}
	for _, u := range []*user{email, producer, archive, operator, watchdog} {
		u.clean(t)
	}
}

// startWatchdog runs the deadletter service, which sweeps at once and tells the log.
func startWatchdog(t *testing.T, u *user, f *streams.Fleet) (stop func()) {
	t.Helper()
	w, err := watch.New(watch.Config{Gather: 100 * time.Millisecond, Sweep: 200 * time.Millisecond, OrphanSweep: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, watch.Deps{JetStream: u.js, Fleet: f, Logger: slog.New(slog.DiscardHandler)}, func(func() error) {})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the deadletter service ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// alerted waits until the deadletter service has written down a kind of death.
func alerted(t *testing.T, operator *user) {
	t.Helper()
	s, err := operator.js.Stream(t.Context(), "KV_"+task.AlertsBucket)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "ALERTS holds a kind of death beside the leader", func() bool {
		info, err := s.Info(t.Context())
		return err == nil && info.State.NumSubjects > 1
	})
}

func publish(t *testing.T, u *user, j job) {
	t.Helper()
	c, err := client.New(u.js)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), j); err != nil {
		t.Fatalf("%s publishes %q: %v", u.name, j.Do, err)
	}
}

// redriveOne redrives the first dead letter.
func redriveOne(t *testing.T, operator *user) {
	t.Helper()
	for l, err := range deadletter.List(t.Context(), operator.js, deadletter.Filter{Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := deadletter.Redrive(t.Context(), operator.js, l); err != nil {
			t.Errorf("Redrive = %v", err)
		}
		return
	}
	t.Error("there is no dead letter to redrive")
}

func discardRest(t *testing.T, operator *user) {
	t.Helper()
	n := 0
	for l, err := range deadletter.List(t.Context(), operator.js, deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if err := deadletter.Discard(t.Context(), operator.js, l, "test"); err != nil {
			t.Errorf("Discard = %v", err)
		}
	}
	if n != 2 {
		t.Errorf("discarded %d dead letters, want 2", n)
	}
}

// waitBodies waits until BODIES holds n objects.
func waitBodies(t *testing.T, operator *user, n int) {
	t.Helper()
	store, err := operator.js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := store.List(t.Context())
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		err = nil
	}
	if err != nil || len(objects) != n {
		t.Errorf("BODIES holds %d objects (%v), want %d", len(objects), err, n)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %v: %s", limit, what)
		}
	}
}

// incompressible is a body that goes to BODIES.
func incompressible() []byte {
	b := make([]byte, 300<<10)
	_, _ = rand.Read(b) // it never fails
	return b
}
