package streams_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

type (
	streamConfig   = jetstream.StreamConfig
	consumerConfig = jetstream.ConsumerConfig
)

func TestApplyToEmptyBroker(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	planned, err := streams.Plan(t.Context(), js, streams.Default())
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	var text strings.Builder
	for _, c := range planned {
		text.WriteString(c.String() + "\n")
	}
	golden(t, "plan.txt", text.String())
	if names := streamNames(t, js); names != "" {
		t.Errorf("Plan made streams: %s", names)
	}
	if d := cmp.Diff(planned, apply(t, js, streams.Default())); d != "" {
		t.Errorf("Apply differs from Plan (-plan +apply):\n%s", d)
	}
	for range 2 {
		if changes := apply(t, js, streams.Default()); len(changes) > 0 {
			t.Errorf("a later Apply changes %v", changes)
		}
	}
	if _, err := js.ObjectStore(t.Context(), task.BodiesBucket); err != nil {
		t.Errorf("object store BODIES: %v", err)
	}
	for _, s := range streams.Default().Services {
		if err := streams.Check(t.Context(), js, streams.Default(), s.Name); err != nil {
			t.Errorf("Check(%s) = %v", s.Name, err)
		}
	}
}

func streamNames(tb testing.TB, js jetstream.JetStream) string {
	tb.Helper()
	var names []string
	for name := range js.StreamNames(tb.Context()).Name() {
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestApplyTwiceAtOnce(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = streams.Apply(t.Context(), js, small()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if changes := apply(t, js, small()); len(changes) > 0 {
		t.Errorf("a later Apply changes %v", changes)
	}
}

// What an operator changes in the fleet file.
func TestApplyFleetChange(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*streams.Fleet)
		want   []string
	}{
		{"class grows", func(f *streams.Fleet) { f.Classes[0].MaxBytes = 16 * mib }, []string{
			"update stream TASKS_URGENT\n    max bytes: 8 MiB → 16 MiB",
		}},
		{"class shrinks", func(f *streams.Fleet) { f.Classes[0].MaxBytes = 4 * mib }, []string{
			"update stream TASKS_URGENT\n    max bytes: 8 MiB → 4 MiB",
		}},
		{"ack-wait", func(f *streams.Fleet) { f.Classes[0].AckWait = 40 * time.Second }, []string{
			"update consumer TASKS_URGENT/email\n    ack wait: 20 s → 40 s",
			"update consumer RETRY/urgent-email\n    ack wait: 20 s → 40 s",
		}},
		{"fewer slots", func(f *streams.Fleet) { f.Classes[0].Slots = 1 }, []string{
			"update consumer TASKS_URGENT/email\n    max ack pending: 2176 → 2050",
			"update consumer RETRY/urgent-email\n    max ack pending: 2080 → 2052",
		}},
		{"slots", func(f *streams.Fleet) { f.Classes[0].Slots = 128 }, []string{
			"update consumer TASKS_URGENT/email\n    max ack pending: 2176 → 2304",
			"update consumer RETRY/urgent-email\n    max ack pending: 2080 → 2112",
		}},
		{"processes", func(f *streams.Fleet) { f.Services[0].Processes = 3 }, []string{
			"update consumer TASKS_URGENT/email\n    max ack pending: 2176 → 6528",
			"update consumer RETRY/urgent-email\n    max ack pending: 2080 → 6240",
		}},
		{"stores", func(f *streams.Fleet) { f.Dead.MaxBytes, f.Bodies.MaxBytes = 16*mib, 32*mib }, []string{
			"update bucket BODIES\n    max bytes: 8 MiB → 32 MiB",
			"update stream DEAD\n    max bytes: 8 MiB → 16 MiB",
		}},
		{"what the broker does not hold", func(f *streams.Fleet) {
			c := &f.Classes[0]
			c.TimeLimit, c.Attempts, c.MaxDeliver, c.WaitObjective, c.Backoff.Base = time.Hour, 9, 9, time.Hour, time.Minute
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, small())
			publish(t, js, "tasks.urgent.email.send", 3)
			held := take(t, js, "TASKS_URGENT", "email", 5*time.Second)
			if d := cmp.Diff(tt.want, texts(apply(t, js, with(tt.change)))); d != "" {
				t.Errorf("changes (-want +got):\n%s", d)
			}
			if changes := apply(t, js, with(tt.change)); len(changes) > 0 {
				t.Errorf("a second Apply changes %v", changes)
			}
			if got := stored(t, js, "TASKS_URGENT"); got != 3 {
				t.Errorf("TASKS_URGENT holds %d tasks, want 3", got)
			}
			// What was held is settled, and the rest is handed out.
			for i := range 3 {
				if i > 0 {
					held = take(t, js, "TASKS_URGENT", "email", 5*time.Second)
				}
				if err := held.DoubleAck(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := stored(t, js, "TASKS_URGENT"); got != 0 {
				t.Errorf("TASKS_URGENT holds %d tasks once all are worked, want 0", got)
			}
		})
	}
}

func texts(changes []streams.Change) []string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String())
	}
	return out
}

