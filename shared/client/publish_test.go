package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	deadline := time.Date(2030, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))
	raw, err := task.Marshal(Send{To: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		args    task.Args
		opts    []client.PublishOption
		stream  string
		subject string
		header  nats.Header // beside the id
	}{
		{name: "default class", args: Send{To: "a"}, stream: "TASKS_DEFAULT", subject: "tasks.default.email.send"},
		{name: "pointer", args: &Send{To: "a"}, stream: "TASKS_DEFAULT", subject: "tasks.default.email.send"},
		{name: "class of type", args: Reset{To: "a"}, stream: "TASKS_URGENT", subject: "tasks.urgent.email.reset"},
		{
			name: "class of option", args: Reset{To: "a"}, opts: []client.PublishOption{client.Class(task.Bulk)},
			stream: "TASKS_BULK", subject: "tasks.bulk.email.reset",
		},
		{
			name: "tenant", args: Send{To: "a"}, opts: []client.PublishOption{client.Tenant("acme-1")},
			stream: "TASKS_DEFAULT", subject: "tasks.default.email.send.acme-1",
		},
		{
			name: "deadline", args: Send{To: "a"}, opts: []client.PublishOption{client.Deadline(deadline)},
			stream: "TASKS_DEFAULT", subject: "tasks.default.email.send",
			header: nats.Header{"Task-Deadline": {"2030-01-02T02:04:05.000000678Z"}},
		},
		{
			name: "no deadline", args: Send{To: "a"}, opts: []client.PublishOption{client.Deadline(time.Time{})},
			stream: "TASKS_DEFAULT", subject: "tasks.default.email.send",
		},
		{
			name: "id", args: Send{To: "a"}, opts: []client.PublishOption{client.ID("order 7/ü")},
			stream: "TASKS_DEFAULT", subject: "tasks.default.email.send",
			header: nats.Header{"Nats-Msg-Id": {"email.send:order 7/ü"}, "Task-Id": {"order 7/ü"}},
		},
		{name: "raw", args: task.Raw{Name: "email.send", Body: raw}, stream: "TASKS_DEFAULT", subject: "tasks.default.email.send"},
		{name: "raw without body", args: task.Raw{Name: "email.purge"}, stream: "TASKS_DEFAULT", subject: "tasks.default.email.purge"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rc, err := c.Publish(t.Context(), tt.args, tt.opts...)
			if err != nil {
				t.Fatalf("Publish(%v) = %v", tt.args, err)
			}
			if rc.Stream != tt.stream || rc.Duplicate || rc.ID == "" {
				t.Errorf("Publish(%v) = %+v, want in %s", tt.args, rc, tt.stream)
			}
			m := message(t, js, rc)
			if m.Subject != tt.subject {
				t.Errorf("subject %s, want %s", m.Subject, tt.subject)
			}
			want := nats.Header{"Nats-Msg-Id": {rc.ID}}
			maps.Copy(want, tt.header)
			if diff := cmp.Diff(want, m.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			body, err := task.Marshal(tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(body, m.Data) {
				t.Errorf("body %x, want %x", m.Data, body)
			}
			s, err := task.ReadState(m.Subject, m.Header, task.Stored{Stream: rc.Stream, Sequence: m.Sequence, Time: m.Time})
			if err != nil || s.ID != rc.ID || !s.EnqueuedAt.Equal(m.Time) {
				t.Errorf("ReadState = %+v, %v, want id %s enqueued at %v", s, err, rc.ID, m.Time)
			}
		})
	}
}

func TestPublishMakesIDs(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	seen := map[string]bool{}
	for range 100 {
		rc, err := c.Publish(t.Context(), Send{})
		if err != nil {
			t.Fatalf("Publish = %v", err)
		}
		if seen[rc.ID] || task.Token(rc.ID) != rc.ID || len(rc.ID) < 22 {
			t.Fatalf("id %q, want a new legal token of 22 characters or more", rc.ID)
		}
		seen[rc.ID] = true
	}
}

func TestPublishTwice(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	first, err := c.Publish(t.Context(), Send{To: "a"}, client.ID("one"))
	if err != nil {
		t.Fatalf("Publish = %v", err)
	}
	second, err := c.Publish(t.Context(), Send{To: "b"}, client.ID("one"))
	if err != nil {
		t.Fatalf("Publish again = %v", err)
	}
	first.Duplicate = true
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("second receipt (-want +got):\n%s", diff)
	}
	if n := stored(t, js, "TASKS_DEFAULT"); n != 1 {
		t.Errorf("%d tasks stored, want 1", n)
	}
}

