package streams_test

import (
	"context"
	"errors"
	"slices"
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
			"update consumer TASKS_URGENT/email\n    max ack pending: 640 → 514",
			"update consumer RETRY/urgent-email\n    max ack pending: 544 → 516",
		}},
		{"slots", func(f *streams.Fleet) { f.Classes[0].Slots = 128 }, []string{
			"update consumer TASKS_URGENT/email\n    max ack pending: 640 → 768",
			"update consumer RETRY/urgent-email\n    max ack pending: 544 → 576",
		}},
		{"processes", func(f *streams.Fleet) { f.Services[0].Processes = 3 }, []string{
			"update consumer TASKS_URGENT/email\n    max ack pending: 640 → 1920",
			"update consumer RETRY/urgent-email\n    max ack pending: 544 → 1632",
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
		{"max ack pending", consumer(func(c *consumerConfig) { c.MaxAckPending = 1 }), "update consumer TASKS_URGENT/email\n    max ack pending: 1 → 640"},
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

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	stream := func(name string, change func(*streamConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) { tb.Helper(); remakeStream(tb, js, name, change) }
	}
	consumer := func(change func(*consumerConfig)) func(testing.TB, jetstream.JetStream) {
		return func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			remakeConsumer(tb, js, "TASKS_URGENT", "email", change)
		}
	}
	tests := []struct {
		name   string
		object string
		drift  func(testing.TB, jetstream.JetStream)
		want   []string
	}{
		{"retention of a class", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.Retention = jetstream.LimitsPolicy }), []string{"stream TASKS_URGENT: ", "cannot change retention", "nats stream rm TASKS_URGENT"}},
		{"retention of DEAD", "stream DEAD", stream("DEAD", func(c *streamConfig) { c.Retention = jetstream.WorkQueuePolicy }), []string{"stream DEAD: ", "retention"}},
		{"storage", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.Storage = jetstream.MemoryStorage }), []string{"storage"}},
		{"persistence", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.PersistMode = jetstream.AsyncPersistMode }), []string{"persistence"}},
		{"schedules on a class", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.Discard, c.AllowMsgSchedules = jetstream.DiscardOld, true }), []string{"schedules", "rollup"}},
		{"sources", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "DEAD"}} }), []string{"sources"}},
		{"partitions", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "tasks.urgent.*.*", Destination: "tasks.urgent.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(8,2)}}"}
		}), []string{"subject transform", "drain it"}},
		{"tasks that can be made to vanish", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.AllowMsgTTL = true }), []string{"expiry by message"}},
		{"tasks that nobody may delete", "stream TASKS_URGENT", stream("TASKS_URGENT", func(c *streamConfig) { c.DenyDelete = true }), []string{"deny delete"}},
		{"less room than is taken", "stream TASKS_URGENT", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			setStream(tb, js, "TASKS_URGENT", func(c *streamConfig) { c.MaxBytes = 16 * mib })
			fillTo(tb, js, "TASKS_URGENT", "tasks.urgent.email.send", 8*mib)
		}, []string{"stream TASKS_URGENT: it holds 8.", "MiB, more than max bytes of 8 MiB", "drover lanes --class urgent"}},
		{"less room than dead letters take", "stream DEAD", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			setStream(tb, js, "DEAD", func(c *streamConfig) { c.MaxBytes = 32 * mib })
			fillTo(tb, js, "DEAD", "dead.urgent.email.send.1", 16*mib)
		}, []string{"stream DEAD: it holds 16.", "drover dead ls"}},
		{"shorter ack wait than that of a task in flight", "consumer TASKS_URGENT/email", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			setConsumer(tb, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.AckWait = time.Minute })
			publish(tb, js, "tasks.urgent.email.send", 1)
			take(tb, js, "TASKS_URGENT", "email", 5*time.Second)
		}, []string{"consumer TASKS_URGENT/email: workers of email hold tasks by an ack wait of 1 min", "drover lanes --service email"}},
		{"shorter ack wait than workers go by", "consumer RETRY/urgent-email", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			setConsumer(tb, js, "RETRY", "urgent-email", func(c *consumerConfig) { c.AckWait = time.Minute })
			ask(tb, js, "RETRY", "urgent-email")
		}, []string{"consumer RETRY/urgent-email: workers of email hold tasks by an ack wait of 1 min"}},
		{"filter", "consumer TASKS_URGENT/email", consumer(func(c *consumerConfig) { c.FilterSubject = "tasks.urgent.email.send" }), []string{"consumer TASKS_URGENT/email: ", "cannot change filter", "stop the workers of email", "nats consumer rm TASKS_URGENT email"}},
		{"memory", "consumer TASKS_URGENT/email", consumer(func(c *consumerConfig) { c.MemoryStorage = true }), []string{"delivery"}},
		{"max waiting", "consumer TASKS_URGENT/email", consumer(func(c *consumerConfig) { c.MaxWaiting = 8 }), []string{"max waiting"}},
		{"a service's tasks", "stream TASKS_URGENT", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			setStream(tb, js, "TASKS_URGENT", func(c *streamConfig) { c.Subjects = append(c.Subjects, "tasks.urgent.sms.>") })
			publish(tb, js, "tasks.urgent.sms.send", 2)
		}, []string{"stream TASKS_URGENT: 2 tasks of tasks.urgent.sms.> would be left without a worker", "drover lanes", "purge TASKS_URGENT --subject 'tasks.urgent.sms.>'"}},
		{"a class's tasks", "stream TASKS_SLOW", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			if _, err := js.CreateStream(tb.Context(), streamConfig{Name: "TASKS_SLOW", Subjects: []string{"tasks.slow.>"}}); err != nil {
				tb.Fatal(err)
			}
			publish(tb, js, "tasks.slow.email.send", 1)
		}, []string{"stream TASKS_SLOW: 1 task would be left without a worker"}},
		{"a service's retries", "consumer RETRY/urgent-sms", func(tb testing.TB, js jetstream.JetStream) {
			tb.Helper()
			extraRetries(tb, js)
			timer(tb, js, task.Subject{Class: task.Urgent, Service: "sms", Action: "send"}, "1", time.Now().Add(time.Hour))
		}, []string{"consumer RETRY/urgent-sms: 1 task would be left without a worker"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, small())
			tt.drift(t, js)
			fleet := with(func(f *streams.Fleet) { f.Dead.MaxBytes = 16 * mib }) // a change that would be fine by itself
			changes, err := streams.Apply(t.Context(), js, fleet)
			if !errors.Is(err, streams.ErrRefused) || len(changes) > 0 {
				t.Fatalf("Apply = %v, %v, want no changes and ErrRefused", changes, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Apply error does not say %q:\n%v", want, err)
				}
			}
			planned, err := streams.Plan(t.Context(), js, fleet)
			if !errors.Is(err, streams.ErrRefused) {
				t.Errorf("Plan error = %v, want ErrRefused", err)
			}
			var objects []string
			for _, c := range planned {
				objects = append(objects, c.Object)
				if refused := c.Action == streams.Refuse; refused != (c.Object == tt.object) {
					t.Errorf("Plan says %s %s, want only %s refused", c.Action, c.Object, tt.object)
				}
			}
			if !slices.Contains(objects, tt.object) || !slices.Contains(objects, "stream DEAD") {
				t.Errorf("Plan lists %v, want %s and stream DEAD", objects, tt.object)
			}
			s, err := js.Stream(t.Context(), "DEAD")
			if err != nil {
				t.Fatal(err)
			}
			if s.CachedInfo().Config.MaxBytes == 16*mib {
				t.Error("a refused Apply changed DEAD")
			}
		})
	}
}

