package streams_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// Error codes of the broker that producers meet; docs/wire.md names them.
const (
	codeTooLarge jetstream.ErrorCode = 10054
	codeFull     jetstream.ErrorCode = 10077
	codeNoRollup jetstream.ErrorCode = 10111
)

func code(err error) jetstream.ErrorCode {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode
	}
	return 0
}

func TestTypoIsRefusedAtPublish(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, streams.Default())
	for _, subject := range []string{
		"tasks.urgnet.email.send", "tasks.urgent.emial.send", "task.urgent.email.send",
		"tasks.urgent.email",    // no action
		"tasks.slow.email.send", // a class that the service does not serve
	} {
		_, err := js.Publish(t.Context(), subject, nil, jetstream.WithRetryAttempts(0))
		if !errors.Is(err, jetstream.ErrNoStreamResponse) {
			t.Errorf("publish %s = %v, want ErrNoStreamResponse", subject, err)
		}
	}
}

func TestFullClassRefusesAndKeeps(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, with(func(f *streams.Fleet) {
		f.Classes[0].MaxBytes = mib
		bulk := f.Classes[0]
		bulk.Name = task.Bulk
		f.Classes, f.Services[0].Classes = append(f.Classes, bulk), []task.Class{task.Urgent, task.Bulk}
	}))
	body := make([]byte, 200<<10)
	var taken uint64
	for {
		_, err := js.Publish(t.Context(), "tasks.bulk.email.send", body)
		if err != nil {
			if got := code(err); got != codeFull {
				t.Fatalf("publish into a full class = %v, want code %d", err, codeFull)
			}
			break
		}
		taken++
	}
	if got := stored(t, js, "TASKS_BULK"); got != taken || taken != 5 {
		t.Errorf("TASKS_BULK holds %d of %d tasks, want all 5", got, taken)
	}
	publish(t, js, "tasks.urgent.email.send", 1) // another class is not full
}

func TestFullDeadRefusesAndKeeps(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, with(func(f *streams.Fleet) { f.Dead.MaxBytes = mib }))
	body := make([]byte, 600<<10)
	if _, err := js.Publish(t.Context(), "dead.urgent.email.send.1", body); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "dead.urgent.email.send.2", body); code(err) != codeFull {
		t.Errorf("publish into a full DEAD = %v, want code %d", err, codeFull)
	}
	if got := stored(t, js, "DEAD"); got != 1 {
		t.Errorf("DEAD holds %d letters, want 1", got)
	}
}

// The limit on a task counts its headers.
func TestMaxMessageCountsHeaders(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	header := nats.Header{"Task-Id": {"1"}}
	const block = len("NATS/1.0\r\nTask-Id: 1\r\n\r\n")
	tests := []struct {
		name   string
		header nats.Header
		body   int
		want   jetstream.ErrorCode
	}{
		{"largest", nil, streams.MaxMessage, 0},
		{"one byte more", nil, streams.MaxMessage + 1, codeTooLarge},
		{"largest with headers", header, streams.MaxMessage - block, 0},
		{"one byte more with headers", header, streams.MaxMessage - block + 1, codeTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "tasks.urgent.email.send", Header: tt.header, Data: make([]byte, tt.body)})
			if got := code(err); got != tt.want || err != nil && got == 0 {
				t.Errorf("publish of %d bytes = %v, want code %d", tt.body, err, tt.want)
			}
		})
	}
}

// A move adds history to a task: RETRY and DEAD must take what a class took.
func TestLargestTaskCanBeMoved(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	s := task.Subject{Class: task.Urgent, Service: "email", Action: "send"}
	for _, subject := range []string{s.RetryReady("1"), s.Dead("1")} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{
			Subject: subject,
			Header:  nats.Header{"Task-Errors": {strings.Repeat("e", 60<<10)}},
			Data:    make([]byte, streams.MaxMessage),
		})
		if err != nil {
			t.Errorf("publish %s: %v", subject, err)
		}
	}
}

func TestTimerFiresOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, small())
		s := task.Subject{Class: task.Urgent, Service: "email", Action: "send"}
		start := time.Now()
		timer(t, js, s, "later", start.Add(2*time.Hour))
		timer(t, js, s, "sooner", start.Add(time.Hour))

		msg := take(t, js, "RETRY", "urgent-email", 3*time.Hour)
		// The broker looks at its timers every 250 ms at most.
		if late := time.Since(start) - time.Hour; late < 0 || late > 250*time.Millisecond {
			t.Errorf("the first is delivered %v after it is due, want 0 to 250 ms", late)
		}
		if got, want := msg.Subject(), s.RetryReady("sooner"); got != want {
			t.Errorf("delivered %s, want %s", got, want)
		}
		if d := cmp.Diff([]string{s.String()}, msg.Headers()[task.HeaderSubject]); d != "" {
			t.Errorf("header %s (-want +got):\n%s", task.HeaderSubject, d)
		}
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := stored(t, js, "RETRY"); got != 1 {
			t.Errorf("RETRY holds %d messages after one of two is done, want 1", got)
		}
		if got, want := take(t, js, "RETRY", "urgent-email", 3*time.Hour).Subject(), s.RetryReady("later"); got != want {
			t.Errorf("delivered %s, want %s", got, want)
		}
	})
}