func stored(tb testing.TB, js jetstream.JetStream, stream string) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestApplyNewServiceAndClass(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	grown := with(func(f *streams.Fleet) {
		bulk := f.Classes[0]
		bulk.Name = task.Bulk
		f.Classes = append(f.Classes, bulk)
		f.Services = append(f.Services, streams.Service{Name: "webhook", Classes: []task.Class{task.Urgent, task.Bulk}})
	})
	var got []string
	for _, c := range apply(t, js, grown) {
		got = append(got, string(c.Action)+" "+c.Object)
	}
	want := []string{
		"update stream TASKS_URGENT", "create stream TASKS_BULK",
		"create consumer TASKS_URGENT/webhook", "create consumer RETRY/urgent-webhook",
		"create consumer TASKS_BULK/webhook", "create consumer RETRY/bulk-webhook",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	publish(t, js, "tasks.bulk.webhook.deliver", 1)
}

// What someone changed on the broker behind the fleet's back, and Apply mends.
func TestApplyMendsDrift(t *testing.T) {
	t.Parallel()
	stream := func(name string, change func(*streamConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) { tb.Helper(); setStream(tb, js, name, change) }
	}
	consumer := func(change func(*consumerConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			setConsumer(tb, js, "TASKS_URGENT", "email", change)
		}
	}
	tests := []struct {
		name  string
		drift func(testing.TB, jetstream.JetStream)
		want  string
	}{
		{"description", stream("TASKS_URGENT", func(c *streamConfig) { c.Description = "mine" }), "update stream TASKS_URGENT\n    description: mine → tasks of class urgent"},
		{"more subjects", stream("TASKS_URGENT", func(c *streamConfig) { c.Subjects = []string{"tasks.urgent.>"} }), "update stream TASKS_URGENT\n    subjects: tasks.urgent.> → tasks.urgent.email.>"},
		{"discard old", stream("TASKS_URGENT", func(c *streamConfig) { c.Discard = jetstream.DiscardOld }), "update stream TASKS_URGENT\n    discard: old → new"},
		{"max messages", stream("TASKS_URGENT", func(c *streamConfig) { c.MaxMsgs = 10 }), "update stream TASKS_URGENT\n    max messages: 10 → none"},
		{"max messages per subject", stream("TASKS_URGENT", func(c *streamConfig) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = 5, true }), "update stream TASKS_URGENT\n    discard: new, per subject too → new\n    max messages per subject: 5 → none"},
		{"max message size", stream("TASKS_URGENT", func(c *streamConfig) { c.MaxMsgSize = 1 << 10 }), "update stream TASKS_URGENT\n    max message size: 1 KiB → 512 KiB"},
		{"max age", stream("TASKS_URGENT", func(c *streamConfig) { c.MaxAge = time.Hour }), "update stream TASKS_URGENT\n    max age: 1 h → none"},
		{"duplicate window", stream("TASKS_URGENT", func(c *streamConfig) { c.Duplicates = time.Minute }), "update stream TASKS_URGENT\n    duplicate window: 1 min → 10 min"},
		{"direct get", stream("TASKS_URGENT", func(c *streamConfig) { c.AllowDirect = false }), "update stream TASKS_URGENT\n    direct get: false → true"},
		{"rollup", stream("TASKS_URGENT", func(c *streamConfig) { c.AllowRollup = true }), "update stream TASKS_URGENT\n    rollup: true → false"},
		{"limits on RETRY", stream("RETRY", func(c *streamConfig) { c.MaxBytes, c.MaxMsgs, c.MaxAge = mib, 10, time.Hour }), "update stream RETRY\n    max messages: 10 → none\n    max bytes: 1 MiB → none\n    max age: 1 h → none"},
		{"age of dead letters", stream("DEAD", func(c *streamConfig) { c.MaxAge = time.Hour }), "update stream DEAD\n    max age: 1 h → none"},
		{"age of advisories", stream("ADVISORIES", func(c *streamConfig) { c.MaxAge = time.Hour }), "update stream ADVISORIES\n    max age: 1 h → 7 d"},
		{"bucket", stream("OBJ_BODIES", func(c *streamConfig) { c.MaxAge = time.Hour }), "update bucket BODIES\n    max age: 1 h → none"},
		{"marker of FLEET", stream("KV_FLEET", func(c *streamConfig) { c.SubjectDeleteMarkerTTL = time.Hour }), "update bucket FLEET\n    marker of what expired: 1 h → 1 min"},
		{"age of FLEET", stream("KV_FLEET", func(c *streamConfig) { c.MaxAge = time.Hour }), "update bucket FLEET\n    max age: 1 h → none"},
		{"FLEET without expiry", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			remakeStream(tb, js, "KV_FLEET", func(c *streamConfig) { c.AllowMsgTTL, c.SubjectDeleteMarkerTTL, c.DenyDelete = false, 0, false })
		}, "update bucket FLEET\n    expiry by message: false → true\n    marker of what expired: none → 1 min\n    deny delete: false → true"},
		{"bucket removed", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if err := js.DeleteKeyValue(tb.Context(), task.FleetBucket); err != nil {
				tb.Fatal(err)
			}
		}, "create bucket FLEET"},
		{"ack wait", consumer(func(c *consumerConfig) { c.AckWait = time.Minute }), "update consumer TASKS_URGENT/email\n    ack wait: 1 min → 20 s"},
		{"backoff", consumer(func(c *consumerConfig) { c.BackOff = []time.Duration{20 * time.Second, time.Minute} }), "update consumer TASKS_URGENT/email\n    backoff: true → false"},
		{"max deliver", consumer(func(c *consumerConfig) { c.MaxDeliver = 3 }), "update consumer TASKS_URGENT/email\n    max deliver: 3 → 20"},
		{"max ack pending", consumer(func(c *consumerConfig) { c.MaxAckPending = 1 }), "update consumer TASKS_URGENT/email\n    max ack pending: 1 → 2176"},
		{"headers only", consumer(func(c *consumerConfig) { c.HeadersOnly = true }), "update consumer TASKS_URGENT/email\n    headers only: true → false"},
		{"inactive threshold", consumer(func(c *consumerConfig) { c.InactiveThreshold = time.Hour }), "update consumer TASKS_URGENT/email\n    inactive threshold: 1 h → none"},
		{"limits on pulls", consumer(func(c *consumerConfig) { c.MaxRequestBatch = 1 }), "update consumer TASKS_URGENT/email\n    limits on pulls: true → false"},
		{"consumer removed", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if err := js.DeleteConsumer(tb.Context(), "RETRY", "urgent-email"); err != nil {
				tb.Fatal(err)
			}
		}, "create consumer RETRY/urgent-email"},
		{"stream removed", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if err := js.DeleteStream(tb.Context(), "KV_ALERTS"); err != nil {
				tb.Fatal(err)
			}
		}, "create bucket ALERTS"},
		{"watcher removed", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if err := js.DeleteConsumer(tb.Context(), "ADVISORIES", "deadletter"); err != nil {
				tb.Fatal(err)
			}
		}, "create consumer ADVISORIES/deadletter"},
		{"bucket of alerts", stream("KV_ALERTS", func(c *streamConfig) { c.MaxAge = time.Hour }), "update bucket ALERTS\n    max age: 1 h → 30 d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, small())
			tt.drift(t, js)
			changes := apply(t, js, small())
			if len(changes) != 1 || !strings.HasPrefix(changes[0].String(), tt.want) {
				t.Errorf("changes = %q, want one that begins %q", texts(changes), tt.want)
			}
			if changes := apply(t, js, small()); len(changes) > 0 {
				t.Errorf("a second Apply changes %v", changes)
			}
		})
	}
}

