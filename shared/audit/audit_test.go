package audit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
)

// trail makes AUDIT as the fleet has it.
func trail(tb testing.TB, js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) {
	tb.Helper()
	for _, c := range streams.Default().Topology().Streams {
		if c.Name != "AUDIT" {
			continue
		}
		for _, f := range change {
			f(&c)
		}
		if _, err := js.CreateStream(tb.Context(), c); err != nil {
			tb.Fatalf("create AUDIT: %v", err)
		}
		return
	}
	tb.Fatal("the fleet has no stream AUDIT")
}

func record(tb testing.TB, js jetstream.JetStream, e audit.Entry) audit.Entry {
	tb.Helper()
	e, err := audit.Record(tb.Context(), js, e)
	if err != nil {
		tb.Fatalf("Record = %v", err)
	}
	return e
}

func list(tb testing.TB, js jetstream.JetStream, f audit.Filter) []audit.Entry {
	tb.Helper()
	var got []audit.Entry
	for e, err := range audit.List(tb.Context(), js, f) {
		if err != nil {
			tb.Fatalf("List(%+v) = %v", f, err)
		}
		got = append(got, e)
	}
	return got
}

// An act leaves what was meant, what was touched, and what became of it.
func TestAct(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	trail(t, js)
	if got := list(t, js, audit.Filter{}); got != nil {
		t.Errorf("List of nothing = %v", got)
	}
	before := time.Now()
	act := record(t, js, audit.Entry{Verb: "dead.redrive", Filter: "--kind email.send", Reason: "the relay is back"})
	if act.Act == "" || act.By != audit.Me() || act.Phase != audit.Intent || act.Time.Before(before) {
		t.Errorf("Record = %+v, want id, who, phase and time filled in", act)
	}
	record(t, js, act.Part([]string{"one", "two"}))
	record(t, js, act.Part([]string{"three"}))
	record(t, js, act.Outcome(map[string]int{"redriven": 2, "failed": 1}, errors.New("the class is full")))
	who := audit.Entry{Act: act.Act, By: act.By, Verb: "dead.redrive", Filter: "--kind email.send", Reason: "the relay is back"}
	want := []audit.Entry{who, who, who, who}
	want[0].Phase = audit.Intent
	want[1].Phase, want[1].Targets = audit.Part, []string{"one", "two"}
	want[2].Phase, want[2].Targets = audit.Part, []string{"three"}
	want[3].Phase, want[3].Error = audit.Outcome, "the class is full"
	want[3].Counts = map[string]int{"redriven": 2, "failed": 1}
	for i := range want {
		want[i].Sequence = uint64(i + 1)
	}
	if diff := cmp.Diff(want, list(t, js, audit.Filter{}), cmpopts.IgnoreFields(audit.Entry{}, "Time")); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

// One entry is stored once, however often it is recorded.
func TestRecordTwice(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	trail(t, js)
	act := record(t, js, audit.Entry{Verb: "pause"})
	record(t, js, act)
	if got := list(t, js, audit.Filter{}); len(got) != 1 {
		t.Errorf("%d entries, want 1", len(got))
	}
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	trail(t, js)
	first := record(t, js, audit.Entry{Verb: "dead.redrive", By: "ada"})
	record(t, js, audit.Entry{Verb: "dead.discard", By: "bob"})
	record(t, js, audit.Entry{Verb: "pause", By: "ada"})
	record(t, js, audit.Entry{Verb: "dead", By: "ada"})
	s, err := js.Stream(t.Context(), "AUDIT")
	if err != nil {
		t.Fatal(err)
	}
	third, err := s.GetMsg(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		filter audit.Filter
		want   []uint64
	}{
		{name: "all", want: []uint64{1, 2, 3, 4}},
		{name: "verb", filter: audit.Filter{Verb: "dead.discard"}, want: []uint64{2}},
		{name: "verbs below", filter: audit.Filter{Verb: "dead"}, want: []uint64{1, 2, 4}},
		{name: "no such verb", filter: audit.Filter{Verb: "resume"}},
		{name: "act", filter: audit.Filter{Act: first.Act}, want: []uint64{1}},
		{name: "who", filter: audit.Filter{By: "ada"}, want: []uint64{1, 3, 4}},
		{name: "since", filter: audit.Filter{Since: third.Time}, want: []uint64{3, 4}},
		{name: "until", filter: audit.Filter{Until: third.Time}, want: []uint64{1, 2}},
		{name: "the latest", filter: audit.Filter{Limit: 1}, want: []uint64{4}},
		{name: "the latest of some", filter: audit.Filter{Limit: 2, By: "ada"}, want: []uint64{3, 4}},
		{name: "a generous limit", filter: audit.Filter{Limit: 9}, want: []uint64{1, 2, 3, 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []uint64
			for _, e := range list(t, js, tt.filter) {
				got = append(got, e.Sequence)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("List(%+v) (-want +got):\n%s", tt.filter, diff)
			}
		})
	}
}

func TestListStopsWhenTold(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	trail(t, js)
	for range 3 {
		record(t, js, audit.Entry{Verb: "pause"})
	}
	for _, limit := range []int{0, 2} {
		n := 0
		for range audit.List(t.Context(), js, audit.Filter{Limit: limit}) {
			n++
			break
		}
		if n != 1 {
			t.Errorf("%d entries with limit %d, want 1", n, limit)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range audit.List(ctx, js, audit.Filter{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("List = %v, want context canceled", err)
		}
	}
}

// What something else wrote is listed too.
func TestListUnreadable(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	trail(t, js)
	if _, err := js.Publish(t.Context(), "audit.x", []byte("{")); err != nil {
		t.Fatal(err)
	}
	got := list(t, js, audit.Filter{})
	if len(got) != 1 || got[0].Sequence != 1 || !strings.Contains(got[0].Error, "it cannot be read") {
		t.Errorf("List = %+v, want one entry that says why it is empty", got)
	}
}

// An act whose entry is not stored is refused, and the error says why.
func TestRecordRefuses(t *testing.T) {
	t.Parallel()
	many := make([]string, audit.MaxTargets+1)
	tests := []struct {
		name   string
		entry  audit.Entry
		change func(*jetstream.StreamConfig)
		want   error
	}{
		{name: "no stream", entry: audit.Entry{Verb: "pause"}, want: audit.ErrNoStream},
		{name: "no verb", want: audit.ErrEntry, change: func(*jetstream.StreamConfig) {}},
		{name: "wildcard", entry: audit.Entry{Verb: "dead.>"}, want: audit.ErrEntry, change: func(*jetstream.StreamConfig) {}},
		{name: "long verb", entry: audit.Entry{Verb: "a.b.c.d.e"}, want: audit.ErrEntry, change: func(*jetstream.StreamConfig) {}},
		{name: "many targets", entry: audit.Entry{Verb: "pause", Targets: many}, want: audit.ErrEntry, change: func(*jetstream.StreamConfig) {}},
		{name: "full", entry: audit.Entry{Verb: "pause"}, want: audit.ErrNotStored, change: func(c *jetstream.StreamConfig) {
			c.Discard, c.MaxBytes = jetstream.DiscardNew, 1
		}},
		{name: "other stream", entry: audit.Entry{Verb: "pause"}, want: audit.ErrNotStored, change: func(c *jetstream.StreamConfig) { c.Name = "OTHER" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			if tt.change != nil {
				trail(t, js, tt.change)
			}
			_, err := audit.Record(t.Context(), js, tt.entry)
			if !errors.Is(err, tt.want) || !errors.Is(err, audit.ErrNotStored) {
				t.Errorf("Record = %v, want %v", err, tt.want)
			}
		})
	}
}

// A denied publish is never answered, so it must not be waited for.
func TestRecordDenied(t *testing.T) {
	t.Parallel()
	js, admin := natstest.Restricted(t, server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"audit.>"}}})
	trail(t, admin)
	start := time.Now()
	_, err := audit.Record(t.Context(), js, audit.Entry{Verb: "pause"})
	if !errors.Is(err, audit.ErrDenied) || !errors.Is(err, audit.ErrNotStored) {
		t.Errorf("Record = %v, want ErrDenied", err)
	}
	if d := time.Since(start); d > 9*time.Second {
		t.Errorf("Record took %v, want one try", d)
	}
}

// What a stranger wrote does not fill the trail.
func TestRecordCuts(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	trail(t, js)
	e := record(t, js, audit.Entry{Verb: "pause", Reason: strings.Repeat("ü", 10_000)})
	if len(e.Reason) > 1<<10 || !strings.HasSuffix(e.Reason, "…") {
		t.Errorf("a reason of %d bytes, want 1 KiB with a sign that it was cut", len(e.Reason))
	}
}
