package bodies_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// bucket makes BODIES, and returns it as nats.go has it.
func bucket(tb testing.TB, js jetstream.JetStream) jetstream.ObjectStore {
	tb.Helper()
	store, err := js.CreateObjectStore(tb.Context(), jetstream.ObjectStoreConfig{Bucket: task.BodiesBucket})
	if err != nil {
		tb.Fatalf("create %s: %v", task.BodiesBucket, err)
	}
	return store
}

// publish is how a caller with little patience stores a message.
func publish(js jetstream.JetStream) bodies.Publish {
	return func(ctx context.Context, m *nats.Msg) error {
		_, err := js.PublishMsg(ctx, m)
		return err
	}
}

func put(tb testing.TB, js jetstream.JetStream, body []byte) *bodies.Object {
	tb.Helper()
	o, err := bodies.Put(tb.Context(), js, publish(js), "email.send:one", body)
	if err != nil {
		tb.Fatalf("Put of %d bytes = %v", len(body), err)
	}
	return o
}

// describe stores a description of an object without its content.
func describe(tb testing.TB, js jetstream.JetStream, info *jetstream.ObjectInfo) {
	tb.Helper()
	b, err := json.Marshal(info)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.Publish(tb.Context(), "$O.BODIES.M."+base64.URLEncoding.EncodeToString([]byte(info.Name)), b); err != nil {
		tb.Fatal(err)
	}
}

// stored counts the messages in BODIES.
func stored(tb testing.TB, js jetstream.JetStream) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), "OBJ_BODIES")
	if err != nil {
		tb.Fatalf("bind BODIES: %v", err)
	}
	return s.CachedInfo().State.Msgs
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// What is written here any client reads, and what any client wrote is read here.
func TestPutAndGet(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	store := bucket(t, js)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // without one nats.go reads for 5 s
	defer cancel()
	const chunk = 128 << 10
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 5*chunk + 7, task.MaxBody} {
		body := random(n)
		o := put(t, js, body)
		if !strings.HasPrefix(o.Name, "email.send:one:") {
			t.Errorf("body of %d bytes is called %s, want its owner in front", n, o.Name)
		}
		if got, err := bodies.Get(t.Context(), js, o.Name); err != nil || !bytes.Equal(got, body) {
			t.Errorf("Get = %d bytes, %v, want the %d that were put", len(got), err, n)
		}
		if got, err := store.GetBytes(ctx, o.Name); err != nil || !bytes.Equal(got, body) {
			t.Errorf("nats.go reads %d bytes, %v, want %d", len(got), err, n)
		}
		theirs := fmt.Sprintf("theirs of %d", n)
		want, err := store.PutBytes(t.Context(), theirs, body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := bodies.Get(t.Context(), js, theirs); err != nil || !bytes.Equal(got, body) {
			t.Errorf("Get of what nats.go put = %d bytes, %v, want %d", len(got), err, n)
		}
		got, err := store.GetInfo(t.Context(), o.Name)
		if err != nil {
			t.Fatal(err)
		}
		want.Name, want.NUID, want.ModTime = got.Name, got.NUID, got.ModTime
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("description of %d bytes (-nats.go's +ours):\n%s", n, diff)
		}
	}
}

func TestPutTwice(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	bucket(t, js)
	first, second := put(t, js, []byte("first")), put(t, js, []byte("second"))
	if first.Name == second.Name {
		t.Fatalf("two bodies are called %s", first.Name)
	}
	if err := second.Remove(t.Context(), js); err != nil {
		t.Fatalf("Remove = %v", err)
	}
	if got, err := bodies.Get(t.Context(), js, first.Name); err != nil || string(got) != "first" {
		t.Errorf("Get after the second was removed = %q, %v, want first", got, err)
	}
}

