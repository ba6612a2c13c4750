package stored_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/stored"
)

// bucket is one with the keys a, b and c, of which b was deleted.
func bucket(tb testing.TB, js jetstream.JetStream) jetstream.KeyValue {
	tb.Helper()
	kv, err := js.CreateKeyValue(tb.Context(), jetstream.KeyValueConfig{Bucket: name})
	if err != nil {
		tb.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		if _, err := kv.Create(tb.Context(), key, []byte(key)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := kv.Delete(tb.Context(), "b"); err != nil {
		tb.Fatal(err)
	}
	return kv
}

func watch(tb testing.TB, kv jetstream.KeyValue, filter string, opts ...jetstream.WatchOpt) jetstream.KeyWatcher {
	tb.Helper()
	w, err := kv.Watch(tb.Context(), filter, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

func TestEntries(t *testing.T) {
	t.Parallel()
	kv := bucket(t, natstest.JetStream(t))
	for _, tt := range []struct {
		name, filter string
		want         []string
	}{
		{"all", ">", []string{"a", "c"}},
		{"one", "c", []string{"c"}},
		{"none", "d", nil},
	} {
		w := watch(t, kv, tt.filter, jetstream.IgnoreDeletes())
		var got []string
		for e, err := range stored.Entries(t.Context(), w) {
			if err != nil {
				t.Fatalf("%s: Entries = %v", tt.name, err)
			}
			got = append(got, e.Key())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: Entries (-want +got):\n%s", tt.name, diff)
		}
		for e := range w.Updates() { // it is closed: the watch was stopped
			t.Errorf("%s: %v comes after the end", tt.name, e)
		}
	}
}

// A reader that leaves early ends the watch too.
func TestEntriesLeftEarly(t *testing.T) {
	t.Parallel()
	w := watch(t, bucket(t, natstest.JetStream(t)), ">")
	for e, err := range stored.Entries(t.Context(), w) {
		if err != nil || e.Key() != "a" {
			t.Errorf("Entries = %v, %v, want a", e, err)
		}
		break
	}
	for range w.Updates() { // until it is closed
		continue
	}
}

// What was cut short does not look like all there is.
func TestEntriesCutShort(t *testing.T) {
	t.Parallel()
	errGone := errors.New("nobody reads any more")
	for _, tt := range []struct {
		name string
		cut  func(jetstream.JetStream, context.CancelCauseFunc)
		is   error // nil: any
	}{
		{"context", func(_ jetstream.JetStream, cancel context.CancelCauseFunc) { cancel(errGone) }, errGone},
		{"connection", func(js jetstream.JetStream, _ context.CancelCauseFunc) { js.Conn().Close() }, nil},
	} {
		js := natstest.JetStream(t)
		kv := bucket(t, js)
		ctx, cancel := context.WithCancelCause(t.Context())
		w := watch(t, kv, ">", jetstream.UpdatesOnly()) // which never says that this was all
		tt.cut(js, cancel)
		var last error
		for e, err := range stored.Entries(ctx, w) {
			if last = err; err == nil {
				t.Errorf("%s: Entries yields %v, want an error", tt.name, e)
			}
		}
		cancel(nil)
		if last == nil || tt.is != nil && !errors.Is(last, tt.is) {
			t.Errorf("%s: Entries ends with %v, want an error (%v)", tt.name, last, tt.is)
		}
	}
}
