package record_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/record"
)

func TestMain(m *testing.M) { natstest.Main(m, nil) }

type note struct {
	Text string `json:"text"`
}

const name = "NOTES"

func create(tb testing.TB, js jetstream.JetStream) record.Bucket {
	tb.Helper()
	if _, err := js.CreateKeyValue(tb.Context(), jetstream.KeyValueConfig{Bucket: name, LimitMarkerTTL: time.Minute}); err != nil {
		tb.Fatal(err)
	}
	return record.In(js, name)
}

// put writes a note, which has to succeed.
func put(tb testing.TB, b record.Bucket, key, text string, ttl time.Duration, after uint64) uint64 {
	tb.Helper()
	seq, err := b.Put(tb.Context(), key, note{text}, ttl, after)
	if err != nil {
		tb.Fatalf("Put(%s) = %v", key, err)
	}
	return seq
}

func get(tb testing.TB, b record.Bucket, key string) (note, uint64) {
	tb.Helper()
	var n note
	seq, err := b.Get(tb.Context(), key, &n)
	if err != nil {
		tb.Fatalf("Get(%s) = %v", key, err)
	}
	return n, seq
}

// Of all who read the same record, one writes the next.
func TestCompareAndSet(t *testing.T) {
	t.Parallel()
	b := create(t, natstest.JetStream(t))
	if n, seq := get(t, b, "a"); n != (note{}) || seq != 0 {
		t.Errorf("Get of nothing = %v, %d, want nothing", n, seq)
	}
	first := put(t, b, "a", "first", time.Hour, 0)
	if _, err := b.Put(t.Context(), "a", note{"late"}, time.Hour, 0); !errors.Is(err, record.ErrConflict) {
		t.Errorf("Put over nothing, where something is = %v, want %v", err, record.ErrConflict)
	}
	put(t, b, "b", "another", time.Hour, 0)
	second := put(t, b, "a", "second", time.Hour, first)
	if n, seq := get(t, b, "a"); n.Text != "second" || seq != second {
		t.Errorf("Get = %v, %d, want the second, %d", n, seq, second)
	}
	third := put(t, b, "a", "third", time.Hour, record.Any)
	if n, seq := get(t, b, "a"); n.Text != "third" || seq != third {
		t.Errorf("Get after a Put over Any = %v, %d, want the third, %d", n, seq, third)
	}
}

