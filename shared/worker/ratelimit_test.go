package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

func account(n note) string { return n.Text }

// begun is when handlers started.
type begun struct {
	mu sync.Mutex
	at []time.Time
}

func (s *begun) add() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Now())
}

func (s *begun) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

// windows returns the fewest and the most starts in any window of a length that lies
// between the times; the fewest only of those that begin with a start or end with one.
func windows(at []time.Time, per time.Duration, from, to time.Time) (fewest, most int) {
	slices.SortFunc(at, time.Time.Compare)
	count := func(from, to time.Time) (n int) {
		for _, t := range at {
			if !t.Before(from) && t.Before(to) {
				n++
			}
		}
		return n
	}
	fewest = len(at)
	for _, t := range at {
		if n := count(t, t.Add(per)); n > most {
			most = n
		}
		if just := t.Add(time.Nanosecond); !just.Before(from) && !just.Add(per).After(to) { // right after a start there are fewest
			fewest = min(fewest, count(just, just.Add(per)))
		}
	}
	return fewest, most
}

// hops counts how often each task in the stream was moved, and the most of them.
func hops(tb testing.TB, js jetstream.JetStream, stream string) (most int) {
	tb.Helper()
	for _, m := range all(tb, js, stream) {
		most = max(most, state(tb, stream, m).Hop)
	}
	return most
}

