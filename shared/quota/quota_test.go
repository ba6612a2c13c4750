package quota_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/streams"
)

// 100 in 100 s: slots are 1.02 s apart and good for 2 s.
var policy = ratelimit.Policy{Limit: 100, Per: 100 * time.Second}

// process is one process of the service "test", until the test ends.
type process struct {
	*quota.Quotas

	log strings.Builder // once it has ended
	end func()
}

func start(tb testing.TB, js jetstream.JetStream) *process {
	tb.Helper()
	p := &process{}
	var err error
	if p.Quotas, err = quota.New(js, "test", slog.New(slog.NewTextHandler(&p.log, nil)), nil); err != nil {
		tb.Fatal(err)
	}
	p.end = natstest.Beside(tb, p.Run)
	return p
}

func apply(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if _, err := streams.Apply(tb.Context(), js, streams.Default()); err != nil {
		tb.Fatal(err)
	}
}

func list(tb testing.TB, js jetstream.JetStream) []quota.Entry {
	tb.Helper()
	var out []quota.Entry
	for e, err := range quota.List(tb.Context(), js, "") {
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// What tasks are told, to the millisecond: those that find slots go, then one may
// wait for the next, and the others are put in line; who comes back goes first.
func TestTake(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a, b := start(t, js), start(t, js)
		time.Sleep(time.Second)
		begin := time.Now()
		for _, tt := range []struct {
			name string
			p    *process
			at   time.Duration
			wait time.Duration
			back bool
			want string
		}{
			{"the first", a, 0, 0, false, "goes at 0s until 50ms"},
			{"in the slack", b, 0, 0, false, "goes at 0s until 1.07s"},
			{"none left", a, 0, 0, false, "comes back in 250ms"},
			{"behind it", b, 0, 0, false, "comes back in 1.177s"},
			{"does not pass who is in line", a, 100 * time.Millisecond, quota.Patience, false, "comes back in 2.005s"},
			{"whose turn it is", a, 250 * time.Millisecond, quota.Patience, true, "goes at 250ms until 2.09s"},
			{"too early", b, 500 * time.Millisecond, quota.Patience, true, "comes back in 2.532s"},
			{"late enough", b, 1331 * time.Millisecond, 0, true, "goes at 1.331s until 3.11s"},
			{"when the line is empty", a, 10 * time.Second, 0, false, "goes at 10s until 10.049s"},
		} {
			time.Sleep(tt.at - time.Since(begin))
			got := "goes"
			answer := tt.p.Take(quota.Ask{Policy: policy, Key: "acme", Back: tt.back, Wait: tt.wait})
			if answer.Admitted {
				got += fmt.Sprintf(" at %v until %v", time.Since(begin), answer.Until.Sub(begin).Round(time.Millisecond))
			} else {
				got = fmt.Sprintf("comes back in %v", answer.Delay.Round(time.Millisecond))
			}
			if got != tt.want {
				t.Errorf("%s: %s, want: %s", tt.name, got, tt.want)
			}
		}
		if other := a.Take(quota.Ask{Policy: policy, Key: "other"}); !other.Admitted {
			t.Errorf("another key: %+v, want it to go", other)
		}
		var got []string
		for _, e := range list(t, js) {
			got = append(got, fmt.Sprintf("%s %s %d per %v, %d wait", e.Service, e.Key, e.Limit, e.Per, e.Waiting(time.Now())))
		}
		if diff := cmp.Diff([]string{"test acme 100 per 1m40s, 0 wait", "test other 100 per 1m40s, 0 wait"}, got); diff != "" {
			t.Errorf("List() (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		if all := list(t, js); len(all) > 0 {
			t.Errorf("List() = %+v after a minute, want nothing", all)
		}
	})
}

// Without the bucket nothing starts, and the log says once what to do; when it is
// there, all is well by itself.
func TestWithoutBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		a := start(t, js)
		time.Sleep(time.Second)
		var last time.Duration
		for i := range 1000 {
			answer := a.Take(quota.Ask{Policy: policy, Key: "acme", Wait: quota.Patience})
			if answer.Admitted || answer.Delay < 5*time.Second || i > 0 && answer.Delay-last < 900*time.Millisecond {
				t.Fatalf("Take() %d without a bucket = %+v after one of %v, want a later time", i, answer, last)
			}
			last = answer.Delay
		}
		if err := a.Err(); !errors.Is(err, record.ErrNoBucket) || !strings.Contains(err.Error(), "drover streams apply") {
			t.Errorf("Err() = %v, want ErrNoBucket and what to do", err)
		}
		apply(t, js)
		time.Sleep(3 * time.Second)
		if err := a.Err(); err != nil {
			t.Errorf("Err() = %v once there is a bucket", err)
		}
		if answer := a.Take(quota.Ask{Policy: policy, Key: "acme"}); !answer.Admitted {
			t.Errorf("Take() with the bucket = %+v, want it to go", answer)
		}
		if err := js.DeleteStream(t.Context(), "KV_LIMITS"); err != nil {
			t.Fatal(err)
		}
		n := admitted(a, 20)
		apply(t, js)
		time.Sleep(3 * time.Second) // two slots
		if n += admitted(a, 20); n > 5 {
			t.Errorf("%d tasks went through around a bucket that was made anew, want at most 5", n)
		}
		a.end()
		if n := strings.Count(a.log.String(), "drover streams apply"); n > 2 {
			t.Errorf("the log says %d times what to do, want once for each time:\n%s", n, a.log.String())
		}
	})
}

