package streams_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const mib = 1 << 20

func TestMain(m *testing.M) { natstest.Main(m, nil) }

// golden compares got with a file in testdata, or rewrites the file.
func golden(tb testing.TB, name, got string) {
	tb.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		tb.Errorf("%s (-want +got; go test ./streams -update rewrites it):\n%s", name, d)
	}
}

// small is a fleet of one class and one service, for tests of single changes.
func small() *streams.Fleet {
	return &streams.Fleet{
		Classes: []streams.Class{{
			Name: task.Urgent, AckWait: 20 * time.Second, TimeLimit: 15 * time.Second,
			Attempts: 5, MaxDeliver: 3, WaitObjective: 100 * time.Millisecond, Slots: 64, MaxBytes: 8 * mib,
		}},
		Services: []streams.Service{{Name: "email", Classes: []task.Class{task.Urgent}}},
		Dead:     streams.Store{MaxBytes: 8 * mib},
		Bodies:   streams.Store{MaxBytes: 8 * mib},
	}
}

// with returns small after change.
func with(change func(*streams.Fleet)) *streams.Fleet {
	f := small()
	change(f)
	return f
}

func apply(tb testing.TB, js jetstream.JetStream, f *streams.Fleet) []streams.Change {
	tb.Helper()
	changes, err := streams.Apply(tb.Context(), js, f)
	if err != nil {
		tb.Fatalf("Apply: %v", err)
	}
	return changes
}

// publish stores n tasks and fails the test when the broker does not.
func publish(tb testing.TB, js jetstream.JetStream, subject string, n int) {
	tb.Helper()
	for range n {
		if _, err := js.Publish(tb.Context(), subject, nil); err != nil {
			tb.Fatalf("publish %s: %v", subject, err)
		}
	}
}

// timer stores a message that fires to target at when.
func timer(tb testing.TB, js jetstream.JetStream, s task.Subject, id string, when time.Time) {
	tb.Helper()
	_, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: s.RetryWait(id), Header: nats.Header{
		task.HeaderSchedule:       {"@at " + when.UTC().Format(time.RFC3339Nano)},
		task.HeaderScheduleTarget: {s.RetryReady(id)},
		task.HeaderSubject:        {s.String()},
		task.HeaderID:             {id},
	}})
	if err != nil {
		tb.Fatalf("publish timer %s: %v", id, err)
	}
}

func setStream(tb testing.TB, js jetstream.JetStream, name string, change func(*jetstream.StreamConfig)) {
	tb.Helper()
	s, err := js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatalf("read stream %s: %v", name, err)
	}
	cfg := s.CachedInfo().Config
	change(&cfg)
	if _, err := js.UpdateStream(tb.Context(), cfg); err != nil {
		tb.Fatalf("update stream %s: %v", name, err)
	}
}

func setConsumer(tb testing.TB, js jetstream.JetStream, stream, name string, change func(*jetstream.ConsumerConfig)) {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), stream, name)
	if err != nil {
		tb.Fatalf("read consumer %s/%s: %v", stream, name, err)
	}
	cfg := c.CachedInfo().Config
	change(&cfg)
	if _, err := js.UpdateConsumer(tb.Context(), stream, cfg); err != nil {
		tb.Fatalf("update consumer %s/%s: %v", stream, name, err)
	}
}

// remakeStream replaces a stream by an empty one without consumers, changed.
func remakeStream(tb testing.TB, js jetstream.JetStream, name string, change func(*jetstream.StreamConfig)) {
	tb.Helper()
	s, err := js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatalf("read stream %s: %v", name, err)
	}
	cfg := s.CachedInfo().Config
	change(&cfg)
	if err := js.DeleteStream(tb.Context(), name); err != nil {
		tb.Fatalf("delete stream %s: %v", name, err)
	}
	if _, err := js.CreateStream(tb.Context(), cfg); err != nil {
		tb.Fatalf("create stream %s: %v", name, err)
	}
}

// remakeConsumer replaces a consumer by a new one, changed.
func remakeConsumer(tb testing.TB, js jetstream.JetStream, stream, name string, change func(*jetstream.ConsumerConfig)) {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), stream, name)
	if err != nil {
		tb.Fatalf("read consumer %s/%s: %v", stream, name, err)
	}
	cfg := c.CachedInfo().Config
	change(&cfg)
	if err := js.DeleteConsumer(tb.Context(), stream, name); err != nil {
		tb.Fatalf("delete consumer %s/%s: %v", stream, name, err)
	}
	if _, err := js.CreateConsumer(tb.Context(), stream, cfg); err != nil {
		tb.Fatalf("create consumer %s/%s: %v", stream, name, err)
	}
}