// A backlog of one key runs at its limit: no window holds more, and nearly as many
// as may be; what waits stands on timers, burns nothing, and other keys flow.
func TestRateLimit(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		const tasks = 1000
		var limited, free begun
		var burned, hop int
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				if n.Text == "" {
					free.add()
					return nil
				}
				info, _ := task.FromContext(ctx)
				limited.add()
				limited.mu.Lock()
				burned += info.Attempt
				limited.mu.Unlock()
				return nil
			}, worker.RateLimit(ratelimit.Policy{Limit: 100, Per: time.Minute}, account))
		})
		for i := range tasks {
			publish(t, js, fmt.Sprintf("a%d", i), note{Text: "acme"})
		}
		for i := range 50 {
			publish(t, js, fmt.Sprintf("b%d", i), note{})
		}
		began := time.Now()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(free.times()) != 50 {
			t.Errorf("%d of 50 tasks without a limit ran in the first second", len(free.times()))
		}
		for _, m := range all(t, js, "RETRY") {
			if st := state(t, "RETRY", m); st.Reason != task.Limited || st.Attempt != 0 || len(st.Errors) != 0 || len(st.Waits) != 1 || st.Waits[0].Reason != task.Limited {
				t.Errorf("a task that waits has reason %q and %d attempts, want limit, none, and that it waited: %+v", st.Reason, st.Attempt, st.Waits)
			}
		}
		for range 21 {
			time.Sleep(30 * time.Second)
			hop = max(hop, hops(t, js, "RETRY"))
		}
		synctest.Wait()
		fewest, most := windows(limited.times(), time.Minute, began, began.Add(10*time.Minute))
		t.Logf("%d ran; %d to %d in a minute; at most %d moves", len(limited.times()), fewest, most, hop)
		if most > 100 || fewest < 95 {
			t.Errorf("%d to %d starts in a minute, want 95 to 100", fewest, most)
		}
		time.Sleep(2 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(limited.times()) != tasks || burned > 0 {
			t.Errorf("%d of %d ran, and %d attempts were burned", len(limited.times()), tasks, burned)
		}
		if hop > 6 {
			t.Errorf("a task was moved %d times", hop)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// Without the bucket the tasks of a key wait, and say why; the others run, and all
// recover by themselves.
func TestRateLimitWithoutBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		if err := js.DeleteStream(t.Context(), "KV_LIMITS"); err != nil {
			t.Fatal(err)
		}
		const tasks = 200
		var limited, free begun
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(_ context.Context, n note) error {
				if n.Text == "" {
					free.add()
				} else {
					limited.add()
				}
				return nil
			}, worker.RateLimit(ratelimit.Policy{Limit: 100, Per: time.Minute}, account))
		})
		for i := range tasks {
			publish(t, js, fmt.Sprintf("a%d", i), note{Text: "acme"})
			publish(t, js, fmt.Sprintf("b%d", i), note{})
		}
		time.Sleep(20 * time.Second)
		if len(limited.times()) > 0 || len(free.times()) != tasks {
			t.Errorf("%d tasks with a limit ran without the bucket, and %d of %d without one", len(limited.times()), len(free.times()), tasks)
		}
		if err := w.Ready(); !errors.Is(err, record.ErrNoBucket) || !strings.Contains(err.Error(), "drover streams apply") {
			t.Errorf("Ready() = %v, want what is missing and what to do", err)
		}
		topology(t, js, ackWait) // as `drover streams apply`
		time.Sleep(5 * time.Minute)
		if err := w.Ready(); err != nil {
			t.Errorf("Ready() = %v once the bucket is there", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, most := windows(limited.times(), time.Minute, time.Now(), time.Now()); most > 100 || len(limited.times()) != tasks {
			t.Errorf("%d of %d tasks ran, at most %d in a minute, want 100", len(limited.times()), tasks, most)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// A mistake in the option is told by Run.
func TestRateLimitMistakes(t *testing.T) {
	t.Parallel()
	p := ratelimit.Policy{Limit: 1, Per: time.Second}
	for _, tt := range []struct {
		name string
		opts []worker.HandlerOption
	}{
		{"policy", []worker.HandlerOption{worker.RateLimit(ratelimit.Policy{}, account)}},
		{"no key", []worker.HandlerOption{worker.RateLimit[note](p, nil)}},
		{"another type", []worker.HandlerOption{worker.RateLimit(p, func(anything) string { return "" })}},
		{"twice", []worker.HandlerOption{worker.RateLimit(p, account), worker.RateLimit(p, account)}},
	} {
		w, err := worker.New(natstest.JetStream(t), "test")
		if err != nil {
			t.Fatal(err)
		}
		worker.Handle(w, func(context.Context, note) error { return nil }, tt.opts...)
		if err := w.Run(t.Context()); err == nil {
			t.Errorf("%s: Run() = nil, want the mistake", tt.name)
		}
	}
}

// limitedMain is a worker process with a rate limit; it tells of each start.
func limitedMain() int { return runRole(newLimited) }

func newLimited(js jetstream.JetStream) (*worker.Worker, error) {
	var p ratelimit.Policy
	if _, err := fmt.Sscan(os.Getenv(envLimit), &p.Limit, &p.Per); err != nil {
		return nil, err
	}
	w, err := worker.New(js, "test", worker.Serve(worker.Class{Name: task.Default, Slots: 8, RetrySlots: 8}),
		worker.Logger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		return nil, err
	}
	l := ledger(os.Getenv(envLedger))
	worker.Handle(w, func(ctx context.Context, _ note) error {
		at := time.Now()
		info, _ := task.FromContext(ctx)
		l.writeAt(at, "start", info.ID, os.Getpid(), info.Attempt)
		return nil
	}, worker.RateLimit(p, account))
	return w, nil
}

const envLimit = "TEST_LIMIT" // of limitedMain: number and nanoseconds

// limitedFleet is n processes of limitedMain.
func limitedFleet(tb testing.TB, n int, url string, l ledger, p ratelimit.Policy) (all []*natstest.Process) {
	tb.Helper()
	for range n {
		all = append(all, natstest.Spawn(tb, "limited", envURL+"="+url, envLedger+"="+string(l), fmt.Sprintf("%s=%d %d", envLimit, p.Limit, p.Per)))
	}
	return all
}

// times are when the tasks of a ledger started.
func (l ledger) times(tb testing.TB) (at []time.Time) {
	tb.Helper()
	for _, e := range l.read(tb) {
		at = append(at, e.at)
	}
	return at
}

// Three processes share a limit. One is killed, another one stopped and let go on:
// no window is above it, and those after the kill are nearly full.
func TestRateLimitOfFleet(t *testing.T) {
	t.Parallel()
	p, fewestWanted := ratelimit.Policy{Limit: 40, Per: 2 * time.Second}, 32
	if *whole {
		p, fewestWanted = ratelimit.Policy{Limit: 100, Per: time.Minute}, 95
	}
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	for i := range 8 * p.Limit {
		publish(t, js, strconv.Itoa(i), note{Text: "acme"})
	}
	fleet := limitedFleet(t, 3, url, l, p)
	time.Sleep(p.Per / 2)
	began := time.Now()
	time.Sleep(p.Per / 2)
	fleet[0].Kill()
	time.Sleep(p.Per)
	ended := time.Now()
	fleet[1].Pause()
	time.Sleep(p.Per / 4)
	fleet[1].Resume()
	time.Sleep(p.Per / 4)
	moves := hops(t, js, "RETRY") // before those that give tasks back
	natstest.StopAll(fleet[1:]...)
	fewest, most := windows(l.times(t), p.Per, began, ended)
	t.Logf("%d to %d starts in %v; at most %d moves", fewest, most, p.Per, moves)
	if most > p.Limit || fewest < fewestWanted {
		t.Errorf("%d to %d starts in %v, want %d to %d", fewest, most, p.Per, fewestWanted, p.Limit)
	}
	for _, e := range l.read(t) {
		if e.attempt != 0 {
			t.Errorf("%s has burned %d attempts", e.id, e.attempt)
		}
	}
}

// The broker is killed in the middle of a backlog, and is there again later: no
// window is above the limit, and the tasks go on by themselves.
func TestRateLimitWithoutBroker(t *testing.T) {
	t.Parallel()
	onBrokers(t, shortAckWait, rateLimitWithoutBroker)
}

func rateLimitWithoutBroker(t *testing.T, b *brokers) {
	t.Helper()
	away := outage()
	p := ratelimit.Policy{Limit: 40, Per: 2 * time.Second}
	tasks := 8 * p.Limit
	if !b.alone { // two of three go on
		tasks *= 3
	}
	js := b.js
	l := newLedger(t)
	for i := range tasks {
		publish(t, js, strconv.Itoa(i), note{Text: "acme"})
	}
	fleet := limitedFleet(t, 2, b.url, l, p)
	enough := func(more int) func([]event) bool {
		have := len(l.read(t))
		return func(events []event) bool { return len(events) >= have+more }
	}
	l.wait(t, 20*time.Second, "tasks run", enough(p.Limit))
	b.kill()
	time.Sleep(away / 2)
	before := len(l.read(t))
	time.Sleep(away / 2)
	if n := len(l.read(t)) - before; n > 0 && b.alone {
		t.Errorf("%d tasks started while the broker was away", n)
	}
	b.restart()
	l.wait(t, 30*time.Second, "tasks run again", enough(p.Limit))
	natstest.StopAll(fleet...)
	if _, most := windows(l.times(t), p.Per, time.Now(), time.Now()); most > p.Limit {
		t.Errorf("%d starts in %v, want at most %d", most, p.Per, p.Limit)
	}
	if dead := letters(t, js); len(dead) > 0 {
		t.Errorf("%d dead letters, want none: no attempt is burned for waiting", len(dead))
	}
}
