package worker_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/ratelimit"
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
		const tasks = 400
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
		if len(free.at) != 50 {
			t.Errorf("%d of 50 tasks without a limit ran in the first second", len(free.at))
		}
		for _, m := range all(t, js, "RETRY") {
			if st := state(t, "RETRY", m); st.Reason != task.Limited || st.Attempt != 0 || len(st.Errors) != 0 {
				t.Errorf("a task that waits has reason %q and %d attempts, want limit and none", st.Reason, st.Attempt)
			}
		}
		for range 40 {
			time.Sleep(5 * time.Second)
			hop = max(hop, hops(t, js, "RETRY"))
		}
		synctest.Wait()
		fewest, most := windows(limited.at, time.Minute, began, began.Add(200*time.Second))
		t.Logf("%d ran; %d to %d in a minute; at most %d moves", len(limited.at), fewest, most, hop)
		if most > 100 || fewest < 95 {
			t.Errorf("%d to %d starts in a minute, want 95 to 100", fewest, most)
		}
		time.Sleep(2 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(limited.at) != tasks || burned > 0 {
			t.Errorf("%d of %d ran, and %d attempts were burned", len(limited.at), tasks, burned)
		}
		if hop > 6 {
			t.Errorf("a task was moved %d times", hop)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}
