package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// scale is what runs at one time, in slots.
type scale struct {
	mu        sync.Mutex
	begin     time.Time
	now, most int
	starts    []string // "<id> <since begin>"
	done      int
}

// run is a handler's run of a task that weighs this much.
func (s *scale) run(ctx context.Context, weight int, d time.Duration) {
	info, _ := task.FromContext(ctx)
	s.mu.Lock()
	s.now += weight
	s.most = max(s.most, s.now)
	s.starts = append(s.starts, fmt.Sprint(info.ID, " ", time.Since(s.begin).Round(time.Second)))
	s.mu.Unlock()
	time.Sleep(d)
	s.mu.Lock()
	s.now -= weight
	s.done++
	s.mu.Unlock()
}

func (s *scale) started() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.starts, ", ")
}

func (s *scale) ended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// weigh runs a worker in which a note weighs one slot and an "other" three, each for
// as long as its text says.
func weigh(tb testing.TB, js jetstream.JetStream, s *scale, opts ...worker.HandlerOption) (stop func() error) {
	tb.Helper()
	length := func(text string) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil {
			return time.Second
		}
		return d
	}
	_, stop = start(tb, js, func(w *worker.Worker) {
		worker.Handle(w, func(ctx context.Context, n note) error {
			s.run(ctx, 1, length(n.Text))
			return nil
		})
		worker.Handle(w, func(ctx context.Context, o other) error {
			s.run(ctx, 3, length(o.Text))
			return nil
		}, append(opts, worker.Weight(3))...)
	}, worker.Serve(worker.Class{Name: task.Default, Slots: 4, RetrySlots: 4}))
	return stop
}

// A heavy task starts when its slots are free, as soon as that is so, and has them
// alone; those behind it do not pass it; and what is left of the slots is used.
func TestWeight(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		s := &scale{begin: time.Now()}
		stop := weigh(t, js, s)
		put := func(kind, id, text string) {
			publishTo(t, js, kind, id, text)
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		put("test.note", "a", "5s")
		put("test.note", "b", "10s")
		put("test.other", "heavy", "10s") // 5 s later a has ended, and 3 slots are free
		put("test.note", "c", "1s")
		put("test.note", "d", "1s")
		put("test.other", "heavier", "1s")
		put("test.note", "e", "1s")
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want := "a 0s, b 0s, heavy 5s, c 10s, d 11s, heavier 15s, e 15s"
		if got := s.started(); got != want {
			t.Errorf("starts: %s, want %s", got, want)
		}
		if s.most > 4 || s.done != 7 {
			t.Errorf("%d slots were taken at once and %d tasks are done, want at most 4 and all", s.most, s.done)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// Of many heavy and light tasks all run, none above the slots, and two processes
// share the heavy ones: neither holds what the other could run.
func TestWeightIsNotHoarded(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		for i := range 6 {
			publishTo(t, js, "test.other", fmt.Sprint("heavy", i), "10s")
		}
		a, b := &scale{begin: time.Now()}, &scale{begin: time.Now()}
		stopA, stopB := weigh(t, js, a), weigh(t, js, b)
		time.Sleep(35 * time.Second)
		if a, b := a.ended(), b.ended(); a != 3 || b != 3 {
			t.Errorf("of 6 tasks of 10s on two processes %d and %d are done after 30s, want 3 and 3", a, b)
		}
		for i := range 300 {
			kind := "test.note"
			if i%7 == 0 {
				kind = "test.other"
			}
			publishTo(t, js, kind, fmt.Sprint("mixed", i), "100ms")
		}
		time.Sleep(time.Minute)
		for _, stop := range []func() error{stopA, stopB} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		if done := a.done + b.done; done != 306 || a.most > 4 || b.most > 4 {
			t.Errorf("%d of 306 are done, with at most %d and %d slots at once, want all, and 4", done, a.most, b.most)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// In a lane with fewer slots than it weighs a task runs alone.
func TestWeightOfRetries(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		s := &scale{begin: time.Now()}
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ other) error {
				info, _ := task.FromContext(ctx)
				if info.Attempt == 0 {
					return errors.New("the first attempt fails")
				}
				s.run(ctx, 2, time.Second)
				return nil
			}, worker.Weight(4), worker.Retry(retry.Policy{Base: time.Second, Cap: time.Second}))
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 4, RetrySlots: 2}))
		for i := range 5 {
			publishTo(t, js, "test.other", strconv.Itoa(i), "")
		}
		time.Sleep(20 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if s.done != 5 || s.most != 2 {
			t.Errorf("%d retries are done, at most %d slots at once, want 5 and 2", s.done, s.most)
		}
	})
}

