package deadletter_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

func TestList(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	if got := list(t, js, deadletter.Filter{}); got != nil {
		t.Errorf("List of nothing = %v", got)
	}
	one := dead("one")
	bury(t, js, one, nil, nil) // 1
	two := dead("two")
	two.Subject.Class, two.Reason = task.Urgent, task.Permanent
	bury(t, js, two, nil, nil) // 2
	three := dead("order 3/ü")
	three.Subject.Action, three.Reason, three.Errors = "reset", task.Expired, nil
	bury(t, js, three, nil, nil) // 3
	middle := letter(t, js, 3).StoredAt
	four := dead("one")
	four.Subject.Service, four.Subject.Tenant = "webhook", "acme"
	bury(t, js, four, nil, nil) // 4
	end := letter(t, js, 4).StoredAt

	tests := []struct {
		name   string
		filter deadletter.Filter
		want   []uint64
	}{
		{name: "all", want: []uint64{1, 2, 3, 4}},
		{name: "class", filter: deadletter.Filter{Class: task.Default}, want: []uint64{1, 3, 4}},
		{name: "class without letters", filter: deadletter.Filter{Class: task.Bulk}},
		{name: "service", filter: deadletter.Filter{Service: "email"}, want: []uint64{1, 2, 3}},
		{name: "kind", filter: deadletter.Filter{Kind: "email.send"}, want: []uint64{1, 2}},
		{name: "kind and its service", filter: deadletter.Filter{Kind: "email.send", Service: "email"}, want: []uint64{1, 2}},
		{name: "id", filter: deadletter.Filter{ID: "one"}, want: []uint64{1, 4}},
		{name: "id that is no token", filter: deadletter.Filter{ID: "order 3/ü"}, want: []uint64{3}},
		{name: "id as in the subject", filter: deadletter.Filter{ID: task.Token("order 3/ü")}, want: []uint64{3}},
		{name: "reason", filter: deadletter.Filter{Reason: task.Permanent}, want: []uint64{2}},
		{name: "since", filter: deadletter.Filter{Since: middle}, want: []uint64{3, 4}},
		{name: "until", filter: deadletter.Filter{Until: middle}, want: []uint64{1, 2}},
		{name: "between", filter: deadletter.Filter{Since: middle, Until: end}, want: []uint64{3}},
		{name: "future", filter: deadletter.Filter{Since: end.Add(time.Hour)}},
		{name: "text", filter: deadletter.Filter{Contains: "mailbox full"}, want: []uint64{1, 2, 4}},
		{name: "other text", filter: deadletter.Filter{Contains: "timeout"}},
		{name: "any action", filter: deadletter.Filter{Kind: "email.*"}, want: []uint64{1, 2, 3}},
		{name: "some actions", filter: deadletter.Filter{Kind: "email.r*"}, want: []uint64{3}},
		{name: "any service", filter: deadletter.Filter{Kind: "*.send"}, want: []uint64{1, 2, 4}},
		{name: "some services", filter: deadletter.Filter{Kind: "[ew]*l.*"}, want: []uint64{1, 2, 3}},
		{name: "no dot in the kind", filter: deadletter.Filter{Kind: "w*d"}, want: []uint64{4}},
		{name: "kinds of a service", filter: deadletter.Filter{Kind: "*.send", Service: "webhook"}, want: []uint64{4}},
		{name: "kinds of another service", filter: deadletter.Filter{Kind: "*.reset", Service: "webhook"}},
		{name: "tenant", filter: deadletter.Filter{Tenant: "acme"}, want: []uint64{4}},
		{name: "fingerprint", filter: deadletter.Filter{Fingerprint: fingerprint(t, js, 1)}, want: []uint64{1}},
		{name: "fingerprint of another class", filter: deadletter.Filter{Fingerprint: fingerprint(t, js, 1), Class: task.Urgent}},
		{name: "limit", filter: deadletter.Filter{Limit: 2}, want: []uint64{1, 2}},
		{name: "limit after filter", filter: deadletter.Filter{Class: task.Default, Limit: 2}, want: []uint64{1, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, list(t, js, tt.filter)); diff != "" {
				t.Errorf("List(%+v) (-want +got):\n%s", tt.filter, diff)
			}
		})
	}
}

