package worker_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// note is the kind that these tests run.
type note struct {
	Text string `msgpack:"text"`
	N    int    `msgpack:"n"`
}

func (note) Kind() string { return "test.note" }

const ackWait = 30 * time.Second

// topology applies a fleet of one service, "test", that serves three classes.
func topology(tb testing.TB, js jetstream.JetStream, ackWait time.Duration) {
	tb.Helper()
	replicated(tb, js, ackWait, 0)
}

// replicated is topology with so many replicas of everything.
func replicated(tb testing.TB, js jetstream.JetStream, ackWait time.Duration, replicas int) {
	tb.Helper()
	fleet := &streams.Fleet{Replicas: replicas, AllowShortAckWait: true, Services: []streams.Service{{Name: "test", Processes: 4}}}
	for _, c := range []task.Class{task.Urgent, task.Default, task.Slow} {
		fleet.Services[0].Classes = append(fleet.Services[0].Classes, c)
		fleet.Classes = append(fleet.Classes, streams.Class{
			Name: c, AckWait: ackWait, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3, WaitObjective: time.Second, Slots: 32,
		})
	}
	if _, err := streams.Apply(tb.Context(), js, fleet); err != nil {
		tb.Fatal(err)
	}
}

// start runs a worker until the test ends, or until stop is called, which
// returns what Run returned.
func start(tb testing.TB, js jetstream.JetStream, register func(*worker.Worker), opts ...worker.Option) (w *worker.Worker, stop func() error) {
	tb.Helper()
	w, err := worker.New(js, "test", append([]worker.Option{worker.Logger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	register(w)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	tb.Cleanup(func() { _ = stop() })
	return w, stop
}

func publish(tb testing.TB, js jetstream.JetStream, id string, args note) {
	tb.Helper()
	body, err := task.Marshal(args)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: "tasks.default.test.note", Data: body}, jetstream.WithMsgID(id)); err != nil {
		tb.Fatal(err)
	}
}

// letters returns what is in DEAD, oldest first.
func letters(tb testing.TB, js jetstream.JetStream) []*jetstream.RawStreamMsg {
	tb.Helper()
	return all(tb, js, "DEAD")
}

// all returns the messages of a stream, oldest first.
func all(tb testing.TB, js jetstream.JetStream, stream string) []*jetstream.RawStreamMsg {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatal(err)
	}
	var msgs []*jetstream.RawStreamMsg
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(tb.Context(), seq)
		if err == nil {
			msgs = append(msgs, m)
		}
	}
	return msgs
}

// state reads the state that a stored message carries.
func state(tb testing.TB, stream string, m *jetstream.RawStreamMsg) task.State {
	tb.Helper()
	st, err := task.ReadState(m.Subject, m.Header, task.Stored{Stream: stream, Sequence: m.Sequence, Time: m.Time})
	if err != nil {
		tb.Fatalf("state of message %d of %s: %v", m.Sequence, stream, err)
	}
	return st
}

// empty fails the test unless the streams hold nothing.
func empty(tb testing.TB, js jetstream.JetStream, streams ...string) {
	tb.Helper()
	for _, name := range streams {
		for _, m := range all(tb, js, name) {
			tb.Errorf("%s still holds %s %v", name, m.Subject, m.Header)
		}
	}
}