// A heavy task that waits for its slots is given back by a drain, at once.
func TestWeightDrains(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		s := &scale{begin: time.Now()}
		stop := weigh(t, js, s)
		for i := range 2 {
			publishTo(t, js, "test.note", fmt.Sprint("light", i), "5s")
			time.Sleep(10 * time.Millisecond)
		}
		publishTo(t, js, "test.other", "heavy", "5s")
		time.Sleep(time.Second)
		begin := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 5*time.Second || s.done != 2 {
			t.Errorf("the drain took %v with %d tasks done, want 5s for the two that ran", took, s.done)
		}
		waiting := all(t, js, "RETRY")
		if len(waiting) != 1 {
			t.Fatalf("%d tasks were given back, want the heavy one", len(waiting))
		}
		if st := state(t, "RETRY", waiting[0]); st.Reason != task.GaveBack || st.Attempt != 0 || st.Deaths != 0 {
			t.Errorf("it has reason %q, attempt %d and %d deaths, want given-back and nothing", st.Reason, st.Attempt, st.Deaths)
		}
	})
}

// A heavy task does not wait for a handler that was abandoned.
func TestWeightBesideLeakedSlot(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		s := &scale{begin: time.Now()}
		release := make(chan struct{})
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error {
				<-release
				return nil
			}, worker.Timeout(time.Second), worker.Retry(retry.Policy{Attempts: 1}))
			worker.Handle(w, func(ctx context.Context, _ other) error {
				s.run(ctx, 2, time.Second)
				return nil
			}, worker.Weight(2))
		}, worker.Serve(worker.Class{Name: task.Default, Slots: 2}))
		publish(t, js, "stuck", note{})
		time.Sleep(10 * time.Millisecond)
		publishTo(t, js, "test.other", "heavy", "")
		time.Sleep(20 * time.Second)
		if got := s.started(); got != "heavy 6s" {
			t.Errorf("starts: %s, want the heavy one once the other was abandoned, after 6s", got)
		}
		close(release)
		time.Sleep(time.Second)
		for i := range 3 {
			publishTo(t, js, "test.other", fmt.Sprint("after", i), "")
		}
		time.Sleep(20 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if s.done != 4 || s.most != 2 {
			t.Errorf("%d are done, at most %d slots at once, want 4 and 2", s.done, s.most)
		}
	})
}

// A heavy task with a cap holds neither its slots nor a permit while it waits for the
// other.
func TestWeightWithCap(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		a, b := &scale{begin: time.Now()}, &scale{begin: time.Now()}
		stopA, stopB := weigh(t, js, a, worker.Cap("db:main", 1)), weigh(t, js, b, worker.Cap("db:main", 1))
		for i := range 20 {
			publishTo(t, js, "test.other", fmt.Sprint("heavy", i), "1s")
			publishTo(t, js, "test.note", fmt.Sprint("light", i), "1s")
		}
		time.Sleep(2 * time.Minute)
		for _, stop := range []func() error{stopA, stopB} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		if done := a.done + b.done; done != 40 || a.most > 4+4 || b.most > 4+4 {
			t.Errorf("%d of 40 are done, with at most %d and %d slots of both lanes at once", done, a.most, b.most)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

func TestWeightMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opts []worker.HandlerOption
		want string
	}{
		{"nothing", []worker.HandlerOption{worker.Weight(0)}, "want 1 or more"},
		{"twice", []worker.HandlerOption{worker.Weight(1), worker.Weight(2)}, "given twice"},
		{"too much", []worker.HandlerOption{worker.Weight(5)}, "could never start"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, err := worker.New(natstest.JetStream(t), "test", worker.Serve(worker.Class{Name: task.Default, Slots: 4}))
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