func fingerprint(tb testing.TB, js jetstream.JetStream, sequence uint64) string {
	tb.Helper()
	l := letter(tb, js, sequence)
	return deadletter.Fingerprint(&l)
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	tests := []struct {
		name   string
		filter deadletter.Filter
		want   error
	}{
		{name: "no stream", want: deadletter.ErrNoStream},
		{name: "class", filter: deadletter.Filter{Class: "a.b"}, want: task.ErrBadSubject},
		{name: "wildcard", filter: deadletter.Filter{Service: ">"}, want: task.ErrBadSubject},
		{name: "kind", filter: deadletter.Filter{Kind: "email"}, want: task.ErrBadSubject},
		{name: "kind of another service", filter: deadletter.Filter{Kind: "email.send", Service: "webhook"}, want: deadletter.ErrFilter},
		{name: "kinds of another service", filter: deadletter.Filter{Kind: "email.*", Service: "webhook"}, want: deadletter.ErrFilter},
		{name: "bad pattern", filter: deadletter.Filter{Kind: "email.[a"}, want: deadletter.ErrFilter},
		{name: "limit", filter: deadletter.Filter{Limit: -1}, want: deadletter.ErrFilter},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := 0
			for _, err := range deadletter.List(t.Context(), js, tt.filter) {
				wantError(t, "List", err, tt.want)
				n++
			}
			if n != 1 {
				t.Errorf("List yielded %d times, want one error", n)
			}
		})
	}
}

func TestListStopsWhenTold(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	for i := range 3 {
		bury(t, js, dead(name(i)), nil, nil)
	}
	for range deadletter.List(t.Context(), js, deadletter.Filter{}) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range deadletter.List(ctx, js, deadletter.Filter{}) {
		wantError(t, "List", err, context.Canceled)
	}
}

// What dies while letters are listed is not listed: otherwise redriving all of
// them would never end.
func TestListEnds(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	for i := range 3 {
		bury(t, js, dead(name(i)), nil, nil)
	}
	n := 0
	for l, err := range deadletter.List(t.Context(), js, deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		bury(t, js, dead(l.ID+"-again"), nil, nil)
	}
	if n != 3 {
		t.Errorf("%d letters listed, want the 3 that were there", n)
	}
}

