package fleet_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// names are the instances that are listed, in their order.
func names(tb testing.TB, js jetstream.JetStream, service string) []string {
	tb.Helper()
	var out []string
	for p, err := range fleet.Processes(tb.Context(), js, service) {
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, p.Instance)
	}
	return out
}

func want(tb testing.TB, js jetstream.JetStream, when string, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(want, names(tb, js, "")); diff != "" {
		tb.Errorf("%s, Processes (-want +got):\n%s", when, diff)
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	want(t, js, "with none")
	p := fleet.Process{
		Service: "email", Instance: "A", Version: "v1.2.3", Host: "web1", PID: 7, Started: time.Unix(1700000000, 0).UTC(),
		Pool: "all", Settled: 12, Draining: true, NotReady: "it drains",
		Lanes:    []fleet.Lane{{Class: "urgent", Slots: 4, Running: 1, Held: 2, Leaked: 1}},
		Busy:     []fleet.Busy{{Kind: "email.send", Running: 1, Longest: 1.5}},
		Confined: &fleet.Confined{Memory: "cgroup", Processes: "cgroup"},
		Isolated: []fleet.Isolated{{Kind: "email.send", OOM: 1, Killed: 2, Died: 3}},
	}
	for _, put := range []fleet.Process{p, {Service: "pdf", Instance: "B"}, {Service: "email", Instance: "C"}} {
		if err := fleet.Put(t.Context(), js, put); err != nil {
			t.Fatal(err)
		}
	}
	want(t, js, "with three", "A", "B", "C")
	if diff := cmp.Diff([]string{"A", "C"}, names(t, js, "email")); diff != "" {
		t.Errorf("Processes(email) (-want +got):\n%s", diff)
	}
	for got, err := range fleet.Processes(t.Context(), js, "email") {
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(got.At); age < 0 || age > time.Minute {
			t.Errorf("At is %v ago, want now", age)
		}
		got.At = time.Time{}
		if diff := cmp.Diff(p, got); diff != "" {
			t.Errorf("the entry (-put +listed):\n%s", diff)
		}
		break
	}
	if err := fleet.Remove(t.Context(), js, "email", "A"); err != nil {
		t.Fatal(err)
	}
	want(t, js, "after A is removed", "B", "C")
	if err := fleet.Put(t.Context(), js, fleet.Process{Service: "email", Instance: "A"}); err != nil {
		t.Fatal(err)
	}
	want(t, js, "after A is back", "B", "C", "A")
	if err := fleet.Put(t.Context(), js, fleet.Process{Service: "email", Instance: "not.a.token"}); err == nil {
		t.Error("Put(not.a.token) = nil, want an error")
	}
}

// An entry that is not one of ours is an error in its place.
func TestProcessesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	if _, err := js.Publish(t.Context(), "$KV.FLEET.process.email.X", []byte("?")); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Put(t.Context(), js, fleet.Process{Service: "email", Instance: "A"}); err != nil {
		t.Fatal(err)
	}
	var all []string
	bad := 0
	for p, err := range fleet.Processes(t.Context(), js, "") {
		if err != nil {
			bad++
			continue
		}
		all = append(all, p.Instance)
	}
	if diff := cmp.Diff([]string{"A"}, all); diff != "" || bad != 1 {
		t.Errorf("%d errors, want 1; processes (-want +got):\n%s", bad, diff)
	}
}

// A process that lives stays listed for hours, one that ends well is gone at
// once, one that is killed within the time to live, and nothing is left behind.
func TestAnnounce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js)
		announce := func(instance string, changed <-chan struct{}) (end func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			n := int64(0)
			wg.Go(func() {
				err := fleet.Announce(ctx, js, fleet.Announcement{
					Self: func() fleet.Process {
						n++
						return fleet.Process{Service: "email", Instance: instance, Settled: n}
					},
					Changed: changed,
					Trouble: func(err error) { t.Errorf("trouble of %s: %v", instance, err) },
				})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			return func() { cancel(); wg.Wait() }
		}
		changed := make(chan struct{})
		end := announce("A", changed)
		time.Sleep(time.Second)
		if err := fleet.Put(t.Context(), js, fleet.Process{Service: "email", Instance: "killed"}); err != nil {
			t.Fatal(err)
		}
		want(t, js, "at first", "A", "killed")
		changed <- struct{}{}
		synctest.Wait()
		want(t, js, "after a change", "killed", "A")
		time.Sleep(fleet.AnnounceTTL - 2*time.Second)
		if got := len(names(t, js, "")); got != 2 {
			t.Errorf("%d processes within the time to live, want 2", got)
		}
		time.Sleep(4 * time.Second)
		want(t, js, "after the time to live", "A")
		time.Sleep(3 * time.Hour)
		want(t, js, "after hours", "A")
		for p := range fleet.Processes(t.Context(), js, "") {
			if least, most := int64(3*360*0.8), int64(3*360*1.25); p.Settled < least || p.Settled > most {
				t.Errorf("written %d times in 3 h, want every 10 s, give or take", p.Settled)
			}
		}
		end()
		want(t, js, "after the end")
		time.Sleep(5 * time.Minute)
		if n := messages(t, js); n != 0 {
			t.Errorf("the bucket still holds %d messages", n)
		}
	})
}