// Settings that the fleet does not decide stay the operator's.
func TestApplyKeepsForeignSettings(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	setStream(t, js, "TASKS_URGENT", func(c *streamConfig) {
		c.Compression, c.Metadata, c.MaxAge = jetstream.S2Compression, map[string]string{"team": "a"}, time.Hour
	})
	setConsumer(t, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.AckWait = time.Minute })
	if _, err := js.PauseConsumer(t.Context(), "TASKS_URGENT", "email", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := len(apply(t, js, small())); got != 2 {
		t.Errorf("Apply makes %d changes, want 2", got)
	}
	s, err := js.Stream(t.Context(), "TASKS_URGENT")
	if err != nil {
		t.Fatal(err)
	}
	if c := s.CachedInfo().Config; c.Compression != jetstream.S2Compression || c.Metadata["team"] != "a" {
		t.Errorf("stream after Apply: compression %v, metadata %v, want both kept", c.Compression, c.Metadata)
	}
	c, err := s.Consumer(t.Context(), "email")
	if err != nil {
		t.Fatal(err)
	}
	if !c.CachedInfo().Paused {
		t.Error("Apply resumed a paused consumer")
	}
}

func TestApplySaysWhatToDo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		before func(testing.TB, jetstream.JetStream)
		change func(*streams.Fleet)
		want   []string
	}{
		{"more replicas than nodes", nil, func(f *streams.Fleet) { f.Replicas = 3 }, []string{"fleet: ", "more replicas than the broker has nodes", "1 server", "lower replicas in the fleet file"}},
		{"more storage than there is", nil, func(f *streams.Fleet) { f.Classes[0].MaxBytes = 1 << 50 }, []string{"create stream TASKS_URGENT", "lower them in the fleet file"}},
		{"foreign stream", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if _, err := js.CreateStream(tb.Context(), streamConfig{Name: "OLD", Subjects: []string{"tasks.>"}}); err != nil {
				tb.Fatal(err)
			}
		}, func(*streams.Fleet) {}, []string{"create stream TASKS_URGENT", "nats stream ls"}},
		{"foreign consumer", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			apply(tb, js, small())
			setConsumerFilter(tb, js)
		}, func(*streams.Fleet) {}, []string{"create consumer TASKS_URGENT/email", "nats consumer ls"}},
		{"invalid fleet", nil, func(f *streams.Fleet) { f.Classes[0].Slots = 0 }, []string{"plan streams", "slots: 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			if tt.before != nil {
				tt.before(t, js)
			}
			_, err := streams.Apply(t.Context(), js, with(tt.change))
			if err == nil {
				t.Fatal("Apply succeeds")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Apply error %q does not say %q", err, want)
				}
			}
		})
	}
}

// setConsumerFilter puts a foreign consumer where the fleet's should be.
func setConsumerFilter(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if err := js.DeleteConsumer(tb.Context(), "TASKS_URGENT", "email"); err != nil {
		tb.Fatal(err)
	}
	_, err := js.CreateConsumer(tb.Context(), "TASKS_URGENT", consumerConfig{
		Durable: "mine", FilterSubject: "tasks.urgent.email.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func TestApplyEndsWithContext(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := streams.Apply(ctx, js, small()); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v, want context canceled", err)
	}
}
