package backlog_test

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/streams/backlog"
)

// newFleet is the built-in fleet on a broker of its own.
func newFleet(tb testing.TB) (jetstream.JetStream, *streams.Fleet) {
	tb.Helper()
	js := natstest.JetStream(tb)
	f := streams.Default()
	if _, err := streams.Apply(tb.Context(), js, f); err != nil {
		tb.Fatal(err)
	}
	return js, f
}

var (
	mail = task.Subject{Class: task.Default, Service: "email", Action: "send"}
	hook = task.Subject{Class: task.Urgent, Service: "webhook", Action: "deliver", Tenant: "acme"}
)

func put(tb testing.TB, js jetstream.JetStream, subject string, h nats.Header, body []byte) uint64 {
	tb.Helper()
	ack, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: subject, Header: h, Data: body})
	if err != nil {
		tb.Fatalf("publish %s: %v", subject, err)
	}
	return ack.Sequence
}

func publish(tb testing.TB, js jetstream.JetStream, s task.Subject, id string) uint64 {
	tb.Helper()
	return put(tb, js, s.String(), nats.Header{task.HeaderID: {id}}, nil)
}

// moved stores a task as a worker moves it.
func moved(tb testing.TB, js jetstream.JetStream, subject string, s task.State, more ...string) {
	tb.Helper()
	h := s.Header(nil)
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = []string{more[i+1]}
	}
	put(tb, js, subject, h, nil)
}

// everywhere puts a task into each place, and has two of those that wait taken.
func everywhere(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	enqueued := time.Now().Add(-time.Hour)
	failed := task.State{Subject: mail, Attempt: 1, Hop: 1, EnqueuedAt: enqueued, Reason: task.Retried, Errors: []task.Failure{{Attempt: 1, At: enqueued, Error: "refused"}}}
	for i, id := range []string{"held", "a", "b"} {
		if seq := publish(t, js, mail, id); seq != uint64(i+1) {
			t.Fatalf("sequence %d, want %d", seq, i+1)
		}
	}
	publish(t, js, hook, "c")
	failed.ID = "timer"
	moved(t, js, mail.RetryWait("timer"), failed, task.HeaderSchedule, "@at "+time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano),
		task.HeaderScheduleTarget, mail.RetryReady("timer"))
	failed.ID = "due"
	moved(t, js, mail.RetryReady("due"), failed)
	failed.ID, failed.DiedAt, failed.Reason = "dead", time.Now(), task.Failed
	moved(t, js, mail.Dead("dead"), failed)
	take(t, js, mail.Class.Stream(), "email")
}

// take has one task handed out.
func take(tb testing.TB, js jetstream.JetStream, stream, consumer string) {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), stream, consumer)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
		tb.Fatal(err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	js, f := newFleet(t)
	everywhere(t, js)
	for _, tt := range []struct {
		name   string
		filter backlog.Filter
		want   []string // "id place", oldest first
		more   uint64
		unsure bool
	}{
		{name: "all that live", want: []string{"timer retry", "due due", "held held", "a waiting", "b waiting", "c waiting"}},
		{name: "waiting", filter: backlog.Filter{Place: backlog.Waiting}, want: []string{"a waiting", "b waiting", "c waiting"}},
		{name: "held", filter: backlog.Filter{Place: backlog.Held}, want: []string{"held held"}},
		{name: "due", filter: backlog.Filter{Place: backlog.Due}, want: []string{"due due"}},
		{name: "timers", filter: backlog.Filter{Place: backlog.Timer}, want: []string{"timer retry"}},
		{name: "dead", filter: backlog.Filter{Place: backlog.Dead}, want: []string{"dead dead"}},
		{name: "class", filter: backlog.Filter{Class: task.Urgent}, want: []string{"c waiting"}},
		{name: "service", filter: backlog.Filter{Service: "webhook"}, want: []string{"c waiting"}},
		{name: "kind", filter: backlog.Filter{Kind: "email.send", Limit: 2, Place: backlog.Waiting}, want: []string{"a waiting", "b waiting"}},
		{name: "kind with a tenant", filter: backlog.Filter{Kind: "webhook.deliver"}, want: []string{"c waiting"}},
		{name: "another kind", filter: backlog.Filter{Kind: "email.receive"}},
		{name: "tenant", filter: backlog.Filter{Tenant: "acme"}, want: []string{"c waiting"}},
		{name: "another tenant", filter: backlog.Filter{Tenant: "umbrella"}},
		{name: "limit", filter: backlog.Filter{Service: "email", Limit: 3}, want: []string{"timer retry", "due due", "held held"}, more: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := backlog.List(t.Context(), js, f, tt.filter)
			if err != nil {
				t.Fatalf("List = %v", err)
			}
			var got []string
			for _, x := range l.Tasks {
				got = append(got, x.ID+" "+string(x.Place))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || l.More != tt.more || l.Unsure != tt.unsure {
				t.Errorf("List(%+v): %d more, unsure %v, want %d and %v (-want +got):\n%s", tt.filter, l.More, l.Unsure, tt.more, tt.unsure, diff)
			}
		})
	}
}

