package streams_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	stream := func(name string, change func(*streamConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) { tb.Helper(); setStream(tb, js, name, change) }
	}
	remade := func(name string, change func(*streamConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) { tb.Helper(); remakeStream(tb, js, name, change) }
	}
	consumer := func(name string, change func(*consumerConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) { tb.Helper(); setConsumer(tb, js, name, "email", change) }
	}
	gone := func(name string) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if err := js.DeleteStream(tb.Context(), name); err != nil {
				tb.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		drift func(testing.TB, jetstream.JetStream)
		want  string // "" when a service can work with it
	}{
		{"none", func(testing.TB, jetstream.JetStream) {}, ""},
		{"no class", gone("TASKS_URGENT"), "stream TASKS_URGENT does not exist\n    consumer TASKS_URGENT/email does not exist"},
		{"no RETRY", gone("RETRY"), "stream RETRY does not exist\n    consumer RETRY/urgent-email does not exist"},
		{"no DEAD", gone("DEAD"), "stream DEAD does not exist"},
		{"no BODIES", gone("OBJ_BODIES"), "bucket BODIES does not exist"},
		{"no FLEET", gone("KV_FLEET"), "bucket FLEET does not exist"},
		{"FLEET without expiry", remade("KV_FLEET", func(c *streamConfig) { c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = false, 0 }), "bucket FLEET: expiry by message is false, want true"},
		{"no ADVISORIES", gone("ADVISORIES"), ""},
		{"tasks that can be made to vanish", stream("TASKS_URGENT", func(c *streamConfig) { c.AllowMsgTTL = true }), "stream TASKS_URGENT: expiry by message is true, want false"},
		{"service not in the stream", stream("TASKS_URGENT", func(c *streamConfig) { c.Subjects = []string{"tasks.urgent.sms.>"} }), "stream TASKS_URGENT: subjects is tasks.urgent.sms.>, want tasks.urgent.email.>"},
		{"wider subjects", stream("TASKS_URGENT", func(c *streamConfig) { c.Subjects = []string{"tasks.*.*.>"} }), ""},
		{"another service in the stream", stream("TASKS_URGENT", func(c *streamConfig) { c.Subjects = append(c.Subjects, "tasks.urgent.sms.>") }), ""},
		{"size", stream("TASKS_URGENT", func(c *streamConfig) { c.MaxBytes, c.MaxMsgSize = 2*mib, 1<<10 }), ""},
		{"discard old", stream("TASKS_URGENT", func(c *streamConfig) { c.Discard = jetstream.DiscardOld }), "stream TASKS_URGENT: discard is old, want new"},
		{"age", stream("TASKS_URGENT", func(c *streamConfig) { c.MaxAge = time.Hour }), "stream TASKS_URGENT: max age is 1 h, want none"},
		{"short dedupe", stream("TASKS_URGENT", func(c *streamConfig) { c.Duplicates = time.Minute }), "duplicate window is 1 min, want 10 min"},
		{"long dedupe", stream("TASKS_URGENT", func(c *streamConfig) { c.Duplicates = time.Hour }), ""},
		{"limit on RETRY", stream("RETRY", func(c *streamConfig) { c.MaxBytes = mib }), "stream RETRY: max bytes is 1 MiB, want none"},
		{"message size on RETRY", stream("RETRY", func(c *streamConfig) { c.MaxMsgSize = mib }), "stream RETRY: max message size is 1 MiB, want none"},
		{"no schedules", remade("RETRY", func(c *streamConfig) { c.AllowMsgSchedules, c.AllowRollup = false, false }), "stream RETRY: schedules is false, want true"},
		{"no direct get", stream("DEAD", func(c *streamConfig) { c.AllowDirect = false }), "stream DEAD: direct get is false, want true"},
		{"retention", remade("DEAD", func(c *streamConfig) { c.Retention = jetstream.WorkQueuePolicy }), "stream DEAD: retention is workqueue, want limits"},
		{"writes unsynced", remade("DEAD", func(c *streamConfig) { c.PersistMode = jetstream.AsyncPersistMode }), "stream DEAD: persistence is Async, want Default"},
		{"long ack wait", consumer("TASKS_URGENT", func(c *consumerConfig) { c.AckWait = time.Minute }), ""},
		{"short ack wait", consumer("TASKS_URGENT", func(c *consumerConfig) { c.AckWait = time.Second }), "consumer TASKS_URGENT/email: ack wait is 1 s, want 20 s"},
		{"max deliver", consumer("TASKS_URGENT", func(c *consumerConfig) { c.MaxDeliver = 3 }), "max deliver is 3, want 20"},
		{"no max deliver", consumer("TASKS_URGENT", func(c *consumerConfig) { c.MaxDeliver = -1 }), ""},
		{"no room", consumer("TASKS_URGENT", func(c *consumerConfig) { c.MaxAckPending = 10 }), "max ack pending is 10, want 2176"},
		{"more room", consumer("TASKS_URGENT", func(c *consumerConfig) { c.MaxAckPending = 10_000 }), ""},
		{"headers only", consumer("TASKS_URGENT", func(c *consumerConfig) { c.HeadersOnly = true }), "headers only is true, want false"},
		{"filter", consumer("TASKS_URGENT", func(c *consumerConfig) { c.FilterSubject = "tasks.urgent.email.send" }), "filter is tasks.urgent.email.send, want tasks.urgent.email.>"},
		{"few pulls", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			remakeConsumer(tb, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.MaxWaiting = 2 })
		}, "max waiting is 2, want 4096"},
		{"the broker's default of pulls", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			remakeConsumer(tb, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.MaxWaiting = 0 })
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, small())
			tt.drift(t, js)
			fleet := with(func(f *streams.Fleet) { f.Services[0].Processes = 3 }) // the topology may follow later
			err := streams.Check(t.Context(), js, fleet, "email")
			if tt.want == "" {
				if err != nil {
					t.Errorf("Check = %v, want nil", err)
				}
				return
			}
			if !errors.Is(err, streams.ErrDrift) {
				t.Fatalf("Check = %v, want ErrDrift", err)
			}
			for _, want := range []string{tt.want, "check streams for email", "drover streams apply"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Check error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

// What another service lacks is not this one's concern.
func TestCheckLooksOnlyAtTheService(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, streams.Default())
	if err := js.DeleteConsumer(t.Context(), "TASKS_BULK", "webhook"); err != nil {
		t.Fatal(err)
	}
	if err := streams.Check(t.Context(), js, streams.Default(), "email"); err != nil {
		t.Errorf("Check(email) = %v, want nil", err)
	}
	if err := streams.Check(t.Context(), js, streams.Default(), "webhook"); !errors.Is(err, streams.ErrDrift) {
		t.Errorf("Check(webhook) = %v, want ErrDrift", err)
	}
}