func TestGetRefuses(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	store := bucket(t, js)
	if _, err := store.PutBytes(t.Context(), "deleted", []byte("body")); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(t.Context(), "large", random(task.MaxBody+1)); err != nil {
		t.Fatal(err)
	}
	huge, err := store.PutBytes(t.Context(), "huge", make([]byte, 4*task.MaxBody))
	if err != nil {
		t.Fatal(err)
	}
	lie := *huge
	lie.Name, lie.Size = "says less", 10
	describe(t, js, &lie)
	for _, m := range []struct{ nuid, data string }{{"damaged", "other"}, {"cut", "bo"}} {
		if _, err := js.Publish(t.Context(), "$O.BODIES.C."+m.nuid, []byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if _, err := js.Publish(t.Context(), "$O.BODIES.C.hollow", nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, nuid := range map[string]string{"damaged": "damaged", "cut": "cut", "hollow": "hollow", "no digest": "damaged", "of all": ">"} {
		d := *huge
		d.Name, d.Size, d.NUID = name, 5, nuid
		if name == "no digest" {
			d.Digest = "?"
		}
		describe(t, js, &d)
	}
	target, err := store.PutBytes(t.Context(), "target", []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.AddLink(t.Context(), "link", target); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "$O.BODIES.M."+base64.URLEncoding.EncodeToString([]byte("no description")), []byte("{")); err != nil {
		t.Fatal(err)
	}
	received := js.Conn().Stats().InBytes
	for _, tt := range []struct {
		name string
		want error
	}{
		{"nowhere", bodies.ErrNotFound},
		{"", bodies.ErrNotFound},
		{strings.Repeat("x", 1<<10), bodies.ErrNotFound},
		{strings.Repeat("x", 1<<10+1), bodies.ErrNotFound},
		{strings.Repeat("x", 60<<10), bodies.ErrNotFound}, // looking for it would end the connection
		{"deleted", bodies.ErrNotFound},
		{"large", task.ErrBadBody},
		{"huge", task.ErrBadBody},
		{"says less", task.ErrBadBody},
		{"damaged", task.ErrBadBody},
		{"cut", task.ErrBadBody},
		{"hollow", task.ErrBadBody},
		{"no digest", task.ErrBadBody},
		{"of all", task.ErrBadBody},
		{"link", task.ErrBadBody},
		{"no description", task.ErrBadBody},
	} {
		got, err := bodies.Get(t.Context(), js, tt.name)
		if !errors.Is(err, tt.want) || got != nil {
			t.Errorf("Get(%.20q) = %d bytes, %v, want %v", tt.name, len(got), err, tt.want)
		}
		if err != nil && len(err.Error()) > 2<<10 {
			t.Errorf("Get(%.20q) fails with %d bytes of text", tt.name, len(err.Error()))
		}
	}
	if n := js.Conn().Stats().InBytes - received; n > 1<<20 {
		t.Errorf("%d bytes were received, want less than a body", n)
	}
	if err := js.Conn().LastError(); err != nil {
		t.Errorf("the connection complains: %v", err)
	}
}

// A bucket that is missing says nothing of the body.
func TestWithoutBucket(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	_, err := bodies.Get(t.Context(), js, "one")
	if !errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, bodies.ErrNotFound) || errors.Is(err, task.ErrBadBody) {
		t.Errorf("Get = %v, want an error about BODIES, not about the body", err)
	}
	if err := bodies.Remove(t.Context(), js, "one"); err != nil {
		t.Errorf("Remove = %v, want nil: nothing is there", err)
	}
	if _, err := bodies.Put(t.Context(), js, publish(js), "one", []byte("body")); !errors.Is(err, jetstream.ErrNoStreamResponse) || strings.Contains(err.Error(), "stays") {
		t.Errorf("Put = %v, want what publish returned, and nothing about removing", err)
	}
}

// What Get would refuse is not stored.
func TestPutRefuses(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	bucket(t, js)
	if _, err := bodies.Put(t.Context(), js, publish(js), "one", make([]byte, task.MaxBody+1)); !errors.Is(err, task.ErrBadBody) {
		t.Errorf("Put of more than a body = %v, want ErrBadBody", err)
	}
	if _, err := bodies.Put(t.Context(), js, publish(js), strings.Repeat("x", 1<<10), nil); !errors.Is(err, bodies.ErrNotFound) {
		t.Errorf("Put under a long name = %v, want ErrNotFound", err)
	}
	if n := stored(t, js); n != 0 {
		t.Errorf("%d messages are stored, want none", n)
	}
}

// Whichever message cannot be stored, the ones before it go, also when it was the
// end of the context that stopped it.
func TestPutThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	bucket(t, js)
	kept := put(t, js, []byte("kept"))
	why := errors.New("no room")
	body := random(300 << 10) // three chunks and a description
	for fails := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := bodies.Put(ctx, js, func(ctx context.Context, m *nats.Msg) error {
			if n++; n > fails {
				cancel()
				return why
			}
			return publish(js)(ctx, m)
		}, "one", body)
		cancel()
		if !errors.Is(err, why) {
			t.Errorf("Put whose message %d fails = %v, want that error", fails, err)
		}
		if n := stored(t, js); n != 2 {
			t.Errorf("%d messages are stored after message %d failed, want the 2 of another body", n, fails)
		}
	}
	if got, err := bodies.Get(t.Context(), js, kept.Name); err != nil || string(got) != "kept" {
		t.Errorf("Get of the other body = %q, %v", got, err)
	}
	js.Conn().Close()
	if _, err := bodies.Put(t.Context(), js, func(context.Context, *nats.Msg) error { return why }, "one", body); !errors.Is(err, why) || !strings.Contains(err.Error(), "stays there unused") {
		t.Errorf("Put without a connection = %v, want that the body may stay", err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	store := bucket(t, js)
	one, two := put(t, js, random(300<<10)), put(t, js, []byte("two"))
	if _, err := store.PutBytes(t.Context(), "theirs", random(300<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(t.Context(), "deleted", []byte("body")); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		for _, name := range []string{one.Name, "theirs", "deleted", "nowhere", "", strings.Repeat("x", 60<<10)} {
			if err := bodies.Remove(t.Context(), js, name); err != nil {
				t.Errorf("Remove(%.20q) = %v", name, err)
			}
		}
		if n := stored(t, js); n != 2 {
			t.Errorf("%d messages in BODIES, want the 2 of the other body", n)
		}
	}
	if _, err := bodies.Get(t.Context(), js, one.Name); !errors.Is(err, bodies.ErrNotFound) {
		t.Errorf("Get of what was removed = %v, want ErrNotFound", err)
	}
	if got, err := bodies.Get(t.Context(), js, two.Name); err != nil || string(got) != "two" {
		t.Errorf("Get of the other body = %q, %v, want two", got, err)
	}
}

// An object's description may have been written by anyone.
func TestRemoveTouchesOnlyItsBody(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	bucket(t, js)
	other := put(t, js, []byte("body"))
	for _, nuid := range []string{">", "*", "", "a.b", strings.Repeat("x", 65)} {
		describe(t, js, &jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Name: "evil"}, Bucket: "BODIES", NUID: nuid, Size: 1, Chunks: 1})
		if err := bodies.Remove(t.Context(), js, "evil"); !errors.Is(err, task.ErrBadSubject) {
			t.Errorf("Remove of an object with content %q = %v, want ErrBadSubject", nuid, err)
		}
	}
	if _, err := js.Publish(t.Context(), "$O.BODIES.M.ZXZpbA==", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := bodies.Remove(t.Context(), js, "evil"); err == nil {
		t.Error("Remove of an object without description = nil, want an error")
	}
	if got, err := bodies.Get(t.Context(), js, other.Name); err != nil || string(got) != "body" {
		t.Errorf("the other body = %q, %v, want it there", got, err)
	}
}

func TestRemoveOf(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	for _, tt := range []struct {
		kind, name string
		want       error
	}{
		{"email.send", "email.send:1", nil},
		{"email.send", "email.sender:1", bodies.ErrNotOwn},
		{"email.send", "webhook.deliver:1", bodies.ErrNotOwn},
		{"email.send", "email.send", bodies.ErrNotOwn},
	} {
		if err := bodies.RemoveOf(t.Context(), js, tt.kind, tt.name); !errors.Is(err, tt.want) {
			t.Errorf("RemoveOf(%q, %q) = %v, want %v", tt.kind, tt.name, err, tt.want)
		}
	}
}
