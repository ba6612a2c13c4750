package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// other is a second kind of the service "test".
type other struct {
	Text string `msgpack:"text"`
}

func (other) Kind() string { return "test.other" }

// Of a kind with a cap no more tasks run than there are permits; the others wait
// without burning an attempt, and all come to their turn; other kinds flow.
func TestCap(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		const tasks, permits = 60, 3
		var mu sync.Mutex
		running, most, done, burned := 0, 0, 0, 0
		var flowed time.Duration
		begin := time.Now()
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				info, _ := task.FromContext(ctx)
				mu.Lock()
				running++
				most = max(most, running)
				burned += info.Attempt
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running--
				done++
				mu.Unlock()
				return nil
			}, worker.Cap("db:main", permits))
			worker.Handle(w, func(context.Context, other) error {
				mu.Lock()
				defer mu.Unlock()
				flowed = max(flowed, time.Since(begin))
				return nil
			})
		})
		for i := range tasks {
			publish(t, js, strconv.Itoa(i), note{})
		}
		for i := range 10 {
			publishTo(t, js, "test.other", fmt.Sprint("other", i), "")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, m := range all(t, js, "RETRY") {
			if st := state(t, "RETRY", m); st.Reason != task.Cap || st.Attempt != 0 || len(st.Errors) != 0 || len(st.Waits) != 1 || st.Waits[0].Reason != task.Cap {
				t.Errorf("a task that waits has reason %q, attempt %d and %d failures, want cap, nothing, and that it waited: %+v", st.Reason, st.Attempt, len(st.Errors), st.Waits)
			}
		}
		mu.Lock()
		if flowed > time.Second {
			t.Errorf("the other kind waited for %v", flowed)
		}
		mu.Unlock()
		time.Sleep(55 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if most != permits || done != tasks || burned != 0 {
			t.Errorf("at most %d ran at once, %d of %d are done within a minute, %d attempts were burned; want %d, all, and none", most, done, tasks, burned, permits)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// What runs when the lease of its permit ends is cancelled with a cause and burns no
// attempt; nothing starts without the bucket, and everything when it is back.
func TestCapWithoutBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var mu sync.Mutex
		var cause error
		var lasted time.Duration
		runs, burned := 0, 0
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				info, _ := task.FromContext(ctx)
				mu.Lock()
				runs++
				first := runs == 1
				burned += info.Attempt
				mu.Unlock()
				if !first {
					return nil
				}
				begin := time.Now()
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				cause, lasted = context.Cause(ctx), time.Since(begin)
				return cause
			}, worker.Cap("db:main", 2), worker.Retry(retry.Policy{Attempts: 1}))
		})
		publish(t, js, "a", note{})
		time.Sleep(time.Second)
		if err := js.DeleteStream(t.Context(), "KV_LIMITS"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		publish(t, js, "b", note{})
		time.Sleep(30 * time.Second)
		if err := w.Ready(); !errors.Is(err, record.ErrNoBucket) {
			t.Errorf("Ready() without the bucket = %v, want ErrNoBucket", err)
		}
		mu.Lock()
		if !errors.Is(cause, worker.ErrPermitLost) || lasted < 17*time.Second || lasted > 19*time.Second {
			t.Errorf("the handler ended by %v after %v, want ErrPermitLost after 18s", cause, lasted)
		}
		if runs != 1 {
			t.Errorf("%d runs without the bucket, want the one that began before", runs)
		}
		mu.Unlock()
		topology(t, js, ackWait) // as `drover streams apply`
		time.Sleep(15 * time.Second)
		if err := w.Ready(); err != nil {
			t.Errorf("Ready() with the bucket = %v, want nil", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if runs != 3 || burned != 0 {
			t.Errorf("%d runs once the bucket is back, with %d attempts burned, want 3 and none", runs, burned)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// A permit stays with a handler that was abandoned, until it returns, and is back
// when one ends its goroutine or panics.
func TestCapOfLeakedHandler(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		release := make(chan struct{})
		var runs atomic.Int32
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(_ context.Context, n note) error {
				switch n.Text {
				case "panic":
					panic("no")
				case "goexit":
					runtime.Goexit()
				}
				if runs.Add(1) == 1 {
					<-release
				}
				return nil
			}, worker.Cap("db:main", 1), worker.Timeout(time.Second), worker.Retry(retry.Policy{Attempts: 1}))
		})
		publish(t, js, "a", note{Text: "panic"})
		publish(t, js, "b", note{Text: "goexit"})
		time.Sleep(10 * time.Second)
		publish(t, js, "c", note{})
		time.Sleep(10 * time.Second)
		publish(t, js, "d", note{})
		time.Sleep(time.Minute)
		if n := runs.Load(); n != 1 {
			t.Errorf("%d tasks ran beside an abandoned handler that has the only permit, want none but it", n)
		}
		close(release)
		time.Sleep(time.Minute)
		if n := runs.Load(); n != 2 {
			t.Errorf("%d runs once it returned, want 2", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCapMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opts []worker.HandlerOption
		want string
	}{
		{"no name", []worker.HandlerOption{worker.Cap("", 1)}, "needs a name"},
		{"no permits", []worker.HandlerOption{worker.Cap("a", 0)}, "want 1 or more"},
		{"twice", []worker.HandlerOption{worker.Cap("a", 1), worker.Cap("a", 1)}, "given twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, err := worker.New(natstest.JetStream(t), "test")
			if err != nil {
				t.Fatal(err)
			}
			worker.Handle(w, func(context.Context, note) error { return nil }, tt.opts...)
			if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run() = %v, want %q", err, tt.want)
			}
		})
	}
}

