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

// A service whose workers are idle is not let go while they ask for tasks: it could
// be the wrong file.
func TestApplyRefusesWhileWorkersPull(t *testing.T) {
	t.Parallel()
	both := func(class task.Class) *streams.Fleet {
		return with(func(f *streams.Fleet) {
			slow := f.Classes[0]
			slow.Name = task.Slow
			f.Classes = append(f.Classes, slow)
			f.Services = append(f.Services, streams.Service{Name: "sms", Classes: []task.Class{class}})
		})
	}
	for name, tt := range map[string]struct {
		class            task.Class
		stream, consumer string
		want             string
	}{
		"a lane of a class":  {task.Urgent, "TASKS_URGENT", "sms", "consumer TASKS_URGENT/sms"},
		"a lane of retries":  {task.Urgent, "RETRY", "urgent-sms", "consumer RETRY/urgent-sms"},
		"all lanes of class": {task.Slow, "TASKS_SLOW", "sms", "stream TASKS_SLOW"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			apply(t, js, both(tt.class))
			pull := js.Conn().NewInbox()
			asks, err := js.Conn().SubscribeSync(pull)
			if err != nil {
				t.Fatal(err)
			}
			if err := js.Conn().PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+tt.stream+"."+tt.consumer, pull, []byte(`{"batch":1,"expires":60000000000}`)); err != nil {
				t.Fatal(err)
			}
			changes, err := streams.Plan(t.Context(), js, small())
			if !errors.Is(err, streams.ErrRefused) {
				t.Fatalf("Plan while a worker asks = %v, want %v; changes %q", err, streams.ErrRefused, texts(changes))
			}
			if !slices.ContainsFunc(texts(changes), func(s string) bool {
				return strings.HasPrefix(s, "refuse "+tt.want+": workers take tasks through "+tt.consumer)
			}) {
				t.Errorf("changes %q, want %s refused", texts(changes), tt.want)
			}
			if err := asks.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if _, err := streams.Apply(t.Context(), js, small()); err == nil {
					return
				} else if time.Now().After(deadline) {
					t.Fatalf("Apply once no worker asks = %v", err)
				}
			}
		})
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