// What is one number to a producer may be several tasks, of one class or of two.
func TestPublishOneIDForTwoKinds(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	for i, args := range []task.Args{task.Raw{Name: "email.send"}, task.Raw{Name: "email.invoice"}} {
		for _, class := range []task.Class{task.Default, task.Slow} {
			rc, err := c.Publish(t.Context(), args, client.ID("order-17"), client.Class(class))
			want := client.Receipt{ID: "order-17", Stream: class.Stream(), Sequence: uint64(i + 1)}
			if err != nil || rc != want {
				t.Errorf("Publish %s to %s = %+v, %v, want %+v", args.Kind(), class, rc, err, want)
			}
			want.Duplicate = true
			if rc, err = c.Publish(t.Context(), args, client.ID("order-17"), client.Class(class)); err != nil || rc != want {
				t.Errorf("Publish %s to %s again = %+v, %v, want %+v", args.Kind(), class, rc, err, want)
			}
		}
	}
}

// A task whose fate is unknown is published again under the id that was made for
// it, and that must be no second task.
func TestPublishAgainUnderMadeID(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	out, err := client.PublishAll(t.Context(), c, make([]Send, 100))
	if err != nil {
		t.Fatalf("PublishAll = %v", err)
	}
	for _, o := range out {
		want := o.Receipt
		want.Duplicate = true
		if rc, err := c.Publish(t.Context(), Send{}, client.ID(o.ID)); err != nil || rc != want {
			t.Errorf("Publish again = %+v, %v, want %+v", rc, err, want)
		}
	}
}

// named is a task of any kind.
type named string

func (n named) Kind() string { return string(n) }

