package stored_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

const name = "THINGS"

func create(tb testing.TB, js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) {
	tb.Helper()
	c := jetstream.StreamConfig{Name: name, Subjects: []string{"things.>"}, AllowDirect: true}
	for _, f := range change {
		f(&c)
	}
	if _, err := js.CreateStream(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
}

func put(tb testing.TB, js jetstream.JetStream, subject string, h nats.Header, data []byte) {
	tb.Helper()
	if _, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: subject, Header: h, Data: data}); err != nil {
		tb.Fatal(err)
	}
}

// read returns what q asks for as "<sequence> <subject>, <rest> follow".
func read(tb testing.TB, js jetstream.JetStream, q stored.Query) []string {
	tb.Helper()
	q.Stream = name
	var got []string
	for m, err := range stored.Read(tb.Context(), js, q) {
		if err != nil {
			tb.Fatalf("Read(%+v) = %v", q, err)
		}
		got = append(got, fmt.Sprintf("%d %s, %d follow", m.Sequence, m.Subject, m.Rest))
	}
	return got
}

func TestRead(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	create(t, js)
	if got := read(t, js, stored.Query{}); got != nil {
		t.Errorf("Read of an empty stream = %q, want nothing", got)
	}
	for _, subject := range []string{"things.a", "things.b", "things.a", "things.c", "things.a"} {
		put(t, js, subject, nil, nil)
	}
	third, err := stored.Get(t.Context(), js, name, stored.Which{Sequence: 3})
	if err != nil {
		t.Fatal(err)
	}
	if was, err := stored.Delete(t.Context(), js, name, 4); err != nil || !was {
		t.Fatalf("Delete = %t, %v", was, err)
	}
	for _, tt := range []struct {
		name  string
		query stored.Query
		want  []string
	}{
		{"all", stored.Query{}, []string{"1 things.a, 3 follow", "2 things.b, 2 follow", "3 things.a, 1 follow", "5 things.a, 0 follow"}},
		{"of a subject", stored.Query{Subject: "things.a"}, []string{"1 things.a, 2 follow", "3 things.a, 1 follow", "5 things.a, 0 follow"}},
		{"of a subject that nobody used", stored.Query{Subject: "things.d"}, nil},
		{"from a sequence", stored.Query{From: 3}, []string{"3 things.a, 1 follow", "5 things.a, 0 follow"}},
		{"from one that is gone", stored.Query{From: 4}, []string{"5 things.a, 0 follow"}},
		{"behind the end", stored.Query{From: 6}, nil},
		{"since", stored.Query{Since: third.Time}, []string{"3 things.a, 1 follow", "5 things.a, 0 follow"}},
		{"since later", stored.Query{Since: time.Now().Add(time.Hour)}, nil},
		{"some", stored.Query{Limit: 2}, []string{"1 things.a, 3 follow", "2 things.b, 2 follow"}},
		{"as many as there are", stored.Query{Limit: 4, From: 2}, []string{"2 things.b, 2 follow", "3 things.a, 1 follow", "5 things.a, 0 follow"}},
	} {
		if diff := cmp.Diff(tt.want, read(t, js, tt.query)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// What does not fit one answer is asked for again where it stopped.
func TestReadInBatches(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	create(t, js)
	large := make([]byte, 700<<10)
	for range 8 {
		put(t, js, "things.large", nil, large)
	}
	for range 1100 {
		put(t, js, "things.small", nil, nil)
	}
	const all = 8 + 1100
	next, rest := uint64(1), uint64(all)
	for m, err := range stored.Read(t.Context(), js, stored.Query{Stream: name}) {
		rest--
		if err != nil || m.Sequence != next || m.Rest != rest {
			t.Fatalf("Read = %d, %d follow, %v, want %d, %d", m.Sequence, m.Rest, err, next, rest)
		}
		next++
	}
	if rest != 0 {
		t.Errorf("%d messages were not read", rest)
	}
	for m := range stored.Read(t.Context(), js, stored.Query{Stream: name}) {
		if m.Sequence == 3 {
			break
		}
	}
	if n := js.Conn().NumSubscriptions(); n > 1 { // that of requests
		t.Errorf("%d subscriptions are left", n)
	}
}

// Headers are the publisher's: they are returned as they are, and nothing in them is
// taken for the broker's.
func TestForgedHeaders(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	create(t, js)
	forged := nats.Header{
		"Status": {"404"}, "Description": {"EOB"}, "Nats-Sequence": {"77"}, "Nats-Subject": {"things.x"}, "Nats-Time-Stamp": {"x"},
		"Nats-Num-Pending": {"9"}, "Nats-Last-Sequence": {"8"}, "Nats-Stream": {"S"},
	}
	put(t, js, "things.a", forged, []byte("data"))
	for m, err := range stored.Read(t.Context(), js, stored.Query{Stream: name}) {
		if err != nil {
			t.Fatal(err)
		}
		got, err := stored.Get(t.Context(), js, name, stored.Which{Sequence: 1})
		if diff := cmp.Diff(got, m); diff != "" || err != nil {
			t.Errorf("Get = %v, and not what Read returned (-get +read):\n%s", err, diff)
		}
		if diff := cmp.Diff(forged, m.Header); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
		if m.Sequence != 1 || m.Subject != "things.a" || m.Stream != name || string(m.Data) != "data" {
			t.Errorf("Read = %+v", m)
		}
	}
}

// Of a message whose headers do not parse nats.go drops those of the broker too.
func TestUndecodableHeaders(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	create(t, js)
	js.Conn().SetErrorHandler(nil)
	bad := func() { natstest.PublishRaw(t, url, "things.bad", natstest.BadHeader, "data") }
	put(t, js, "things.a", nil, nil)
	bad()
	bad()
	put(t, js, "things.a", nil, nil)
	bad()
	want := []string{"1 things.a, 4 follow", "2 things.bad, 3 follow", "3 things.bad, 2 follow", "4 things.a, 1 follow", "5 things.bad, 0 follow"}
	for n := range want {
		if diff := cmp.Diff(want[n:], read(t, js, stored.Query{From: uint64(n) + 1})); diff != "" {
			t.Errorf("from %d (-want +got):\n%s", n+1, diff)
		}
	}
	second, err := stored.Get(t.Context(), js, name, stored.Which{Sequence: 2})
	if err != nil || !errors.Is(second.Problem, task.ErrBadHeader) || string(second.Data) != "data" {
		t.Errorf("Get = %+v, %v, want the data and a problem", second, err)
	}
	if diff := cmp.Diff(want[1:], read(t, js, stored.Query{Since: second.Time})); diff != "" {
		t.Errorf("since the second (-want +got):\n%s", diff)
	}
	if m, err := stored.Newest(t.Context(), js, name, ">"); err != nil || m.Sequence != 5 || !errors.Is(m.Problem, task.ErrBadHeader) {
		t.Errorf("Newest = %+v, %v, want the fifth and its problem", m, err)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	create(t, js)
	for _, subject := range []string{"things.a", "things.b", "things.a", "things.b"} {
		put(t, js, subject, nil, nil)
	}
	for _, tt := range []struct {
		which stored.Which
		want  uint64 // 0: gone
	}{
		{stored.Which{Sequence: 2}, 2},
		{stored.Which{Sequence: 9}, 0},
		{stored.Which{Last: "things.a"}, 3},
		{stored.Which{Last: "things.*"}, 4},
		{stored.Which{Last: "things.c"}, 0},
		{stored.Which{Sequence: 2, Next: "things.a"}, 3},
		{stored.Which{Sequence: 4, Next: "things.a"}, 0},
	} {
		m, err := stored.Get(t.Context(), js, name, tt.which)
		if m.Sequence != tt.want || (tt.want == 0) != errors.Is(err, stored.ErrGone) {
			t.Errorf("Get(%+v) = %d, %v, want %d", tt.which, m.Sequence, err, tt.want)
		}
		if tt.which.Last == "" {
			continue
		}
		m, err = stored.Newest(t.Context(), js, name, tt.which.Last)
		if m.Sequence != tt.want || (tt.want == 0) != errors.Is(err, stored.ErrGone) {
			t.Errorf("Newest(%s) = %d, %v, want %d", tt.which.Last, m.Sequence, err, tt.want)
		}
	}
	if _, err := stored.Get(t.Context(), js, name, stored.Which{}); err == nil {
		t.Error("Get of none = nil, want an error")
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	create(t, js)
	put(t, js, "things.a", nil, nil)
	for _, want := range []bool{true, false} {
		if was, err := stored.Delete(t.Context(), js, name, 1); was != want || err != nil {
			t.Errorf("Delete = %t, %v, want %t", was, err, want)
		}
	}
	if _, err := stored.Get(t.Context(), js, name, stored.Which{Sequence: 1}); !errors.Is(err, stored.ErrGone) {
		t.Errorf("Get after Delete = %v, want %v", err, stored.ErrGone)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	create(t, js, func(c *jetstream.StreamConfig) { c.AllowDirect = false })
	one := func(ctx context.Context, stream string) error {
		for _, err := range stored.Read(ctx, js, stored.Query{Stream: stream}) {
			return err
		}
		return nil
	}
	newest := func(ctx context.Context, stream string) error {
		_, err := stored.Newest(ctx, js, stream, ">")
		return err
	}
	get := func(ctx context.Context, stream string) error {
		_, err := stored.Get(ctx, js, stream, stored.Which{Sequence: 1})
		return err
	}
	remove := func(ctx context.Context, stream string) error {
		_, err := stored.Delete(ctx, js, stream, 1)
		return err
	}
	enough := errors.New("enough")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	for _, tt := range []struct {
		name   string
		f      func(context.Context, string) error
		direct bool // needs direct get
	}{{"Read", one, true}, {"Newest", newest, true}, {"Get", get, false}, {"Delete", remove, false}} {
		err := tt.f(t.Context(), "NOWHERE")
		if !errors.Is(err, stored.ErrNoStream) || !strings.Contains(err.Error(), "NOWHERE") {
			t.Errorf("%s of no stream = %v, want %v and its name", tt.name, err, stored.ErrNoStream)
		}
		if tt.direct {
			if err := tt.f(t.Context(), name); !errors.Is(err, stored.ErrNoStream) || !errors.Is(err, nats.ErrNoResponders) {
				t.Errorf("%s without direct get = %v, want %v", tt.name, err, stored.ErrNoStream)
			}
		}
		if err := tt.f(ended, name); !errors.Is(err, enough) {
			t.Errorf("%s with an ended context = %v, want %v", tt.name, err, enough)
		}
	}
}
