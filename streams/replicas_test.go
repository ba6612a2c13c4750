package streams_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
)

// A fleet on one node of a cluster gets copies on all and goes back to one, while
// it holds tasks: all are there and worked at the end.
func TestApplyReplicas(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t)
	js := cluster.Connect(t)
	replicas := func(n int) *streams.Fleet {
		return with(func(f *streams.Fleet) { f.Replicas, f.Classes[0].AckWait = n, 5*time.Minute })
	}
	apply(t, js, replicas(1))
	publish(t, js, "tasks.urgent.email.send", 4)
	held := take(t, js, "TASKS_URGENT", "email", 5*time.Second)

	_, err := streams.Apply(t.Context(), js, replicas(5))
	if !errors.Is(err, streams.ErrRefused) || !strings.Contains(err.Error(), "there are 3 servers with JetStream, and 5 copies need 5") {
		t.Fatalf("Apply of 5 replicas = %v, want a refusal that says how many servers there are", err)
	}

	for _, c := range apply(t, js, replicas(3)) {
		if len(c.Fields) != 1 || c.Fields[0] != (streams.Diff{Field: "replicas", From: "1", To: "3"}) {
			t.Errorf("Apply of 3 replicas makes %s", c)
		}
	}
	cluster.Wait(t)
	until(t, "TASKS_URGENT has 3 copies", func() bool { return copies(t, js) == 3 })
	var changes []streams.Change
	until(t, "all copies are up to date", func() bool { // which is refused until then
		changes, err = streams.Apply(t.Context(), js, replicas(1))
		if err != nil && !strings.Contains(err.Error(), "is not up to date") {
			t.Fatalf("Apply of 1 replica = %v", err)
		}
		return err == nil
	})
	if len(changes) == 0 || !strings.Contains(changes[0].Note, "one copy is left") {
		t.Errorf("Apply of 1 replica = %v, want a note of what it costs", texts(changes))
	}
	for i := range 4 {
		if i > 0 {
			held = take(t, js, "TASKS_URGENT", "email", 10*time.Second)
		}
		if err := held.DoubleAck(t.Context()); err != nil {
			t.Fatalf("acknowledge task %d: %v", i, err)
		}
	}
	// The broker confirms an acknowledgement before the message is gone.
	until(t, "TASKS_URGENT is empty", func() bool { return stored(t, js, "TASKS_URGENT") == 0 })
}

// until asks the broker, which announces none of this, until ok.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			tb.Fatalf("not so after 30 s: %s", what)
		}
	}
}

func copies(tb testing.TB, js jetstream.JetStream) int {
	tb.Helper()
	s, err := js.Stream(tb.Context(), "TASKS_URGENT")
	if err != nil {
		tb.Fatal(err)
	}
	n := 1
	for _, r := range s.CachedInfo().Cluster.Replicas {
		if r.Current {
			n++
		}
	}
	return n
}