// A bucket that is missing is told once, and once more when it is there.
func TestAnnounceGoesOn(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var said []error
		wg.Go(func() {
			_ = fleet.Announce(ctx, js, fleet.Announcement{
				Self:    func() fleet.Process { return fleet.Process{Service: "email", Instance: "A"} },
				Trouble: func(err error) { said = append(said, err) },
			})
		})
		time.Sleep(time.Minute)
		topology(t, js)
		time.Sleep(time.Minute)
		want(t, js, "with the bucket", "A")
		cancel()
		wg.Wait()
		if len(said) != 2 || !errors.Is(said[0], record.ErrNoBucket) || said[1] != nil {
			t.Errorf("Trouble was told %v, want ErrNoBucket and nil", said)
		}
	})
}

func TestDenied(t *testing.T) {
	t.Parallel()
	const process = "$KV.FLEET.process.email.>"
	user, admin := restricted(t, process)
	if err := fleet.Put(t.Context(), user, fleet.Process{Service: "email", Instance: "A"}); err != nil {
		t.Errorf("Put with %s = %v, want that to be enough", process, err)
	}
	want(t, admin, "written with one permission", "A")
	err := fleet.Put(t.Context(), user, fleet.Process{Service: "pdf", Instance: "B"})
	const says = "announce pdf B: the broker does not allow it: these credentials lack permission to publish to \"$KV.FLEET.process.pdf.B\": grant it"
	if !errors.Is(err, broker.ErrDenied) || !strings.HasPrefix(err.Error(), says) {
		t.Errorf("Put of another service = %v, want %s", err, says)
	}
}

// These permissions are all that a service's process needs here.
func TestPermissionsOfAService(t *testing.T) {
	t.Parallel()
	user, admin := restricted(t, "$KV.FLEET.process.email.*", "$KV.FLEET.recycle.email",
		"$JS.API.STREAM.INFO.KV_FLEET", "$JS.API.DIRECT.GET.KV_FLEET.$KV.FLEET.recycle.email")
	if err := fleet.Put(t.Context(), user, fleet.Process{Service: "email", Instance: "A"}); err != nil {
		t.Fatal(err)
	}
	want(t, admin, "listed", "A")
	if err := fleet.Remove(t.Context(), user, "email", "A"); err != nil {
		t.Fatal(err)
	}
	want(t, admin, "removed")
	for range 2 { // the second time there is a marker of the first
		turn, err := fleet.TakeTurn(t.Context(), user, "email", "A", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fleet.TakeTurn(t.Context(), user, "email", "B", time.Minute); !errors.Is(err, fleet.ErrTaken) {
			t.Errorf("TakeTurn() = %v, want %v", err, fleet.ErrTaken)
		}
		if err := turn.GiveBack(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fleet.TakeTurn(t.Context(), user, "pdf", "A", time.Minute); !errors.Is(err, broker.ErrDenied) {
		t.Errorf("TakeTurn() of another service = %v, want %v", err, broker.ErrDenied)
	}
}

// An entry that the broker did not remove when its time was over is no process.
func TestProcessBroughtBack(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js)
		if _, err := js.Publish(t.Context(), "$KV."+task.FleetBucket+".process.email.A", []byte(`{"service":"email","instance":"A"}`)); err != nil { // without a time to live
			t.Fatal(err)
		}
		want(t, js, "before it is old", "A")
		time.Sleep(6 * time.Minute)
		if err := fleet.Put(t.Context(), js, fleet.Process{Service: "email", Instance: "B"}); err != nil {
			t.Fatal(err)
		}
		want(t, js, "after six minutes", "B")
	})
}
