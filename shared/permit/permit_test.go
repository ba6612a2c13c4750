package permit_test

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/semaphore"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

var db = []string{"db:main"}

// process is one process of the service "test", until the test ends.
type process struct {
	*permit.Permits

	log strings.Builder // once it has ended
	end func()
}

func start(tb testing.TB, js jetstream.JetStream, caps ...permit.Cap) *process {
	tb.Helper()
	p := &process{}
	var err error
	if p.Permits, err = permit.New(js, permit.Config{Service: "test", Caps: caps, Most: 32, Log: slog.New(slog.NewTextHandler(&p.log, nil))}); err != nil {
		tb.Fatal(err)
	}
	p.end = natstest.Beside(tb, p.Run)
	return p
}

// take takes n permits at once, and returns those that it got.
func (p *process) take(n int, lose func()) []*permit.Permit {
	var mu sync.Mutex
	var out []*permit.Permit
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if t, _ := p.Take(db, lose); t != nil {
				mu.Lock()
				out = append(out, t)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}

func release(all []*permit.Permit) {
	for _, t := range all {
		t.Release()
	}
}

func never() {}

func apply(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if _, err := streams.Apply(tb.Context(), js, streams.Default()); err != nil {
		tb.Fatal(err)
	}
}

// recordOf is that of the one resource in the bucket.
func recordOf(tb testing.TB, js jetstream.JetStream) semaphore.Record {
	tb.Helper()
	var out semaphore.Record
	for r, err := range permit.List(tb.Context(), js) {
		if err != nil {
			tb.Fatal(err)
		}
		out = r
	}
	return out
}

// Two processes have no more permits than there are, and what one gives up the other
// has; afterwards nothing is left.
func TestShared(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		limit := permit.Cap{Resource: "db:main", Permits: 5}
		a, b := start(t, js, limit), start(t, js, limit)
		first := a.take(4, never)
		if len(first) != 4 {
			t.Fatalf("%d permits of 5, want 4", len(first))
		}
		second := b.take(4, never)
		if len(second) != 1 {
			t.Errorf("%d permits where 1 is left, want 1: %+v", len(second), recordOf(t, js))
		}
		if r := recordOf(t, js); r.Held() != 5 || r.Cap() != 5 || r.Resource != "db:main" {
			t.Errorf("record %+v, want 5 of 5 permits of db:main", r)
		}
		if got, delay := b.Take(db, never); got != nil || delay < 250*time.Millisecond || delay > 30250*time.Millisecond {
			t.Errorf("Take() when all are in use = %v, %v, want none, and a time to come again", got, delay)
		}
		release(first)
		time.Sleep(10 * time.Second)
		if more := b.take(4, never); len(more) != 4 {
			t.Errorf("%d permits after the other process gave up its own, want 4", len(more))
		} else {
			release(more)
		}
		release(second)
		release(second) // again, which does nothing
		a.end()
		b.end()
		if r := recordOf(t, js); len(r.Holders) > 0 {
			t.Errorf("record %+v after the end of all processes, want no holders", r)
		}
		for _, p := range []*process{a, b} {
			if p.log.Len() > 0 {
				t.Errorf("the log says %s, want nothing", p.log.String())
			}
		}
	})
}

// What was leased is used until the lease ends, and then lost, when the bucket is
// gone; nothing new is handed out; and when it is back, so are the permits. The log
// says what to do.
func TestWithoutBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a := start(t, js, permit.Cap{Resource: "db:main", Permits: 2})
		var lost atomic.Int32
		got := a.take(2, func() { lost.Add(1) })
		got[0].Release()
		if err := js.DeleteStream(t.Context(), "KV_LIMITS"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		again, _ := a.Take(db, never)
		if again == nil || lost.Load() != 0 {
			t.Errorf("Take() within the lease = %v, with %d permits lost, want one, and none", again, lost.Load())
		}
		again.Release()
		time.Sleep(10 * time.Second)
		if lost.Load() != 1 || !got[1].Lost() {
			t.Errorf("%d permits lost after the lease, want the one in use", lost.Load())
		}
		before := time.Now()
		if more, delay := a.Take(db, never); more != nil || time.Since(before) > 0 || delay > 5250*time.Millisecond {
			t.Errorf("Take() without the bucket = %v, %v after %v, want none at once, to come again within 5.25s", more, delay, time.Since(before))
		}
		apply(t, js)
		time.Sleep(3 * time.Second)
		more := a.take(2, never)
		if len(more) != 1 {
			t.Errorf("%d permits once the bucket is back, want 1: the other one's task has not ended", len(more))
		}
		release(more)
		release(got)
		a.end()
		for _, want := range []string{"drover streams apply", "permits can be leased again", "are cancelled"} {
			if n := strings.Count(a.log.String(), want); n != 1 {
				t.Errorf("the log says %q %d times, want once:\n%s", want, n, a.log.String())
			}
		}
	})
}

// A bucket that was never made, and a permission that lacks, are told at the start,
// before any task, with what to do.
func TestToldAtTheStart(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		a := start(t, js, permit.Cap{Resource: "db:main", Permits: 2})
		time.Sleep(time.Second)
		if err := a.Err(); !errors.Is(err, record.ErrNoBucket) {
			t.Errorf("Err() without a bucket = %v, want ErrNoBucket", err)
		}
		if got, _ := a.Take(db, never); got != nil {
			t.Error("Take() without a bucket gives a permit")
		}
		a.end()
		if n := strings.Count(a.log.String(), "drover streams apply"); n != 1 {
			t.Errorf("the log says what to do %d times, want once:\n%s", n, a.log.String())
		}
	})
}