// Ten thousand letters, some of them large, over several batches.
func TestListMany(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	const n = 10_000
	want := make([]uint64, n)
	for i := range want {
		want[i] = uint64(i + 1)
		s := dead(name(i))
		var b []byte
		if i%500 == 0 {
			b = make([]byte, 300<<10)
		}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: s.Subject.Dead(s.ID), Header: s.Header(nil), Data: b}, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	start := time.Now()
	got := list(t, js, deadletter.Filter{})
	t.Logf("%d letters in %v", n, time.Since(start))
	if !slices.Equal(got, want) {
		t.Errorf("%d letters listed, want %d in order", len(got), n)
	}
	if got := list(t, js, deadletter.Filter{Kind: "email.send", ID: name(n - 1)}); !slices.Equal(got, []uint64{n}) {
		t.Errorf("List of the last id = %v, want %d", got, n)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	s := dead("one")
	args := map[string]any{"to": "a"}
	seq := bury(t, js, s, nats.Header{"X-Own": {"1"}, "traceparent": {oldTrace}}, body(t, args))
	got, err := deadletter.Get(t.Context(), js, "one")
	if err != nil {
		t.Fatalf("Get = %v", err)
	}
	want := deadletter.Letter{
		State: s, Sequence: seq, StoredAt: got.StoredAt, Where: "dead.default.email.send.one",
		Header: s.Header(nats.Header{"X-Own": {"1"}, "traceparent": {oldTrace}}), Body: body(t, args),
	}
	want.Header[task.HeaderMsgID] = []string{s.MoveID()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Get (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(got, letter(t, js, seq)); diff != "" {
		t.Errorf("At (-Get +At):\n%s", diff)
	}
	if a, err := got.Arguments(t.Context(), nil); err != nil || !cmp.Equal(a, args) {
		t.Errorf("Arguments = %v, %v, want %v", a, err, args)
	}

	_, err = deadletter.Get(t.Context(), js, "none")
	wantError(t, "Get of nothing", err, deadletter.ErrNotFound)
	_, err = deadletter.Get(t.Context(), js, "")
	wantError(t, "Get without id", err, deadletter.ErrNotFound)
	_, err = deadletter.At(t.Context(), js, 99)
	wantError(t, "At", err, deadletter.ErrNotFound)
	_, err = deadletter.At(t.Context(), js, 0)
	if err == nil {
		t.Error("At(0) = nil, want an error")
	}

	s.Generation = 1
	newer := bury(t, js, s, nil, nil)
	if got, err := deadletter.Get(t.Context(), js, "one"); err != nil || got.Sequence != newer {
		t.Errorf("Get = %d, %v, want the latest generation %d", got.Sequence, err, newer)
	}
	s.Subject.Class = task.Urgent
	other := bury(t, js, s, nil, nil)
	_, err = deadletter.Get(t.Context(), js, "one")
	wantError(t, "Get of two", err, deadletter.ErrAmbiguous)
	for _, word := range []string{fmt.Sprint(newer, " is email.send in class default"), fmt.Sprint(other, " is email.send in class urgent")} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("Get of two = %v, want %q in it", err, word)
		}
	}
}

// Letters that no worker would write are read as far as possible.
func TestDamagedLetters(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	good := dead("good")
	tests := []struct {
		name    string
		subject string
		header  nats.Header
		body    []byte
		want    error
	}{
		{name: "nothing", subject: "dead.default.email.send.x", want: task.ErrBadSubject},
		{name: "short subject", subject: "dead.x", want: task.ErrBadSubject},
		{name: "long subject", subject: "dead.a.b.c.d.e.f.g", want: task.ErrBadSubject},
		{name: "wildcards", subject: "dead.default.email.send.y", header: nats.Header{task.HeaderSubject: {"tasks.*.email.>"}}, want: task.ErrBadSubject},
		{name: "bad numbers", subject: "dead.default.email.send.z", header: nats.Header{
			task.HeaderSubject: {"tasks.default.email.send"}, task.HeaderGeneration: {"-1"}, task.HeaderAttempt: {"many"},
			task.HeaderDiedAt: {"yesterday"}, task.HeaderErrors: {"[{"}, task.HeaderEncoding: {"brotli"},
		}, want: task.ErrBadHeader},
		{name: "huge numbers", subject: "dead.default.email.send.zz", header: nats.Header{
			task.HeaderSubject: {"tasks.default.email.send"}, task.HeaderAttempt: {"99999999999999999999"},
		}, want: task.ErrBadHeader},
		{name: "status header", subject: "dead.default.email.send.s", header: nats.Header{
			task.HeaderSubject: {"tasks.default.email.send"}, "Status": {"404"}, "Description": {"EOB"},
		}},
		{name: "forged reply headers", subject: "dead.default.email.send.f", header: nats.Header{
			task.HeaderSubject: {"tasks.default.email.send"}, "Nats-Sequence": {"1"}, "Nats-Subject": {"dead.a.b.c.d"}, "Nats-Time-Stamp": {"x"},
		}},
		{name: "body no msgpack", subject: "dead.default.email.send.b", header: good.Header(nil), body: []byte{0xdd, 0xff, 0xff, 0xff, 0xff}},
	}
	for _, tt := range tests {
		seq := put(t, js, tt.subject, tt.header, tt.body)
		for _, l := range []deadletter.Letter{letter(t, js, seq), last(t, js)} {
			if l.Sequence != seq || l.Where != tt.subject || l.ID == "" {
				t.Errorf("%s: letter %+v, want %d at %s with an id", tt.name, l, seq, tt.subject)
			}
			if diff := cmp.Diff(tt.header, l.Header, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: header (-want +got):\n%s", tt.name, diff)
			}
			if tt.want == nil && l.Problem != nil || tt.want != nil && l.Problem == nil {
				t.Errorf("%s: problem %v, want %v", tt.name, l.Problem, tt.want)
			}
			if tt.want != nil {
				wantError(t, tt.name, l.Problem, tt.want)
			}
			if text := deadletter.Explain(l).String(); text == "" {
				t.Errorf("%s: no explanation", tt.name)
			}
			_, err := l.Arguments(t.Context(), js)
			if tt.body != nil {
				wantError(t, tt.name+": Arguments", err, task.ErrBadBody)
			}
		}
	}
}

// last lists all letters and returns the last one.
func last(t *testing.T, js jetstream.JetStream) (l deadletter.Letter) {
	t.Helper()
	var err error
	for l, err = range deadletter.List(t.Context(), js, deadletter.Filter{}) {
		if err != nil {
			t.Fatalf("List = %v", err)
		}
	}
	return l
}

// Headers that nats.go cannot decode: it drops them all, those of the reply too.
func TestUndecodableHeaders(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	fleet(t, js)
	bury(t, js, dead("before"), nil, nil)
	for range 2 {
		natstest.PublishRaw(t, url, "dead.default.email.send.x", natstest.BadHeader, "BODY")
	}
	bury(t, js, dead("after"), nil, nil)
	js.Conn().SetErrorHandler(nil)
	var got []deadletter.Letter
	for l, err := range deadletter.List(t.Context(), js, deadletter.Filter{}) {
		if err != nil {
			t.Fatalf("List = %v", err)
		}
		got = append(got, l)
	}
	if len(got) != 4 || got[1].Sequence != 2 || got[2].Sequence != 3 || got[3].ID != "after" {
		t.Fatalf("List = %+v, want 4 letters in order", got)
	}
	wantError(t, "the second letter's problem", got[1].Problem, task.ErrBadHeader)
	if string(got[2].Body) != "BODY" {
		t.Errorf("body %q, want BODY", got[2].Body)
	}
}