// Environment of the capped processes.
const (
	envPermits = "TEST_PERMITS"
	envLease   = "TEST_LEASE"
)

// capRun is how much TestCapOfFleet does.
type capRun struct {
	permits, tasks int
	lease, outage  time.Duration
	long           int // ms, of every twentieth task; the others take 100
}

// cappedMain is a worker process whose tasks use a resource.
func cappedMain() int { return runRole(newCapped) }

func newCapped(js jetstream.JetStream) (*worker.Worker, error) {
	w, err := worker.New(js, "test", worker.Serve(worker.Class{Name: task.Default, Slots: 32}),
		worker.Logger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		return nil, err
	}
	lease, _ := time.ParseDuration(os.Getenv(envLease)) // 0 without: the default
	worker.CapLease(w, lease)
	permits, err := strconv.Atoi(os.Getenv(envPermits))
	if err != nil {
		return nil, err
	}
	l := ledger(os.Getenv(envLedger))
	worker.Handle(w, func(ctx context.Context, n note) error {
		info, _ := task.FromContext(ctx)
		write := func(what string) { l.write(what, info.ID, os.Getpid(), info.Attempt) }
		write("start")
		select {
		case <-time.After(time.Duration(n.N) * time.Millisecond):
			write("end")
			return nil
		case <-ctx.Done():
			write("cancelled")
			return context.Cause(ctx)
		}
	}, worker.Cap("db:main", permits), worker.Retry(retry.Policy{Attempts: 1}))
	return w, nil
}

// still says from when to when a process did nothing; without an end it was killed.
type still struct{ from, to time.Time }

// atOnce returns the most runs that were under way at one time. What a process had
// begun before it stood still counts until then, and again once it goes on.
func atOnce(events []event, quiet map[int]still) int {
	type change struct {
		at time.Time
		by int
	}
	var changes []change
	span := func(pid int, from, to time.Time) {
		q, ok := quiet[pid]
		if ok && from.Before(q.from) && to.After(q.from) {
			changes = append(changes, change{from, 1}, change{q.from, -1})
			if from = q.to; q.to.IsZero() || !from.Before(to) {
				return
			}
		}
		changes = append(changes, change{from, 1}, change{to, -1})
	}
	begun := map[string]event{}
	for _, e := range events {
		run := fmt.Sprint(e.id, " ", e.pid)
		if e.what == "start" {
			begun[run] = e
			continue
		}
		span(e.pid, begun[run].at, e.at)
		delete(begun, run)
	}
	for _, e := range begun {
		span(e.pid, e.at, time.Now())
	}
	slices.SortFunc(changes, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by
	})
	now, most := 0, 0
	for _, c := range changes {
		now += c.by
		most = max(most, now)
	}
	return most
}