// admitted asks n times, and counts who may go.
func admitted(p *process, n int) (yes int) {
	for range n {
		if p.Take(quota.Ask{Policy: policy, Key: "acme"}).Admitted {
			yes++
		}
	}
	return yes
}

// Who may not write the bucket starts nothing, and says what is missing.
func TestDenied(t *testing.T) {
	t.Parallel()
	user, admin := natstest.Restricted(t, server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.>"}}})
	apply(t, admin)
	a := start(t, user)
	if answer := a.Take(quota.Ask{Policy: policy, Key: "acme"}); answer.Admitted {
		t.Errorf("Take() without a permission = %+v", answer)
	}
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(a.Err(), broker.ErrDenied); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.end()
			t.Fatalf("Err() = %v, want ErrDenied\n%s", a.Err(), a.log.String())
		}
	}
	for e, err := range quota.List(t.Context(), natstest.JetStream(t), "") {
		if !errors.Is(err, record.ErrNoBucket) {
			t.Errorf("List() without a bucket = %v, %v, want ErrNoBucket", e, err)
		}
	}
}

// Many tasks of many processes ask at once: every one is answered, and those that
// go are within the limit.
func TestCrowd(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js)
	p := ratelimit.Policy{Limit: 200, Per: time.Second} // 190 a second
	var fleet []*process
	for range 3 {
		fleet = append(fleet, start(t, js))
	}
	var mu sync.Mutex
	var at []time.Time
	var wg sync.WaitGroup
	end := time.Now().Add(2500 * time.Millisecond)
	for i := range 60 {
		wg.Go(func() {
			for time.Now().Before(end) {
				answer := fleet[i%3].Take(quota.Ask{Policy: p, Key: "acme", Back: i < 30, Wait: quota.Patience})
				now := time.Now()
				switch {
				case !answer.Admitted:
					time.Sleep(min(answer.Delay, 50*time.Millisecond))
				case !answer.Late(now):
					mu.Lock()
					at = append(at, now)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	most := 0
	for _, from := range at {
		n := 0
		for _, t := range at {
			if since := t.Sub(from); since >= 0 && since < p.Per {
				n++
			}
		}
		most = max(most, n)
	}
	t.Logf("%d went in 2.5 s, at most %d in a second", len(at), most)
	if most > p.Limit || len(at) < 300 {
		t.Errorf("%d went in 2.5 s, %d of them in one; want 300 and at most %d", len(at), most, p.Limit)
	}
}

// What a task of a busy key pays while the limit is far.
func BenchmarkWell(b *testing.B) {
	js := natstest.JetStream(b)
	apply(b, js)
	q := start(b, js)
	b.ReportAllocs()
	no := 0
	for b.Loop() {
		if !q.Take(quota.Ask{Policy: ratelimit.Policy{Limit: 1_000_000, Per: time.Second}, Key: "acme", Wait: quota.Patience}).Admitted {
			no++
		}
	}
	b.ReportMetric(float64(no), "refused")
}