func TestPublishRefusesBeforeSending(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	tasks, err := js.Conn().SubscribeSync("tasks.>")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := js.Conn().SubscribeSync("$O.>")
	if err != nil {
		t.Fatal(err)
	}
	cyclic := map[string]any{}
	at := cyclic
	for range 100 { // deeper than a body may be
		next := map[string]any{}
		at["a"], at = next, next
	}
	tests := []struct {
		name string
		args task.Args
		opts []client.PublishOption
		want error
	}{
		{name: "nil", want: client.ErrOption},
		{name: "empty kind", args: named(""), want: task.ErrBadSubject},
		{name: "one token", args: named("email"), want: task.ErrBadSubject},
		{name: "three tokens", args: named("email.send.now"), want: task.ErrBadSubject},
		{name: "empty action", args: named("email."), want: task.ErrBadSubject},
		{name: "wildcard", args: named("email.*"), want: task.ErrBadSubject},
		{name: "full wildcard", args: named("email.>"), want: task.ErrBadSubject},
		{name: "space", args: named("email.se nd"), want: task.ErrBadSubject},
		{name: "line break", args: named("email.send\r\nPUB x 0"), want: task.ErrBadSubject},
		{name: "long", args: named("email." + strings.Repeat("x", 65)), want: task.ErrBadSubject},
		{name: "class", args: Send{}, opts: []client.PublishOption{client.Class("default.x")}, want: task.ErrBadSubject},
		{name: "empty class", args: Send{}, opts: []client.PublishOption{client.Class("")}, want: task.ErrBadSubject},
		{name: "tenant", args: Send{}, opts: []client.PublishOption{client.Tenant("a.b")}, want: task.ErrBadSubject},
		{name: "empty tenant", args: Send{}, opts: []client.PublishOption{client.Tenant("")}, want: task.ErrBadSubject},
		{name: "empty id", args: Send{}, opts: []client.PublishOption{client.ID("")}, want: client.ErrOption},
		{name: "long id", args: Send{}, opts: []client.PublishOption{client.ID(strings.Repeat("x", 257))}, want: client.ErrOption},
		{name: "id with line break", args: Send{}, opts: []client.PublishOption{client.ID("a\r\nTask-Ref: x")}, want: client.ErrOption},
		{name: "id with space around", args: Send{}, opts: []client.PublishOption{client.ID(" a")}, want: client.ErrOption},
		{name: "id not UTF-8", args: Send{}, opts: []client.PublishOption{client.ID("a\xff")}, want: client.ErrOption},
		{name: "body no map", args: task.Raw{Name: "email.send", Body: []byte{0x93, 1, 2, 3}}, want: task.ErrBadBody},
		{name: "body too deep", args: tree(cyclic), want: task.ErrBadBody},
		{name: "body too large", args: task.Raw{Name: "email.send", Body: make([]byte, 16<<20+1)}, want: client.ErrTooLarge},
		{name: "encoded body too large", args: Send{Text: strings.Repeat("x", 16<<20)}, want: client.ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rc, err := c.Publish(t.Context(), tt.args, tt.opts...)
			if !errors.Is(err, tt.want) || errors.Is(err, client.ErrUnknown) {
				t.Errorf("Publish = %+v, %v, want %v", rc, err, tt.want)
			}
			out, err := client.PublishAll(t.Context(), c, []task.Args{tt.args}, tt.opts...)
			if len(out) == 1 && !errors.Is(out[0].Err, tt.want) || err == nil {
				t.Errorf("PublishAll = %+v, %v, want %v", out, err, tt.want)
			}
		})
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []*nats.Subscription{tasks, objects} {
		if n, _, err := sub.Pending(); n != 0 || err != nil {
			t.Errorf("%d messages were sent to %s (%v), want none", n, sub.Subject, err)
		}
	}
}

type tree map[string]any

func (tree) Kind() string { return "email.send" }

func TestPublishToFullStream(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgs = 2 })
	c := newClient(t, js)
	for range 2 {
		if _, err := c.Publish(t.Context(), Send{}); err != nil {
			t.Fatalf("Publish = %v", err)
		}
	}
	if _, err := c.Publish(t.Context(), Send{}); !errors.Is(err, client.ErrFull) || errors.Is(err, client.ErrUnknown) {
		t.Errorf("Publish to a full stream = %v, want ErrFull", err)
	}
	out, err := client.PublishAll(t.Context(), c, []task.Args{Send{}, Reset{}})
	if !errors.Is(err, client.ErrFull) || !errors.Is(out[0].Err, client.ErrFull) || out[1].Err != nil {
		t.Errorf("PublishAll = %+v, %v, want ErrFull for the first", out, err)
	}
	// A body that went ahead of its task is taken back.
	if _, err := c.Publish(t.Context(), Send{Text: noise(400 << 10)}); !errors.Is(err, client.ErrFull) {
		t.Errorf("Publish with a large body to a full stream = %v, want ErrFull", err)
	}
	if got := bodies(t, js); len(got) != 0 {
		t.Errorf("BODIES holds %v, want nothing", got)
	}
}

func TestPublishWithoutStream(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	c := newClient(t, js)
	start := time.Now()
	_, err := c.Publish(t.Context(), Send{})
	if !errors.Is(err, client.ErrNoStream) || errors.Is(err, client.ErrUnknown) {
		t.Errorf("Publish = %v, want ErrNoStream", err)
	}
	for _, word := range []string{"tasks.default.email.send", "fleet.yaml", "drover streams apply"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("Publish = %v, want %q in it", err, word)
		}
	}
	out, err := client.PublishAll(t.Context(), c, slices.Repeat([]Send{{}}, 3000))
	if !errors.Is(err, client.ErrNoStream) || !errors.Is(out[2999].Err, client.ErrNoStream) {
		t.Errorf("PublishAll = %v, want ErrNoStream for all", err)
	}
	if _, err = c.Publish(t.Context(), Send{Text: noise(400 << 10)}); !errors.Is(err, client.ErrNoStream) || !strings.Contains(err.Error(), "object store") {
		t.Errorf("Publish with a large body = %v, want ErrNoStream about the object store", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %v to find out, want no patience for a stream that does not exist", d)
	}
}