// Of a long queue a few are read, and the count of the others is exact.
func TestListLong(t *testing.T) {
	t.Parallel()
	js, f := newFleet(t)
	for i := range 700 {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: mail.String(), Header: nats.Header{task.HeaderID: {strconv.Itoa(i)}}}); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	l, err := backlog.List(t.Context(), js, f, backlog.Filter{Service: "email"})
	if err != nil || len(l.Tasks) != 50 || l.More != 650 || l.Tasks[0].ID != "0" {
		t.Errorf("List = %d tasks, %d more, %v, want 50, 650, nil", len(l.Tasks), l.More, err)
	}
	l, err = backlog.List(t.Context(), js, f, backlog.Filter{Service: "email", Limit: 600})
	if err != nil || len(l.Tasks) != 600 || l.More != 100 || l.Tasks[599].ID != "599" {
		t.Errorf("List = %d tasks, %d more, %v, want 600, 100, nil", len(l.Tasks), l.More, err)
	}
	found, searched, err := backlog.Find(t.Context(), js, f, "650", backlog.Where{Scan: 300})
	if err != nil || len(found) != 0 {
		t.Errorf("Find among 300 = %v, %v, want none", found, err)
	}
	want := []backlog.Searched{{Stream: "RETRY"}, {Stream: "DEAD"}, {Stream: "TASKS_URGENT"}, {Stream: "TASKS_DEFAULT", Looked: 300, Left: 400}, {Stream: "TASKS_BULK"}}
	if diff := cmp.Diff(want, searched); diff != "" {
		t.Errorf("searched (-want +got):\n%s", diff)
	}
	if found, _, err = backlog.Find(t.Context(), js, f, "650", backlog.Where{}); err != nil || len(found) != 1 || found[0].Stored.Sequence != 651 {
		t.Errorf("Find = %v, %v, want the one at 651", found, err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	js, f := newFleet(t)
	everywhere(t, js)
	strange := "an id with spaces > and dots."
	moved(t, js, mail.RetryReady(strange), task.State{Subject: mail, ID: strange})
	derived := put(t, js, mail.String(), nil, nil)
	s, err := js.Stream(t.Context(), mail.Class.Stream())
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), derived)
	if err != nil {
		t.Fatal(err)
	}
	st, _ := task.ReadState(m.Subject, m.Header, task.Stored{Stream: mail.Class.Stream(), Sequence: derived, Time: m.Time})
	for id, want := range map[string]backlog.Place{
		"held": backlog.Held, "a": backlog.Waiting, "c": backlog.Waiting, "timer": backlog.Timer, "due": backlog.Due, "dead": backlog.Dead,
		strange: backlog.Due, st.ID: backlog.Waiting,
	} {
		found, _, err := backlog.Find(t.Context(), js, f, id, backlog.Where{})
		if err != nil || len(found) != 1 || found[0].Place != want || found[0].ID != id {
			t.Errorf("Find(%q) = %+v, %v, want one that is %s", id, found, err, want)
		}
	}
	publish(t, js, hook, "a")
	if found, _, err := backlog.Find(t.Context(), js, f, "a", backlog.Where{}); err != nil || len(found) != 2 {
		t.Errorf("Find of an id that two have = %d, %v, want both", len(found), err)
	}
	if found, _, err := backlog.Find(t.Context(), js, f, "a", backlog.Where{Kind: "webhook.deliver"}); err != nil || len(found) != 1 || found[0].Subject != hook {
		t.Errorf("Find by kind = %+v, %v, want the one of webhook", found, err)
	}
}

