package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/record"
)

// stopped are the durables that the broker has paused.
func stopped(tb testing.TB, js jetstream.JetStream, durables []fleet.Durable) []string {
	tb.Helper()
	out := []string{}
	for _, d := range durables {
		c, err := js.Consumer(tb.Context(), d.Stream, d.Name)
		if err != nil {
			tb.Fatal(err)
		}
		if c.CachedInfo().Paused {
			out = append(out, d.Stream+"/"+d.Name)
		}
	}
	return out
}

// The scopes are the caller's choice of durables: a class, a service, one class of
// one service. Each share has its record.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	all := topology(t, js)
	only := func(keep func(fleet.Durable) bool) []fleet.Durable {
		return slices.DeleteFunc(slices.Clone(all), func(d fleet.Durable) bool { return !keep(d) })
	}
	until := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		name   string
		of     []fleet.Durable
		shares []string
		stop   []string
	}{
		{
			"class", only(func(d fleet.Durable) bool { return d.Class == "slow" }),
			[]string{"slow/email", "slow/pdf"},
			[]string{"TASKS_SLOW/email", "RETRY/slow-email", "TASKS_SLOW/pdf", "RETRY/slow-pdf"},
		},
		{
			"service", only(func(d fleet.Durable) bool { return d.Service == "email" }),
			[]string{"urgent/email", "slow/email"},
			[]string{"TASKS_URGENT/email", "RETRY/urgent-email", "TASKS_SLOW/email", "RETRY/slow-email"},
		},
		{
			"one share", only(func(d fleet.Durable) bool { return d.Service == "email" && d.Class == "urgent" }),
			[]string{"urgent/email"},
			[]string{"TASKS_URGENT/email", "RETRY/urgent-email"},
		},
	} { // one after the other: they share the fleet
		paused, err := fleet.Pause(t.Context(), js, tt.of, fleet.Record{Until: until, Reason: "the provider is down", By: "ada"})
		if err != nil {
			t.Fatalf("%s: Pause() = %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.stop, stopped(t, js, all)); diff != "" {
			t.Errorf("%s: paused (-want +got):\n%s", tt.name, diff)
		}
		known, err := fleet.Records(t.Context(), js)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(paused, known); diff != "" {
			t.Errorf("%s: Records (-returned +known):\n%s", tt.name, diff)
		}
		var shares []string
		for _, r := range known {
			shares = append(shares, string(r.Class)+"/"+r.Service)
			if r.Reason != "the provider is down" || r.By != "ada" || r.Until.Before(until) || r.Until.After(until.Add(time.Second)) || !r.Explains(r.Until) || time.Since(r.At) > time.Minute {
				t.Errorf("%s: the record is %+v", tt.name, r)
			}
		}
		if diff := cmp.Diff(tt.shares, shares); diff != "" {
			t.Errorf("%s: shares with a record (-want +got):\n%s", tt.name, diff)
		}
		resumed, err := fleet.Resume(t.Context(), js, all, "bob")
		if diff := cmp.Diff(paused, resumed); diff != "" || err != nil {
			t.Errorf("%s: Resume() = %v; (-paused +resumed):\n%s", tt.name, err, diff)
		}
		if got := stopped(t, js, all); len(got) > 0 {
			t.Errorf("%s: %v are still paused", tt.name, got)
		}
		if again, err := fleet.Resume(t.Context(), js, all, "bob"); len(again) > 0 || err != nil {
			t.Errorf("%s: Resume() of what runs = %v, %v, want nothing", tt.name, again, err)
		}
	}
	var trail []string
	for e, err := range audit.List(t.Context(), js, audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		trail = append(trail, fmt.Sprint(e.Verb, " ", e.Phase, " by ", e.By, " of ", e.Targets, ": ", e.Reason, " ", e.Counts))
	}
	wantTrail := []string{
		"pause intent by ada of [slow/email slow/pdf]: the provider is down map[]",
		"pause outcome by ada of [slow/email slow/pdf]: the provider is down map[paused:2]",
		"resume intent by bob of [urgent/email slow/email slow/pdf]:  map[]",
		"resume outcome by bob of [urgent/email slow/email slow/pdf]:  map[resumed:2]",
	}
	if diff := cmp.Diff(wantTrail, trail[:min(4, len(trail))]); diff != "" || len(trail) != 3*6 {
		t.Errorf("%d entries in the trail, want 18; the first (-want +got):\n%s", len(trail), diff)
	}
}

