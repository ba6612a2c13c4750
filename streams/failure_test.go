package streams_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// The broker is killed in the middle of an Apply. What was made is returned with
// the error, and a second Apply makes the rest.
func TestApplyWhileBrokerIsKilled(t *testing.T) {
	t.Parallel()
	broker := natstest.StartBroker(t)
	js := broker.Connect(t)
	fleet := streams.Default()
	for i := range 20 { // enough to do for the end to come in the middle
		fleet.Services = append(fleet.Services, streams.Service{Name: "s" + strconv.Itoa(i), Classes: []task.Class{task.Urgent, task.Bulk}})
	}
	made, err := js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.STREAM.CREATED.*")
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for range 3 {
			if _, err := made.NextMsgWithContext(t.Context()); err != nil {
				return
			}
		}
		broker.Kill()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	changes, err := streams.Apply(ctx, js, fleet)
	<-killed
	if err == nil || !strings.Contains(err.Error(), "create ") {
		t.Fatalf("Apply on a broker that was killed = %v, want an error that says at what", err)
	}
	top := fleet.Topology()
	all := len(top.Streams) + len(top.Consumers) + len(top.Watchers) + len(top.Buckets) + 1 // BODIES
	if n := len(changes); n < 2 || n >= all {                                               // the answer to the third may be lost
		t.Errorf("Apply returns %d changes, want those before the end: 2 or a few more of %d", n, all)
	}
	broker.Restart(t)
	js = broker.Connect(t)
	rest := apply(t, js, fleet)
	if n := len(changes) + len(rest); n > all {
		t.Errorf("the second Apply makes %v again", texts(rest))
	}
	if left := apply(t, js, fleet); len(left) > 0 {
		t.Errorf("a third Apply changes %v", texts(left))
	}
}

// Two who apply different files at once end with one of both in every object, and
// whoever applies next settles it. No task is lost.
func TestApplyTwoFilesAtOnce(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	publish(t, js, "tasks.urgent.email.send", 3)
	a := with(func(f *streams.Fleet) { f.Classes[0].MaxBytes, f.Classes[0].AckWait = 16*mib, 30*time.Second })
	b := with(func(f *streams.Fleet) {
		f.Classes[0].MaxBytes, f.Dead.MaxBytes = 32*mib, 16*mib
		f.Services = append(f.Services, streams.Service{Name: "sms", Classes: []task.Class{task.Urgent}})
	})
	var wg sync.WaitGroup
	for _, f := range []*streams.Fleet{a, b} {
		wg.Go(func() {
			// One may meet what the other has changed since it planned, and say so.
			if _, err := streams.Apply(t.Context(), js, f); err != nil {
				t.Logf("Apply = %v", err)
			}
		})
	}
	wg.Wait()
	apply(t, js, b)
	if left := apply(t, js, b); len(left) > 0 {
		t.Errorf("a later Apply changes %v", texts(left))
	}
	if got := stored(t, js, "TASKS_URGENT"); got != 3 {
		t.Errorf("TASKS_URGENT holds %d tasks, want 3", got)
	}
}

// An operator's pause is no drift, and outlives an Apply that changes the
// consumer, to the moment.
func TestApplyKeepsPause(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	until := time.Now().Add(time.Hour)
	for stream, name := range map[string]string{"TASKS_URGENT": "email", "RETRY": "urgent-email"} {
		if _, err := js.PauseConsumer(t.Context(), stream, name, until); err != nil {
			t.Fatal(err)
		}
	}
	if changes, err := streams.Plan(t.Context(), js, small()); err != nil || len(changes) > 0 {
		t.Errorf("Plan of a paused fleet = %v, %v, want no changes", texts(changes), err)
	}
	warnings, err := streams.Inspect(t.Context(), js, small(), "email")
	if err != nil || len(warnings) > 0 {
		t.Errorf("Inspect of a paused fleet = %v, %v, want nothing", warnings, err)
	}
	apply(t, js, with(func(f *streams.Fleet) { f.Classes[0].AckWait, f.Classes[0].Slots = time.Minute, 128 }))
	for stream, name := range map[string]string{"TASKS_URGENT": "email", "RETRY": "urgent-email"} {
		c, err := js.Consumer(t.Context(), stream, name)
		if err != nil {
			t.Fatal(err)
		}
		info := c.CachedInfo()
		if info.Config.AckWait != time.Minute {
			t.Errorf("%s/%s: ack wait = %v, want the new one", stream, name, info.Config.AckWait)
		}
		if at := info.Config.PauseUntil; !info.Paused || at == nil || !at.Equal(until) {
			t.Errorf("%s/%s: paused = %v until %v, want until %v", stream, name, info.Paused, at, until)
		}
	}
}

// What names a copy that was asked for, and what a service is told of it.
func TestInspectWarnsOfFewerReplicas(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	warnings, err := streams.Inspect(t.Context(), js, with(func(f *streams.Fleet) { f.Replicas = 3 }), "email")
	if err != nil {
		t.Fatalf("Inspect = %v, want that a service can work with fewer replicas", err)
	}
	want := []string{
		"stream TASKS_URGENT: replicas is 1, want 3", "stream RETRY: replicas is 1, want 3", "stream DEAD: replicas is 1, want 3",
		"bucket BODIES: replicas is 1, want 3", "bucket FLEET: replicas is 1, want 3",
	}
	if d := cmp.Diff(want, warnings); d != "" {
		t.Errorf("warnings (-want +got):\n%s", d)
	}
}