// fillTo stores messages until the stream holds more than n bytes.
func fillTo(tb testing.TB, js jetstream.JetStream, stream, subject string, n uint64) {
	tb.Helper()
	for {
		if _, err := js.Publish(tb.Context(), subject, make([]byte, 500<<10)); err != nil {
			tb.Fatalf("publish %s: %v", subject, err)
		}
		s, err := js.Stream(tb.Context(), stream)
		if err != nil {
			tb.Fatal(err)
		}
		if s.CachedInfo().State.Bytes > n {
			return
		}
	}
}

// ask leaves a request for a task with the consumer, as an idle worker does, and
// returns once the broker has it.
func ask(tb testing.TB, js jetstream.JetStream, stream, name string) {
	tb.Helper()
	nc := js.Conn()
	inbox := nc.NewInbox()
	if _, err := nc.SubscribeSync(inbox); err != nil {
		tb.Fatal(err)
	}
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+name, inbox, []byte(`{"batch":1,"expires":60000000000}`)); err != nil {
		tb.Fatal(err)
	}
	for {
		c, err := js.Consumer(tb.Context(), stream, name)
		if err != nil {
			tb.Fatal(err)
		}
		if c.CachedInfo().NumWaiting > 0 {
			return
		}
	}
}

// extraRetries makes the retry lane of a service that the fleet does not have.
func extraRetries(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	_, err := js.CreateConsumer(tb.Context(), "RETRY", consumerConfig{
		Durable: "urgent-sms", FilterSubject: "retry.ready.urgent.sms.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// A service that was drained is let go: its subject is no longer taken, and what
// is left of it is reported and stays.
func TestApplyRemovedService(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	both := with(func(f *streams.Fleet) {
		f.Services = append(f.Services, streams.Service{Name: "sms", Classes: []task.Class{task.Urgent}})
	})
	apply(t, js, both)
	publish(t, js, "tasks.urgent.sms.send", 1)
	if _, err := streams.Apply(t.Context(), js, small()); !errors.Is(err, streams.ErrRefused) {
		t.Fatalf("Apply with a backlog = %v, want ErrRefused", err)
	}
	c, err := js.Consumer(t.Context(), "TASKS_URGENT", "sms")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := streams.Apply(t.Context(), js, small()); !errors.Is(err, streams.ErrRefused) {
		t.Fatalf("Apply with a task in flight = %v, want ErrRefused", err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"update stream TASKS_URGENT\n    subjects: tasks.urgent.email.> tasks.urgent.sms.> → tasks.urgent.email.>",
		"extra consumer RETRY/urgent-sms: not in the fleet; when nothing uses it, remove it\n    $ nats consumer rm RETRY urgent-sms",
		"extra consumer TASKS_URGENT/sms: not in the fleet; when nothing uses it, remove it\n    $ nats consumer rm TASKS_URGENT sms",
	}
	if d := cmp.Diff(want, texts(apply(t, js, small()))); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want[1:], texts(apply(t, js, small()))); d != "" {
		t.Errorf("changes of a second Apply (-want +got):\n%s", d)
	}
	if _, err := js.Publish(t.Context(), "tasks.urgent.sms.send", nil); err == nil {
		t.Error("a task of a removed service is taken")
	}
	// It can come back.
	if d := cmp.Diff([]string{"update stream TASKS_URGENT\n    subjects: tasks.urgent.email.> → tasks.urgent.email.> tasks.urgent.sms.>"}, texts(apply(t, js, both))); d != "" {
		t.Errorf("changes when it comes back (-want +got):\n%s", d)
	}
}

func TestApplyReportsExtraStream(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	if _, err := js.CreateStream(t.Context(), streamConfig{Name: "TASKS_SLOW", Subjects: []string{"tasks.slow.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), streamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	want := []string{"extra stream TASKS_SLOW: no service of the fleet serves it, and it is empty: remove it\n    $ nats stream rm TASKS_SLOW"}
	if d := cmp.Diff(want, texts(apply(t, js, small()))); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
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