// Pausing again replaces the end, and at the end the broker goes on by itself.
func TestPauseEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		all := topology(t, js)
		begun := time.Now()
		for _, d := range []time.Duration{5 * time.Hour, time.Hour} {
			if _, err := fleet.Pause(t.Context(), js, all[:2], fleet.Record{Until: begun.Add(d)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour - time.Minute)
		if got := len(stopped(t, js, all)); got != 2 {
			t.Errorf("%d durables are paused before the end, want 2", got)
		}
		time.Sleep(2 * time.Minute)
		if got := stopped(t, js, all); len(got) != 0 {
			t.Errorf("%v are paused after the end", got)
		}
		time.Sleep(10 * time.Minute)
		if n := messages(t, js); n != 0 {
			t.Errorf("the bucket still holds %d messages", n)
		}
	})
}

// A task whose worker dies during a pause waits for its end, and one that is settled
// meanwhile is settled.
func TestPauseKeepsWhatIsInFlight(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		all := topology(t, js)
		for range 2 {
			if _, err := js.Publish(t.Context(), "tasks.urgent.email.send", nil); err != nil {
				t.Fatal(err)
			}
		}
		c, err := js.Consumer(t.Context(), "TASKS_URGENT", "email")
		if err != nil {
			t.Fatal(err)
		}
		take := func(n int) (out []jetstream.Msg) {
			batch, err := c.Fetch(n, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				out = append(out, m)
			}
			return out
		}
		held := take(2)
		if _, err := fleet.Pause(t.Context(), js, all[:2], fleet.Record{Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if err := held[0].DoubleAck(t.Context()); err != nil {
			t.Errorf("acknowledging during a pause: %v", err)
		}
		time.Sleep(time.Minute) // thirty times ack-wait
		if again := take(2); len(again) != 0 {
			t.Errorf("%d tasks are handed out during the pause, want none", len(again))
		}
		if _, err := fleet.Resume(t.Context(), js, all[:2], ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		again := take(2)
		if len(again) != 1 {
			t.Fatalf("%d tasks are handed out after the pause, want the one that was not settled", len(again))
		}
		if m, err := again[0].Metadata(); err != nil || m.NumDelivered != 2 {
			t.Errorf("it is delivered for the time %d, %v; want the second", m.NumDelivered, err)
		}
	})
}

// A pause that fails in the middle is a record without a pause, not a pause
// without a record, and the rest is paused all the same.
func TestPauseFails(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	all := topology(t, js)
	if err := js.DeleteConsumer(t.Context(), "TASKS_URGENT", "email"); err != nil {
		t.Fatal(err)
	}
	r := fleet.Record{Until: time.Now().Add(time.Hour)}
	paused, err := fleet.Pause(t.Context(), js, all, r)
	if !errors.Is(err, jetstream.ErrConsumerNotFound) || !strings.Contains(err.Error(), "pause urgent/email: email of TASKS_URGENT: ") {
		t.Errorf("Pause() = %v, want that it names the consumer that is missing", err)
	}
	if len(paused) != 2 || paused[0].Class != "slow" || paused[1].Service != "pdf" {
		t.Errorf("Pause() = %+v, want the shares that could be paused", paused)
	}
	if known, err := fleet.Records(t.Context(), js); len(known) != 3 || err != nil {
		t.Errorf("Records() = %+v, %v, want one of each share", known, err)
	}
	if _, err := fleet.Pause(t.Context(), js, all, fleet.Record{Until: time.Now().Add(-time.Second)}); err == nil {
		t.Error("Pause() until a moment ago = nil, want an error")
	}
	if _, err := fleet.Pause(t.Context(), js, []fleet.Durable{{Class: "a b", Service: "c"}}, r); err == nil {
		t.Error("Pause() of a class that is none = nil, want an error")
	}
	if err := js.DeleteKeyValue(t.Context(), "FLEET"); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.Pause(t.Context(), js, all[2:4], r); !errors.Is(err, record.ErrNoBucket) {
		t.Errorf("Pause() without the bucket = %v, want %v", err, record.ErrNoBucket)
	}
	if got := stopped(t, js, all[4:]); len(got) != 2 {
		t.Errorf("%v are paused, want the ones of before", got)
	}
}

func TestPauseIsDenied(t *testing.T) {
	t.Parallel()
	user, admin := restricted(t, "audit.>", "$KV.FLEET.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.STREAM.INFO.>")
	all := topology(t, admin)
	_, err := fleet.Pause(t.Context(), user, all[:1], fleet.Record{Until: time.Now().Add(time.Hour)})
	if !errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), "CONSUMER.PAUSE.TASKS_URGENT.email") {
		t.Errorf("Pause() = %v, want %v with the subject", err, broker.ErrDenied)
	}
}
