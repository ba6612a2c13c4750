package deadletter_test

import (
	"fmt"
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

func groups(tb testing.TB, js jetstream.JetStream, f deadletter.Filter) deadletter.Census {
	tb.Helper()
	c, err := deadletter.Groups(tb.Context(), js, f)
	if err != nil {
		tb.Fatalf("Groups = %v", err)
	}
	return c
}

func TestGroups(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	_, err := deadletter.Groups(t.Context(), js, deadletter.Filter{Limit: -1})
	wantError(t, "Groups of nothing legal", err, deadletter.ErrFilter)
	for i, minutes := range []int{3, 1, 2} {
		s := dead(name(i))
		s.DiedAt = died.Add(time.Duration(minutes) * time.Minute)
		s.Errors[1].Error = fmt.Sprintf("550 no such mailbox user%d", i)
		bury(t, js, s, nil, nil)
	}
	s := dead("other")
	s.Errors, s.Reason = nil, task.Expired
	bury(t, js, s, nil, nil)
	want := deadletter.Census{Count: 4, Groups: []deadletter.Group{
		{
			Kind: "email.send", Class: task.Default, Reason: task.Failed, Text: "# no such mailbox user#", Count: 3,
			First: died.Add(time.Minute), Last: died.Add(3 * time.Minute), ID: name(0), Sequence: 1, Error: "550 no such mailbox user0",
		},
		{Kind: "email.send", Class: task.Default, Reason: task.Expired, Count: 1, First: died, Last: died, ID: "other", Sequence: 4},
	}}
	got := groups(t, js, deadletter.Filter{})
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(deadletter.Group{}, "Fingerprint")); diff != "" {
		t.Errorf("Groups (-want +got):\n%s", diff)
	}
	for _, g := range got.Groups {
		if n := len(list(t, js, deadletter.Filter{Fingerprint: g.Fingerprint})); n != g.Count {
			t.Errorf("%d letters have the fingerprint of a group of %d", n, g.Count)
		}
	}
	if c := groups(t, js, deadletter.Filter{Reason: task.Expired}); c.Count != 1 || len(c.Groups) != 1 {
		t.Errorf("Groups of expired = %+v, want one", c)
	}
}

// BenchmarkGroups counts letters of a kilobyte's body that died of one of fifty
// causes.
func BenchmarkGroups(b *testing.B) {
	b.Run("errors differ", func(b *testing.B) { benchmarkGroups(b, 1) })
	b.Run("errors recur", func(b *testing.B) { benchmarkGroups(b, 0) })
}

func benchmarkGroups(b *testing.B, step int) {
	b.Helper()
	js := natstest.JetStream(b)
	fleet(b, js)
	const n = 20_000
	content := make([]byte, 1<<10)
	for i := range n {
		s := dead(name(i))
		s.Errors[1].Error = fmt.Sprintf("connect to smtp%c%c.example.org:25: refused after %d ms", 'a'+i%5, 'a'+i%10, i*step)
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: s.Subject.Dead(s.ID), Header: s.Header(nil), Data: content}, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	b.ReportAllocs()
	for b.Loop() {
		c := groups(b, js, deadletter.Filter{})
		if c.Count != n {
			b.Errorf("%d letters counted, want %d", c.Count, n)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "letters/s")
}
