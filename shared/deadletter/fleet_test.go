package deadletter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
)

// fleet makes DEAD, BODIES and the class streams of the services email and webhook.
func fleet(tb testing.TB, js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) {
	tb.Helper()
	create := func(c jetstream.StreamConfig) {
		c.AllowDirect, c.Discard, c.Duplicates = true, jetstream.DiscardNew, 10*time.Minute
		for _, f := range change {
			f(&c)
		}
		if _, err := js.CreateStream(tb.Context(), c); err != nil {
			tb.Fatalf("create %s: %v", c.Name, err)
		}
	}
	create(jetstream.StreamConfig{Name: task.DeadStream, Subjects: []string{"dead.>"}})
	for _, c := range []task.Class{task.Urgent, task.Default} {
		create(jetstream.StreamConfig{
			Name: c.Stream(), Subjects: []string{task.Filter(c, "email"), task.Filter(c, "webhook")},
			Retention: jetstream.WorkQueuePolicy, MaxMsgSize: 512 << 10,
		})
	}
	if _, err := js.CreateObjectStore(tb.Context(), jetstream.ObjectStoreConfig{Bucket: task.BodiesBucket}); err != nil {
		tb.Fatalf("create %s: %v", task.BodiesBucket, err)
	}
}

const oldTrace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

var (
	enqueued = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)
	died     = enqueued.Add(time.Hour)
)

// dead is a task that failed for good.
func dead(id string) task.State {
	return task.State{
		Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"},
		ID:      id, Attempt: 2, Hop: 3, EnqueuedAt: enqueued, DiedAt: died, Reason: task.Failed,
		Errors: []task.Failure{
			{Attempt: 1, At: enqueued.Add(time.Second), Error: "connection refused", Trace: oldTrace},
			{Attempt: 2, At: died, Error: "Mailbox Full", Trace: oldTrace},
		},
		Prev: oldTrace,
	}
}

// bury stores a letter as the worker does, and returns its sequence.
func bury(tb testing.TB, js jetstream.JetStream, s task.State, original nats.Header, body []byte) uint64 {
	tb.Helper()
	h := s.Header(original)
	h[task.HeaderMsgID] = []string{s.MoveID()}
	return put(tb, js, s.Subject.Dead(s.ID), h, body)
}

func put(tb testing.TB, js jetstream.JetStream, subject string, h nats.Header, body []byte) uint64 {
	tb.Helper()
	ack, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: subject, Header: h, Data: body})
	if err != nil {
		tb.Fatalf("bury %s: %v", subject, err)
	}
	return ack.Sequence
}

func letter(tb testing.TB, js jetstream.JetStream, sequence uint64) deadletter.Letter {
	tb.Helper()
	l, err := deadletter.At(tb.Context(), js, sequence)
	if err != nil {
		tb.Fatalf("At(%d) = %v", sequence, err)
	}
	return l
}

// list returns the sequences that f lets pass.
func list(tb testing.TB, js jetstream.JetStream, f deadletter.Filter) []uint64 {
	tb.Helper()
	var got []uint64
	for l, err := range deadletter.List(tb.Context(), js, f) {
		if err != nil {
			tb.Fatalf("List(%+v) = %v", f, err)
		}
		got = append(got, l.Sequence)
	}
	return got
}

func stored(tb testing.TB, js jetstream.JetStream, stream string) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatalf("bind %s: %v", stream, err)
	}
	return s.CachedInfo().State.Msgs
}

// message reads a task, without the headers that reading adds.
func message(tb testing.TB, js jetstream.JetStream, stream string, sequence uint64) *jetstream.RawStreamMsg {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatalf("bind %s: %v", stream, err)
	}
	m, err := s.GetMsg(tb.Context(), sequence)
	if err != nil {
		tb.Fatalf("get %s %d: %v", stream, sequence, err)
	}
	for _, k := range []string{"Nats-Stream", "Nats-Sequence", "Nats-Subject", "Nats-Time-Stamp"} {
		m.Header.Del(k)
	}
	return m
}

func body(tb testing.TB, args any) []byte {
	tb.Helper()
	b, err := task.Marshal(args)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func wantError(tb testing.TB, what string, err error, want ...error) {
	tb.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			tb.Errorf("%s = %v, want %v", what, err, w)
		}
	}
}

func name(i int) string { return fmt.Sprintf("t-%05d", i) }
