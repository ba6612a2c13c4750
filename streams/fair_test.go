package streams_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

func fairFleet() *streams.Fleet { return with(func(f *streams.Fleet) { f.Classes[0].Partitions = 8 }) }

// settleAll takes and settles n tasks that the durables of a class have, or more if
// there are more, and returns the subjects, sorted. None is to be handed out twice.
func settleAll(tb testing.TB, js jetstream.JetStream, f *streams.Fleet, n int) (subjects []string) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); len(subjects) < n && time.Now().Before(end); { // a durable hears of what is stored a little later
		subjects = append(subjects, settleOnce(tb, js, f)...)
	}
	subjects = append(subjects, settleOnce(tb, js, f)...)
	slices.Sort(subjects)
	return subjects
}

func settleOnce(tb testing.TB, js jetstream.JetStream, f *streams.Fleet) (subjects []string) {
	tb.Helper()
	for _, c := range f.Topology().Consumers {
		if c.Retry {
			continue
		}
		consumer, err := js.Consumer(tb.Context(), c.Stream, c.Config.Durable)
		if err != nil {
			tb.Fatal(err)
		}
		batch, err := consumer.FetchNoWait(100)
		if err != nil {
			tb.Fatal(err)
		}
		for m := range batch.Messages() {
			if err := m.DoubleAck(tb.Context()); err != nil {
				tb.Fatal(err)
			}
			subjects = append(subjects, m.Subject())
		}
	}
	return subjects
}

// A class is made fair with a backlog, and with a task in a worker's hands: what was
// there is handed out as before, what comes afterwards by partition, all of it once,
// and nothing is left.
func TestMadeFair(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	for _, s := range []string{"send", "send.acme", "send", "send.umbrella", "send.3"} {
		publish(t, js, "tasks.urgent.email."+s, 1)
	}
	take(t, js, "TASKS_URGENT", "email", 5*time.Second)
	held := take(t, js, "TASKS_URGENT", "email", 5*time.Second)
	if held.Subject() != "tasks.urgent.email.send.acme" {
		t.Fatalf("%s is held", held.Subject())
	}
	if err := streams.Check(t.Context(), js, fairFleet(), "email"); !errors.Is(err, streams.ErrDrift) || !strings.Contains(err.Error(), "drover streams apply") {
		t.Errorf("Check before it is applied = %v, want what differs and what to do", err)
	}
	var got []string
	for _, c := range apply(t, js, fairFleet()) {
		got = append(got, string(c.Action)+" "+c.Object)
		if c.Object == "stream TASKS_URGENT" && !strings.Contains(c.Note, "wait for workers that know of partitions") {
			t.Errorf("it says of the stream %q", c.Note)
		}
	}
	want := []string{"update consumer TASKS_URGENT/email", "update stream TASKS_URGENT"} // in this order
	for n := range 8 {
		want = append(want, "create consumer TASKS_URGENT/"+task.PartitionConsumer("email", n))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Apply (-want +got):\n%s", d)
	}
	if again := apply(t, js, fairFleet()); len(again) > 0 {
		t.Errorf("a second Apply changes %v", again)
	}
	if err := streams.Check(t.Context(), js, fairFleet(), "email"); err != nil {
		t.Errorf("Check = %v", err)
	}
	for _, s := range []string{"send", "send.acme", "send.umbrella"} {
		publish(t, js, "tasks.urgent.email."+s, 1)
	}
	if err := held.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The one that is held without a word comes back after ack-wait, to its durable.
	if d := cmp.Diff([]string{
		"tasks.urgent.email.send", "tasks.urgent.email.send", "tasks.urgent.email.send.3",
		"tasks.urgent.email.send.acme.7", "tasks.urgent.email.send.umbrella", "tasks.urgent.email.send.umbrella.5",
	}, settleAll(t, js, fairFleet(), 6)); d != "" {
		t.Errorf("handed out (-want +got):\n%s", d)
	}
	s, err := js.Stream(t.Context(), "TASKS_URGENT")
	if err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("%d tasks are left, %v, want the one that is held", s.CachedInfo().State.Msgs, err)
	}
}

// What cannot be changed live is refused, and nothing is changed.
func TestFairRefuses(t *testing.T) {
	t.Parallel()
	plain := small()
	fewer := with(func(f *streams.Fleet) { f.Classes[0].Partitions = 4 })
	both := fairFleet()
	both.Services = append(both.Services, streams.Service{Name: "sms", Classes: []task.Class{task.Urgent}})
	for _, tt := range []struct {
		name    string
		have    *streams.Fleet
		subject string // of a task that waits
		want    *streams.Fleet
		says    []string
	}{
		{"a task that a fair class does not take", plain, "tasks.urgent.email.send.acme.more", fairFleet(), []string{
			"1 task of tasks.urgent.email.>, with more behind the service than an action and a tenant", "drover lanes --class urgent --service email",
		}},
		{"fewer partitions", fairFleet(), "tasks.urgent.email.send.acme", fewer, []string{"subject transform", "drover lanes --class urgent", "nats stream rm TASKS_URGENT"}},
		{"no partitions", fairFleet(), "tasks.urgent.email.send.acme", plain, []string{"subject transform", "drover lanes --class urgent", "nats stream rm TASKS_URGENT"}},
		{"a service with a task in a partition", both, "tasks.urgent.sms.send.acme", fairFleet(), []string{
			"1 task of tasks.urgent.sms.> would be left without a worker", "nats stream purge TASKS_URGENT --subject 'tasks.urgent.sms.>'",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, tt.have)
			publish(t, js, tt.subject, 1)
			_, err := streams.Apply(t.Context(), js, tt.want)
			if !errors.Is(err, streams.ErrRefused) {
				t.Fatalf("Apply = %v, want ErrRefused", err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("Apply says %q, want %q in it", err, s)
				}
			}
			if strings.Contains(err.Error(), "purge") != strings.Contains(strings.Join(tt.says, " "), "purge") {
				t.Errorf("Apply says %q", err)
			}
			if changes := apply(t, js, tt.have); len(changes) > 0 {
				t.Errorf("the fleet as it was would change %v", changes)
			}
			if got := settleAll(t, js, tt.have, 1); len(got) != 1 {
				t.Errorf("handed out %v, want the task", got)
			}
		})
	}
}