// With rollup, whoever may publish one task could erase all.
func TestClassRefusesRollup(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	publish(t, js, "tasks.urgent.email.send", 2)
	_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "tasks.urgent.email.send", Header: nats.Header{"Nats-Rollup": {"all"}}})
	if code(err) != codeNoRollup {
		t.Errorf("publish with rollup = %v, want code %d", err, codeNoRollup)
	}
	if got := stored(t, js, "TASKS_URGENT"); got != 2 {
		t.Errorf("TASKS_URGENT holds %d tasks, want 2", got)
	}
}

func TestDedupe(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, small())
		for _, tt := range []struct {
			wait time.Duration
			want bool
		}{{0, false}, {streams.Dedupe - time.Second, true}, {streams.Dedupe + time.Second, false}} {
			time.Sleep(tt.wait)
			ack, err := js.Publish(t.Context(), "tasks.urgent.email.send", nil, jetstream.WithMsgID("a"))
			if err != nil {
				t.Fatal(err)
			}
			if ack.Duplicate != tt.want {
				t.Errorf("publish again after %v: duplicate = %v, want %v", tt.wait, ack.Duplicate, tt.want)
			}
		}
	})
}

func TestAdvisoriesAreKept(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, small())
		publish(t, js, "tasks.urgent.email.send", 2)
		setConsumer(t, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.MaxDeliver = 1 })
		if err := take(t, js, "TASKS_URGENT", "email", 5*time.Second).Term(); err != nil {
			t.Fatal(err)
		}
		take(t, js, "TASKS_URGENT", "email", 5*time.Second)
		time.Sleep(time.Minute) // past ack-wait: the broker gives the second up
		for _, kind := range []string{"MSG_TERMINATED", "MAX_DELIVERIES"} {
			subject := "$JS.EVENT.ADVISORY.CONSUMER." + kind + ".TASKS_URGENT.email"
			s, err := js.Stream(t.Context(), task.AdvisoryStream)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.GetLastMsgForSubject(t.Context(), subject); err != nil {
				t.Errorf("read %s from ADVISORIES: %v", subject, err)
			}
		}
		if got := stored(t, js, "TASKS_URGENT"); got != 1 {
			t.Errorf("TASKS_URGENT holds %d tasks, want the 1 that the broker gave up on", got)
		}
	})
}

// A stream may have been made smaller behind the fleet's back: it keeps what it
// has, and refuses what is new. Apply does not do that by itself.
func TestShrunkClassKeepsItsTasks(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	for range 6 {
		if _, err := js.Publish(t.Context(), "tasks.urgent.email.send", make([]byte, 500<<10)); err != nil {
			t.Fatal(err)
		}
	}
	setStream(t, js, "TASKS_URGENT", func(c *streamConfig) { c.MaxBytes = mib })
	if got := stored(t, js, "TASKS_URGENT"); got != 6 {
		t.Errorf("TASKS_URGENT holds %d tasks after it shrank, want 6", got)
	}
	if _, err := js.Publish(t.Context(), "tasks.urgent.email.send", nil); code(err) != codeFull {
		t.Errorf("publish into the shrunk class = %v, want code %d", err, codeFull)
	}
}

// What Apply says to do about a consumer that cannot be changed: remove it and
// apply again. Nothing is lost, and what was being run is delivered again.
func TestRemadeConsumerDeliversAll(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	publish(t, js, "tasks.urgent.email.send", 3)
	if err := take(t, js, "TASKS_URGENT", "email", 5*time.Second).DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	take(t, js, "TASKS_URGENT", "email", 5*time.Second)
	if err := js.DeleteConsumer(t.Context(), "TASKS_URGENT", "email"); err != nil {
		t.Fatal(err)
	}
	apply(t, js, small())
	lanes, err := streams.Lanes(t.Context(), js, small())
	if err != nil {
		t.Fatal(err)
	}
	if got := lanes[0].Depth; got != 2 {
		t.Errorf("depth = %d, want the 2 that are not done", got)
	}
}

// Why Apply refuses to change a filter: the broker does not rewind, so a task
// that the old one passed over would stay for ever.
func TestNewFilterDoesNotRewind(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	setConsumer(t, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.FilterSubject = "tasks.urgent.email.send" })
	publish(t, js, "tasks.urgent.email.other", 1)
	publish(t, js, "tasks.urgent.email.send", 1)
	take(t, js, "TASKS_URGENT", "email", 5*time.Second)
	setConsumer(t, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.FilterSubject = "tasks.urgent.email.>" })
	c, err := js.Consumer(t.Context(), "TASKS_URGENT", "email")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.CachedInfo().NumPending; got != 0 {
		t.Errorf("num pending after the filter widened = %d, want 0: the broker rewinds now, so Apply need not refuse", got)
	}
}

// Why Apply refuses a shorter ack-wait under a running worker: what the worker
// holds is handed out again at once.
func TestShorterAckWaitHandsOutAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, with(func(f *streams.Fleet) { f.Classes[0].AckWait = time.Minute }))
		publish(t, js, "tasks.urgent.email.send", 1)
		take(t, js, "TASKS_URGENT", "email", 5*time.Second)
		time.Sleep(25 * time.Second)
		setConsumer(t, js, "TASKS_URGENT", "email", func(c *consumerConfig) { c.AckWait = 20 * time.Second })
		start := time.Now()
		msg := take(t, js, "TASKS_URGENT", "email", 5*time.Second)
		meta, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); meta.NumDelivered != 2 || d > time.Second {
			t.Errorf("delivery %d after %v, want the second at once: if not, Apply need not refuse", meta.NumDelivered, d)
		}
	})
}
