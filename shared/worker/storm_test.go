package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// storm is how many tasks fail: here, or all of them.
func storm(here, all int) int {
	if *whole {
		return all
	}
	return here
}

// provider is somebody's server that is down.
type provider struct {
	mu    sync.Mutex
	up    bool
	calls []time.Time
	done  int
	live  starts
}

func (p *provider) handle(_ context.Context, n note) error {
	if n.Text == "live" {
		p.live.add(int64(n.N))
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, time.Now())
	if !p.up {
		return errors.New("the provider is down")
	}
	p.done++
	return nil
}

func (p *provider) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = true
}

func (p *provider) finished() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

func (p *provider) called() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// messages counts what a stream holds.
func messages(tb testing.TB, js jetstream.JetStream, stream string) int {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// Thousands of tasks of a provider that is down wait in RETRY, or behind its open
// breaker: live tasks of the same kind start with p99 under 100 ms from then on,
// while it is down and while the others come back.
func TestOutage(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []worker.HandlerOption
	}{
		{name: "in RETRY"},
		{name: "behind a breaker", opts: []worker.HandlerOption{worker.Breaker(breaker.Policy{Open: time.Second, Spread: time.Second}, host)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			js := natstest.JetStream(t) // not parallel: it measures
			topology(t, js, 30*time.Second)
			failed := storm(500, 5000)
			p := &provider{}
			_, stop := start(t, js, func(w *worker.Worker) {
				worker.Handle(w, p.handle, append(tt.opts, worker.Retry(retry.Policy{Base: 3 * time.Second, Cap: 3 * time.Second}))...)
			})
			for i := range failed {
				publish(t, js, strconv.Itoa(i), note{Text: "A"})
			}
			until(t, 30*time.Second, "all of them wait", func() bool { return messages(t, js, "TASKS_DEFAULT") == 0 })
			live := storm(100, 300)
			during := func(when string) {
				p.live.mu.Lock()
				p.live.waits = nil
				p.live.mu.Unlock()
				for i := range live {
					send(t, js, task.Default, fmt.Sprint(when, i))
					time.Sleep(10 * time.Millisecond)
				}
				until(t, 10*time.Second, "live tasks start", func() bool { return p.live.len() == live })
				t.Logf("%d live starts %s: p50 %v, p99 %v, longest %v; %d calls, %d done",
					live, when, p.live.quantile(.5), p.live.quantile(.99), p.live.quantile(1), len(p.called()), p.finished())
				gate := 100 * time.Millisecond
				if !*whole {
					gate *= noisy
				}
				if p99 := p.live.quantile(.99); p99 > gate {
					t.Errorf("p99 of live starts %s is %v, want at most %v", when, p99, gate)
				}
			}
			during("while it is down")
			p.mend()
			during("while the others come back")
			until(t, 30*time.Second, "all are done or dead", func() bool { return p.finished()+messages(t, js, "DEAD") == failed })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			empty(t, js, "TASKS_DEFAULT", "RETRY")
		})
	}
}

// Tasks that fail in one instant come back spread over their backoff, and not in one.
func TestStormIsSpread(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		tasks, base := storm(1000, 10_000), 10*time.Second
		var mu sync.Mutex
		var failed, back []time.Time
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				mu.Lock()
				defer mu.Unlock()
				if info, _ := task.FromContext(ctx); info.Attempt == 0 {
					failed = append(failed, time.Now())
					return errors.New("the provider is down")
				}
				back = append(back, time.Now())
				return nil
			}, worker.Retry(retry.Policy{Base: base, Cap: base}))
		})
		for i := range tasks {
			publish(t, js, strconv.Itoa(i), note{})
		}
		time.Sleep(2 * base)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(failed) != tasks || len(back) != tasks {
			t.Fatalf("%d failed and %d came back, want %d", len(failed), len(back), tasks)
		}
		if took := failed[tasks-1].Sub(failed[0]); took > time.Second {
			t.Fatalf("they failed within %v, want one instant", took)
		}
		flat(t, back, base)
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// An API that stays dead for half an hour is called by the probes of one process of
// three, three times in five minutes, and it recovers by itself.
func TestBreakerQuota(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		tasks, p, policy := storm(300, 3000), &provider{}, breaker.Policy{}.WithDefaults()
		var stops []func() error
		for range 3 {
			_, stop := start(t, js, func(w *worker.Worker) {
				worker.Handle(w, p.handle, worker.Breaker(breaker.Policy{}, host), worker.Retry(retry.Policy{Base: time.Second, Cap: time.Second}))
			}, worker.Serve(worker.Class{Name: task.Default, Slots: 4, RetrySlots: 4}))
			stops = append(stops, stop)
		}
		for i := range tasks {
			publish(t, js, strconv.Itoa(i), note{Text: "dead"})
		}
		time.Sleep(time.Second)
		opened := len(p.called())
		if most := policy.Failures + 3*2*4; opened < policy.Failures || opened > most {
			t.Errorf("%d calls until it is open, want %d, and what is in flight", opened, policy.Failures)
		}
		time.Sleep(30 * time.Minute)
		p.mend()
		probes := p.called()[opened:]
		t.Logf("%d calls until it is open, and %d in half an hour", opened, len(probes))
		if len(probes) < 4 {
			t.Errorf("%d probes in half an hour, want one or more every six minutes", len(probes))
		}
		for i := policy.Probes; i < len(probes); i++ {
			if within := probes[i].Sub(probes[i-policy.Probes]); within < policy.Open {
				t.Errorf("%d calls within %v, want at most %d in %v", policy.Probes+1, within, policy.Probes, policy.Open)
			}
		}
		time.Sleep(10 * time.Minute)
		for _, stop := range stops {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		if n := p.finished(); n != tasks {
			t.Errorf("%d of %d tasks are done once it recovered", n, tasks)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}