// What a fair class accepts leaves the stream when it is settled, also when one
// service serves it: see task.FairFilters.
func TestFairStreamEmpties(t *testing.T) {
	t.Parallel()
	two := fairFleet()
	two.Services = append(two.Services, streams.Service{Name: "sms", Classes: []task.Class{task.Urgent}})
	for name, f := range map[string]*streams.Fleet{"one service": fairFleet(), "two services": two} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, f)
			var want []string
			for _, s := range []string{"send", "send.acme", "send.*"} {
				publish(t, js, "tasks.urgent.email."+s, 1)
				want = append(want, "tasks.urgent.email."+s)
			}
			want[1] += ".7"
			slices.Sort(want)
			if d := cmp.Diff(want, settleAll(t, js, f, len(want))); d != "" {
				t.Errorf("handed out (-want +got):\n%s", d)
			}
			s, err := js.Stream(t.Context(), "TASKS_URGENT")
			if err != nil || s.CachedInfo().State.Msgs != 0 {
				t.Errorf("%d tasks are left, %v, want none", s.CachedInfo().State.Msgs, err)
			}
		})
	}
}

func TestFairValidate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		partitions int
		service    string // beside email
		want       string // "" is that it is valid
	}{
		{"two", 2, "sms", ""},
		{"most", 32, "sms", ""},
		{"one", 1, "sms", "partitions: 1, want 2 to 32, or 0"},
		{"less than none", -1, "sms", "partitions: -1, want 2 to 32, or 0"},
		{"too many", 33, "sms", "partitions: 33, want 2 to 32, or 0"},
		{"name of a partition", 8, "email-7", "email-7 would also be the consumer of one of email"},
		{"name beyond the partitions", 8, "email-8", ""},
		{"name in a plain class", 0, "email-7", ""},
	} {
		f := with(func(f *streams.Fleet) {
			f.Classes[0].Partitions = tt.partitions
			f.Services = append(f.Services, streams.Service{Name: tt.service, Classes: []task.Class{task.Urgent}})
		})
		err := f.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: Validate = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// The lane of a fair class is that of all its partitions.
func TestFairLane(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		f := fairFleet()
		apply(t, js, f)
		publish(t, js, "tasks.urgent.email.send.acme", 3)
		take(t, js, "TASKS_URGENT", "email-7", 5*time.Second)
		time.Sleep(5 * time.Second)
		publish(t, js, "tasks.urgent.email.send.umbrella", 2)
		publish(t, js, "tasks.urgent.email.send", 1)
		time.Sleep(5 * time.Second)
		until := time.Now().Add(time.Hour).UTC()
		if _, err := js.PauseConsumer(t.Context(), "TASKS_URGENT", "email-3", until); err != nil {
			t.Fatal(err)
		}
		got, err := streams.Lanes(t.Context(), js, f)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]streams.Lane{
			{
				Class: task.Urgent, Service: "email", Depth: 5, InFlight: 1, WaitingAge: 10 * time.Second, OldestAge: 10 * time.Second,
				Paused: true, PausedUntil: until,
			},
			{Class: task.Urgent, Service: "email", Retry: true},
		}, got); d != "" {
			t.Errorf("Lanes (-want +got):\n%s", d)
		}
	})
}

// A class is made fair on a broker that has just been started again, as by an
// upgrade.
func TestMadeFairAfterRestart(t *testing.T) {
	t.Parallel()
	b := natstest.StartBroker(t)
	js := b.Connect(t)
	apply(t, js, small())
	publish(t, js, "tasks.urgent.email.send.acme", 1)
	b.Kill()
	b.Restart(t)
	js = b.Connect(t)
	apply(t, js, fairFleet())
	publish(t, js, "tasks.urgent.email.send.acme", 1)
	if d := cmp.Diff([]string{"tasks.urgent.email.send.acme", "tasks.urgent.email.send.acme.7"}, settleAll(t, js, fairFleet(), 2)); d != "" {
		t.Errorf("handed out (-want +got):\n%s", d)
	}
}

// A pause of the lane holds for its new partitions too.
func TestMadeFairWhilePaused(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	until := time.Now().Add(time.Hour).UTC()
	if _, err := js.PauseConsumer(t.Context(), "TASKS_URGENT", "email", until); err != nil {
		t.Fatal(err)
	}
	apply(t, js, fairFleet())
	publish(t, js, "tasks.urgent.email.send.acme", 1)
	if got := settleAll(t, js, fairFleet(), 0); len(got) > 0 {
		t.Errorf("handed out %v during a pause", got)
	}
	lanes, err := streams.Lanes(t.Context(), js, fairFleet())
	if err != nil || !lanes[0].Paused || !lanes[0].PausedUntil.Equal(until) || lanes[0].Depth != 1 {
		t.Errorf("Lanes = %+v, %v, want one task in a lane that is paused until %v", lanes, err, until)
	}
}