// What strangers wrote is listed with what cannot be read of it.
func TestDamaged(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	f := streams.Default()
	if _, err := streams.Apply(t.Context(), js, f); err != nil {
		t.Fatal(err)
	}
	put(t, js, mail.String(), nats.Header{task.HeaderAttempt: {"many"}, "Nats-Sequence": {"77"}, "Status": {"404"}}, nil)
	natstest.PublishRaw(t, url, mail.String(), natstest.BadHeader, "body")
	publish(t, js, mail, "after")
	natstest.PublishRaw(t, url, mail.String(), natstest.BadHeader, "body")
	l, err := backlog.List(t.Context(), js, f, backlog.Filter{})
	if err != nil || len(l.Tasks) != 4 {
		t.Fatalf("List = %+v, %v, want four", l, err)
	}
	for _, x := range l.Tasks {
		switch x.Stored.Sequence {
		case 1:
			if !errors.Is(x.Problem, task.ErrBadHeader) || x.Stored.Header.Get("Status") != "404" || x.Stored.Header.Get("Nats-Sequence") != "77" {
				t.Errorf("task with a header that is no number = %+v, want its problem and its own headers", x)
			}
		case 2, 4:
			if !errors.Is(x.Problem, task.ErrBadHeader) || string(x.Stored.Data) != "body" {
				t.Errorf("task whose headers do not parse = %+v, want its problem and its body", x)
			}
		case 3:
			if x.Problem != nil || x.ID != "after" {
				t.Errorf("task after a damaged one = %+v, want it whole", x)
			}
		default:
			t.Errorf("task with sequence %d, want 1 to 4", x.Stored.Sequence)
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	js, f := newFleet(t)
	want := map[string]any{"to": strings.Repeat("ada", 10_000)}
	body, err := task.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	packed, ok := task.Compress(body)
	if !ok {
		t.Fatal("Compress has not helped")
	}
	store, err := js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(t.Context(), "body", body); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		id   string
		h    nats.Header
		body []byte
		want error
	}{
		{id: "plain", body: body},
		{id: "ref", h: nats.Header{task.HeaderRef: {"body"}}},
		{id: "zstd", h: nats.Header{task.HeaderEncoding: {task.EncodingZstd}}, body: packed},
		{id: "gone", h: nats.Header{task.HeaderRef: {"nothing"}}, want: bodies.ErrNotFound},
		{id: "bomb", body: []byte{0xdd, 0xff, 0xff, 0xff, 0xff}, want: task.ErrBadBody},
	} {
		h := nats.Header{task.HeaderID: {tt.id}}
		maps.Copy(h, tt.h)
		put(t, js, mail.String(), h, tt.body)
		found, _, err := backlog.Find(t.Context(), js, f, tt.id, backlog.Where{})
		if err != nil || len(found) != 1 {
			t.Fatalf("Find(%s) = %v, %v", tt.id, found, err)
		}
		args, err := found[0].Arguments(t.Context(), js)
		if !errors.Is(err, tt.want) {
			t.Errorf("Arguments of %s = %v, want %v", tt.id, err, tt.want)
		}
		if diff := cmp.Diff(want, args); tt.want == nil && diff != "" {
			t.Errorf("Arguments of %s (-want +got):\n%s", tt.id, diff)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	f := streams.Default()
	for _, tt := range []struct {
		name   string
		filter backlog.Filter
		want   error
	}{
		{"no stream", backlog.Filter{}, backlog.ErrNoStream},
		{"limit", backlog.Filter{Limit: -1}, backlog.ErrFilter},
		{"place", backlog.Filter{Place: "here"}, backlog.ErrFilter},
		{"class", backlog.Filter{Class: "slow.>"}, backlog.ErrFilter},
		{"service", backlog.Filter{Service: ">"}, task.ErrBadSubject},
		{"tenant", backlog.Filter{Tenant: "*"}, task.ErrBadSubject},
		{"kind", backlog.Filter{Kind: "email"}, task.ErrBadSubject},
		{"kind of another", backlog.Filter{Kind: "email.send", Service: "webhook"}, backlog.ErrFilter},
	} {
		if _, err := backlog.List(t.Context(), js, f, tt.filter); !errors.Is(err, tt.want) {
			t.Errorf("%s: List = %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, _, err := backlog.Find(t.Context(), js, f, "", backlog.Where{}); !errors.Is(err, backlog.ErrFilter) {
		t.Errorf("Find without id = %v, want ErrFilter", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := backlog.List(ctx, js, f, backlog.Filter{}); err == nil {
		t.Error("List with an ended context = nil")
	}
}

// Tasks of a fair class are found by tenant and kind in whatever partition they are,
// and those that one partition has handed out are held.
func TestListFair(t *testing.T) {
	t.Parallel()
	js, f := newFleet(t)
	send := task.Subject{Class: task.Bulk, Service: "email", Action: "send"}
	acme, umbrella := send, send
	acme.Tenant, umbrella.Tenant = "acme", "umbrella"
	for _, id := range []string{"a", "b"} {
		publish(t, js, acme, id)
	}
	publish(t, js, umbrella, "c")
	publish(t, js, send, "d")
	take(t, js, task.Bulk.Stream(), task.PartitionConsumer("email", 7)) // acme's
	for _, tt := range []struct {
		name   string
		filter backlog.Filter
		want   string
	}{
		{"class", backlog.Filter{Class: task.Bulk}, "a held, b waiting, c waiting, d waiting"},
		{"tenant", backlog.Filter{Tenant: "acme"}, "a held, b waiting"},
		{"tenant and kind", backlog.Filter{Tenant: "umbrella", Kind: "email.send"}, "c waiting"},
		{"kind", backlog.Filter{Kind: "email.send"}, "a held, b waiting, c waiting, d waiting"},
		{"held", backlog.Filter{Kind: "email.send", Place: backlog.Held}, "a held"},
	} {
		l, err := backlog.List(t.Context(), js, f, tt.filter)
		var got []string
		for _, x := range l.Tasks {
			got = append(got, x.ID+" "+string(x.Place))
		}
		if s := strings.Join(got, ", "); err != nil || s != tt.want {
			t.Errorf("%s: List = %s, %v, want %s", tt.name, s, err, tt.want)
		}
	}
	found, _, err := backlog.Find(t.Context(), js, f, "c", backlog.Where{Kind: "email.send"})
	if err != nil || len(found) != 1 || found[0].Subject != umbrella {
		t.Errorf("Find = %+v, %v, want the task of umbrella", found, err)
	}
}