func TestDenied(t *testing.T) {
	t.Parallel()
	js, admin := natstest.Restricted(t, server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{">"}, Deny: []string{"$KV.LIMITS.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	})
	apply(t, admin)
	a := start(t, js, permit.Cap{Resource: "db:main", Permits: 2})
	if got, _ := a.Take(db, never); got != nil {
		t.Error("Take() gives a permit that could not be written")
	}
	for a.Err() == nil && t.Context().Err() == nil { // the answer takes as long as a request may
		time.Sleep(10 * time.Millisecond)
	}
	if err := a.Err(); !errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), "$KV.LIMITS.cap.") {
		t.Errorf("Err() = %v, want ErrDenied and the subject", err)
	}
}

// When tasks are short the next one waits for one of them to end, and has its permit
// at once; no more wait than there are permits.
func TestSoon(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a := start(t, js, permit.Cap{Resource: "db:main", Permits: 2})
		for range 3 {
			got := a.take(2, never)
			time.Sleep(20 * time.Millisecond)
			release(got)
		}
		got := a.take(2, never)
		begin := time.Now()
		var waited []time.Duration
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				next, _ := a.Take(db, never)
				if next == nil {
					return
				}
				mu.Lock()
				waited = append(waited, time.Since(begin))
				mu.Unlock()
				next.Release()
			})
		}
		time.Sleep(20 * time.Millisecond)
		release(got)
		wg.Wait()
		if len(waited) != 2 || waited[0] != 20*time.Millisecond || waited[1] != 20*time.Millisecond {
			t.Errorf("of 5 tasks that found no permit these waited for one: %v, want 2 for 20ms", waited)
		}
	})
}

// Several resources are taken together or not at all.
func TestSeveral(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a := start(t, js, permit.Cap{Resource: "b", Permits: 1}, permit.Cap{Resource: "a", Permits: 2})
		both, _ := a.Take([]string{"b", "a"}, never)
		if none, _ := a.Take([]string{"a", "b"}, never); both == nil || none != nil {
			t.Fatalf("Take() = %v and then %v, want one and none", both, none)
		}
		if one, _ := a.Take([]string{"a"}, never); one == nil {
			t.Error("Take() of the other resource = nil: what was taken in vain was not given back")
		} else {
			one.Release()
		}
		both.Release()
	})
}

// The smaller of two caps holds, and the process with the larger one says so.
func TestDisagreement(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a, b := start(t, js, permit.Cap{Resource: "db:main", Permits: 10}), start(t, js, permit.Cap{Resource: "db:main", Permits: 2})
		one := b.take(1, never)
		if got := a.take(5, never); len(got) != 1 {
			t.Errorf("%d permits beside one of a process that knows a cap of 2, want 1", len(got))
		} else {
			release(got)
		}
		release(one)
		a.end()
		if !strings.Contains(a.log.String(), "the smaller one holds") {
			t.Errorf("the log says nothing about it:\n%s", a.log.String())
		}
	})
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	for _, caps := range [][]permit.Cap{
		{{Resource: "", Permits: 1}},
		{{Resource: strings.Repeat("a", 201), Permits: 1}},
		{{Resource: "a", Permits: 0}},
		{{Resource: "a", Permits: 1}, {Resource: "a", Permits: 2}},
	} {
		if _, err := permit.New(js, permit.Config{Caps: caps}); err == nil {
			t.Errorf("New(%+v) = nil, want an error", caps)
		}
	}
	for r, err := range permit.List(t.Context(), js) {
		if !errors.Is(err, record.ErrNoBucket) {
			t.Errorf("List() without a bucket = %v, %v, want ErrNoBucket", r, err)
		}
	}
	apply(t, js)
	if _, err := js.Publish(t.Context(), "$KV."+task.LimitsBucket+".cap.a", []byte("no")); err != nil {
		t.Fatal(err)
	}
	for r, err := range permit.List(t.Context(), js) {
		if err == nil {
			t.Errorf("List() of what cannot be read = %+v, want an error", r)
		}
	}
}

// A resource that nobody uses costs the broker nothing.
func TestIdle(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a := start(t, js, permit.Cap{Resource: "db:main", Permits: 2})
		release(a.take(1, never))
		time.Sleep(time.Minute)
		synctest.Wait()
		before := js.Conn().Stats()
		time.Sleep(time.Hour)
		if after := js.Conn().Stats(); after.OutMsgs != before.OutMsgs {
			t.Errorf("%d messages in an hour without a task, want none", after.OutMsgs-before.OutMsgs)
		}
		a.end()
	})
}

// What a task pays that finds a permit.
func BenchmarkTake(b *testing.B) {
	js := natstest.JetStream(b)
	apply(b, js)
	p := start(b, js, permit.Cap{Resource: "db:main", Permits: 40})
	b.ReportAllocs()
	for b.Loop() {
		t, _ := p.Take(db, never)
		if t == nil {
			b.Fatal("no permit")
		}
		t.Release()
	}
}