// A record ends with its time to live, and the next is written over what it left.
func TestExpiry(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		b := create(t, js)
		written := put(t, b, "a", "short", time.Nanosecond, 0) // at least 1 s
		time.Sleep(900 * time.Millisecond)
		if n, seq := get(t, b, "a"); n.Text != "short" || seq != written {
			t.Errorf("Get before the end = %v, %d, want it", n, seq)
		}
		time.Sleep(2 * time.Second)
		n, left := get(t, b, "a")
		if n != (note{}) || left <= written {
			t.Errorf("Get after the end = %v, %d, want nothing, and a sequence above %d", n, left, written)
		}
		if _, err := b.Put(t.Context(), "a", note{"late"}, time.Hour, written); !errors.Is(err, record.ErrConflict) {
			t.Errorf("Put over what has ended = %v, want %v", err, record.ErrConflict)
		}
		put(t, b, "a", "anew", time.Hour, left)
		at, err := b.Time(t.Context())
		if err != nil || !at.Equal(time.Now()) {
			t.Errorf("Time = %v, %v, want %v", at, err, time.Now())
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	b := create(t, js)
	put(t, b, "x.b", "first", time.Hour, 0)
	put(t, b, "x.a", "second", time.Hour, 0)
	put(t, b, "y.a", "other", time.Hour, 0)
	if _, err := js.Publish(t.Context(), b.Subject("x.c"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	seq := put(t, b, "x.d", "deleted", time.Hour, 0)
	if err := b.Delete(t.Context(), "x.d", seq-1); !errors.Is(err, record.ErrConflict) {
		t.Errorf("Delete of another one = %v, want %v", err, record.ErrConflict)
	}
	if err := b.Delete(t.Context(), "x.d", seq); err != nil {
		t.Fatal(err)
	}
	if n, left := get(t, b, "x.d"); n != (note{}) || left <= seq {
		t.Errorf("Get of what was deleted = %v, %d, want nothing, and a sequence above %d", n, left, seq)
	}
	var got []string
	for e, err := range record.List[note](t.Context(), b, "x.*") {
		if err != nil {
			got = append(got, e.Key+": "+err.Error())
			continue
		}
		got = append(got, e.Key+": "+e.Value.Text)
	}
	want := []string{"x.b: first", "x.a: second", "x.c: read x.c of bucket NOTES: unexpected end of JSON input: delete it with `nats kv del NOTES x.c`"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	var n note
	if _, err := b.Get(t.Context(), "x.c", &n); err == nil || !strings.Contains(err.Error(), "nats kv del NOTES x.c") {
		t.Errorf("Get of what is not JSON = %v, want what to do", err)
	}
}

// Every way to a bucket that is not there says what to do.
func TestNoBucket(t *testing.T) {
	t.Parallel()
	b := record.In(natstest.JetStream(t), name)
	for _, tt := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"Get", func(ctx context.Context) error { _, err := b.Get(ctx, "a", &note{}); return err }},
		{"Put", func(ctx context.Context) error { _, err := b.Put(ctx, "a", note{}, time.Hour, record.Any); return err }},
		{"Delete", func(ctx context.Context) error { return b.Delete(ctx, "a", record.Any) }},
		{"Time", func(ctx context.Context) error { _, err := b.Time(ctx); return err }},
		{"Watch", func(ctx context.Context) error { _, err := b.Watch(ctx, ">"); return err }},
		{"List", func(ctx context.Context) (last error) {
			for _, err := range record.List[note](ctx, b, ">") {
				last = err
			}
			return last
		}},
	} {
		err := tt.do(t.Context())
		want := "the broker has no bucket NOTES: make it with `drover streams apply`"
		if tt.name == "Get" || tt.name == "Put" { // which only learn that nobody answers
			want = "the broker has no bucket NOTES, or nobody leads it now: `drover doctor` says which, and `drover streams apply` makes it"
		}
		if !errors.Is(err, record.ErrNoBucket) || err.Error() != want {
			t.Errorf("%s = %v, want %s", tt.name, err, want)
		}
	}
}

// Without a connection everything fails at once.
func TestAway(t *testing.T) {
	t.Parallel()
	broker := natstest.StartBroker(t)
	b := create(t, broker.Connect(t))
	broker.Kill()
	for {
		_, err := b.Put(t.Context(), "a", note{}, time.Hour, record.Any)
		if errors.Is(err, nats.ErrDisconnected) {
			return
		}
		if err == nil {
			t.Fatal("Put = nil without a broker")
		}
	}
}

// What expired, and what was deleted, is there again for good once a broker that was
// stopped in good order is killed. When this fails, nats-server has mended it, and
// what guards against it can go.
func TestKilledBrokerBringsBack(t *testing.T) {
	t.Parallel()
	broker := natstest.StartBroker(t)
	js := broker.Connect(t)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name, LimitMarkerTTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b := record.In(js, name)
	keys := func() (out []string) {
		for e, err := range record.List[note](t.Context(), b, ">") {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.Key)
		}
		return out
	}
	messages := func() uint64 {
		s, err := js.Stream(t.Context(), "KV_"+name)
		if err != nil {
			return 0 // it has been restarted
		}
		return s.CachedInfo().State.Msgs
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not after 20 s: %v", what, keys())
			}
		}
	}
	put(t, b, "stays", "", time.Hour, record.Any)
	put(t, b, "expires", "", time.Second, record.Any)
	put(t, b, "deleted", "", time.Minute, record.Any)
	if err := kv.Purge(t.Context(), "deleted", jetstream.PurgeTTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	until("only one is left, and no marker", func() bool { return messages() == 1 })
	broker.Stop()
	broker.Restart(t)
	until("it is there after a restart", func() bool { return messages() == 1 })
	put(t, b, "later", "", time.Hour, record.Any) // so that what it wrote when it stopped is not all
	broker.Kill()
	broker.Restart(t)
	until("the broker answers", func() bool { return messages() > 0 })
	time.Sleep(3 * time.Second) // in which it would remove what is over
	if diff := cmp.Diff([]string{"stays", "expires", "deleted", "later"}, keys()); diff != "" {
		t.Errorf("a killed broker has other records than it had (-want +got):\n%s", diff)
	}
}