// Some permits for three processes, of which one is killed and one stands still for
// longer than its lease, while the broker is killed for longer than that: never are
// there more tasks at once, no attempt is burned, and all are done in the end.
func TestCapOfFleet(t *testing.T) {
	t.Parallel()
	c := capRun{permits: 4, tasks: 100, lease: 2 * time.Second, outage: 3 * time.Second, long: 3000}
	ackWait := 4 * time.Second
	if *whole {
		c = capRun{permits: 40, tasks: 8000, lease: 20 * time.Second, outage: 20 * time.Second, long: 5000}
		ackWait = 30 * time.Second
	}
	onBrokers(t, ackWait, func(t *testing.T, b *brokers) { capOfFleet(t, b, c) })
}

func capOfFleet(t *testing.T, b *brokers, c capRun) {
	t.Helper()
	js := b.js
	l := newLedger(t)
	for i := range c.tasks {
		n := note{N: 100}
		if i%20 == 0 {
			n.N = c.long
		}
		publish(t, js, strconv.Itoa(i), n)
	}
	env := []string{envURL + "=" + b.url, envLedger + "=" + string(l), envPermits + "=" + strconv.Itoa(c.permits), envLease + "=" + c.lease.String()}
	var fleet []*natstest.Process
	for range 3 {
		fleet = append(fleet, natstest.Spawn(t, "capped", env...))
	}
	quiet := map[int]still{}
	l.wait(t, 10*time.Second, "a few are done", func(events []event) bool { return len(events) > 10*c.permits })

	quiet[fleet[0].PID()] = still{from: time.Now()}
	fleet[0].Kill()
	time.Sleep(500 * time.Millisecond)
	paused := time.Now()
	fleet[1].Pause()
	time.Sleep(c.lease + c.lease/2)
	fleet[1].Resume()
	time.Sleep(500 * time.Millisecond) // in which what it runs hears that it is to end
	quiet[fleet[1].PID()] = still{from: paused, to: time.Now()}

	b.kill()
	down := time.Now()
	time.Sleep(c.outage)
	for _, e := range l.read(t) {
		if b.alone && e.what == "start" && e.at.After(down.Add(c.lease)) {
			t.Errorf("task %s began without the broker after the lease had ended", e.id)
		}
	}
	b.restart()
	back := time.Now()
	fleet[0] = natstest.Spawn(t, "capped", env...)
	l.wait(t, 3*time.Minute, "all tasks end", func([]event) bool { return len(l.count(t, "end")) == c.tasks })
	natstest.StopAll(fleet...)
	events := l.read(t)
	most := atOnce(events, quiet)
	if most > c.permits || most < c.permits-1 {
		t.Errorf("%d tasks at once, want at most %d, and about as many", most, c.permits)
	}
	for _, e := range events {
		if e.attempt != 0 {
			t.Errorf("task %s has burned an attempt", e.id)
		}
	}
	for r, err := range permit.List(t.Context(), js) {
		if err != nil || r.Held() > 0 {
			t.Errorf("record %+v, %v after the end of all processes, want no permits held", r, err)
		}
	}
	i := slices.IndexFunc(events, func(e event) bool { return e.what == "start" && e.at.After(back) })
	t.Logf("%d tasks in %v, %d at once; %d were cancelled; the first one after the outage began %v after its end",
		c.tasks, events[len(events)-1].at.Sub(events[0].at).Round(time.Millisecond), most, len(l.count(t, "cancelled")), events[max(i, 0)].at.Sub(back).Round(time.Millisecond))
}
