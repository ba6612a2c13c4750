package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
)

// Send is a task of the default class.
type Send struct {
	To   string `msgpack:"to"`
	Text string `msgpack:"text"`
}

func (Send) Kind() string { return "email.send" }

// Reset is a task whose type names a class.
type Reset struct {
	To string `msgpack:"to"`
}

func (Reset) Kind() string      { return "email.reset" }
func (Reset) Class() task.Class { return task.Urgent }

// fleet makes the streams of a fleet whose only service is email.
func fleet(tb testing.TB, js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) {
	tb.Helper()
	for _, c := range []task.Class{task.Urgent, task.Default, task.Slow, task.Bulk} {
		cfg := jetstream.StreamConfig{
			Name:        c.Stream(),
			Subjects:    []string{task.Filter(c, "email")},
			Retention:   jetstream.WorkQueuePolicy,
			Discard:     jetstream.DiscardNew,
			MaxMsgSize:  512 << 10,
			Duplicates:  10 * time.Minute,
			AllowDirect: true,
		}
		for _, f := range change {
			f(&cfg)
		}
		if _, err := js.CreateStream(tb.Context(), cfg); err != nil {
			tb.Fatalf("create %s: %v", cfg.Name, err)
		}
	}
	if _, err := js.CreateObjectStore(tb.Context(), jetstream.ObjectStoreConfig{Bucket: task.BodiesBucket}); err != nil {
		tb.Fatalf("create %s: %v", task.BodiesBucket, err)
	}
}

func newClient(tb testing.TB, js jetstream.JetStream, opts ...client.Option) *client.Client {
	tb.Helper()
	c, err := client.New(js, opts...)
	if err != nil {
		tb.Fatalf("New = %v", err)
	}
	return c
}

// message reads what was stored.
func message(tb testing.TB, js jetstream.JetStream, rc client.Receipt) *jetstream.RawStreamMsg {
	tb.Helper()
	s, err := js.Stream(tb.Context(), rc.Stream)
	if err != nil {
		tb.Fatalf("bind %q: %v", rc.Stream, err)
	}
	m, err := s.GetMsg(tb.Context(), rc.Sequence)
	if err != nil {
		tb.Fatalf("get %s %d: %v", rc.Stream, rc.Sequence, err)
	}
	for _, k := range []string{"Nats-Stream", "Nats-Sequence", "Nats-Subject", "Nats-Time-Stamp"} {
		m.Header.Del(k) // of the direct get, not of the message
	}
	return m
}

// stored counts the messages of a stream.
func stored(tb testing.TB, js jetstream.JetStream, stream string) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatalf("bind %s: %v", stream, err)
	}
	return s.CachedInfo().State.Msgs
}

// bodies lists the names in BODIES.
func bodies(tb testing.TB, js jetstream.JetStream) []string {
	tb.Helper()
	store, err := js.ObjectStore(tb.Context(), task.BodiesBucket)
	if err != nil {
		tb.Fatalf("bind %s: %v", task.BodiesBucket, err)
	}
	infos, err := store.List(tb.Context())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		tb.Fatalf("list %s: %v", task.BodiesBucket, err)
	}
	var names []string
	for _, i := range infos {
		names = append(names, i.Name)
	}
	return names
}