func TestPublishAtStreamsLimit(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	rc, err := c.Publish(t.Context(), Send{Text: noise(3000)}, client.ID("probe"))
	if err != nil {
		t.Fatalf("Publish = %v", err)
	}
	m := message(t, js, rc)
	header := len("NATS/1.0\r\nNats-Msg-Id: email.send:probe\r\nTask-Id: probe\r\n\r\n")
	limit := func(n int) *jetstream.JetStream {
		js := natstest.JetStream(t)
		fleet(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgSize = int32(n) })
		return &js
	}
	exact := newClient(t, *limit(len(m.Data) + header))
	if _, err := exact.Publish(t.Context(), Send{Text: noise(3000)}, client.ID("probe")); err != nil {
		t.Errorf("Publish of exactly the limit = %v", err)
	}
	less := newClient(t, *limit(len(m.Data) + header - 1))
	if _, err := less.Publish(t.Context(), Send{Text: noise(3000)}, client.ID("probe")); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("Publish of a byte above the limit = %v, want ErrTooLarge", err)
	}
}

// noise is n random characters, so many different ones that compression saves a
// quarter.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = '0' + b[i]%64
	}
	return string(b)
}

func TestForward(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	msg := &nats.Msg{
		Subject: "tasks.slow.email.send", Data: []byte{0x80},
		Header: nats.Header{"Nats-Msg-Id": {"k"}, "Task-Id": {"id"}, "Task-Generation": {"1"}},
	}
	rc, err := c.Forward(t.Context(), msg)
	if want := (client.Receipt{ID: "id", Stream: "TASKS_SLOW", Sequence: 1}); err != nil || rc != want {
		t.Errorf("Forward = %+v, %v, want %+v", rc, err, want)
	}
	if rc, err = c.Forward(t.Context(), msg); err != nil || !rc.Duplicate {
		t.Errorf("Forward again = %+v, %v, want a duplicate", rc, err)
	}
	if got := message(t, js, rc); cmp.Diff(msg.Header, got.Header) != "" || string(got.Data) != "\x80" {
		t.Errorf("stored %v %q, want the message as it was", got.Header, got.Data)
	}
	delete(msg.Header, "Nats-Msg-Id")
	if _, err := c.Forward(t.Context(), msg); !errors.Is(err, client.ErrOption) {
		t.Errorf("Forward without Nats-Msg-Id = %v, want ErrOption", err)
	}
	msg.Subject = "retry.wait.x"
	if _, err := c.Forward(t.Context(), msg); !errors.Is(err, task.ErrBadSubject) {
		t.Errorf("Forward elsewhere = %v, want ErrBadSubject", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := client.New(nil); !errors.Is(err, client.ErrOption) {
		t.Errorf("New(nil) = %v, want ErrOption", err)
	}
}

func TestPublishWithEndedContext(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	why := errors.New("the request was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := c.Publish(ctx, Send{})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || errors.Is(err, client.ErrUnknown) {
		t.Errorf("Publish = %v, want the context's error and its cause, and nothing unknown", err)
	}
	out, err := client.PublishAll(ctx, c, []Send{{}, {}})
	if !errors.Is(err, context.Canceled) || len(out) != 2 || errors.Is(err, client.ErrUnknown) {
		t.Errorf("PublishAll = %+v, %v, want the context's error", out, err)
	}
	if n := stored(t, js, "TASKS_DEFAULT"); n != 0 {
		t.Errorf("%d tasks stored, want none", n)
	}
}