func TestCheckUnknownService(t *testing.T) {
	t.Parallel()
	err := streams.Check(t.Context(), natstest.JetStream(t), streams.Default(), "emial")
	if err == nil || !strings.Contains(err.Error(), "only email, webhook") {
		t.Errorf("Check(emial) = %v, want an error naming the services there are", err)
	}
}

// A service that takes no tasks needs its watchers and what they read, and no
// lane; nobody else needs the watchers.
func TestCheckOfWatcher(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	if err := streams.Check(t.Context(), js, small(), "deadletter"); err != nil {
		t.Errorf("Check(deadletter) = %v, want nil", err)
	}
	if err := js.DeleteConsumer(t.Context(), "TASKS_URGENT", "email"); err != nil {
		t.Fatal(err)
	}
	if err := streams.Check(t.Context(), js, small(), "deadletter"); err != nil {
		t.Errorf("Check(deadletter) without a lane of another service = %v, want nil", err)
	}
	for _, name := range []string{"ADVISORIES", "KV_ALERTS"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	err := streams.Check(t.Context(), js, small(), "deadletter")
	for _, want := range []string{"stream ADVISORIES does not exist", "consumer ADVISORIES/deadletter does not exist", "bucket ALERTS does not exist"} {
		if !errors.Is(err, streams.ErrDrift) || !strings.Contains(err.Error(), want) {
			t.Errorf("Check(deadletter) = %v, want drift with %q", err, want)
		}
	}
}

func TestNameOfWatcherIsTaken(t *testing.T) {
	t.Parallel()
	f := with(func(f *streams.Fleet) { f.Services[0].Name = "deadletter" })
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "takes no tasks") {
		t.Errorf("Validate with a service deadletter = %v, want it refused", err)
	}
}
