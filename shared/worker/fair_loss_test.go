package worker_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// A worker of a fair class is drained under load, and then another one is killed:
// the drain costs nothing, and of the killed one all tasks are back within ack-wait
// and two seconds. Every task of every tenant ends.
func TestFairWorkersEnd(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	fairTopology(t, js, shortAckWait)
	l := newLedger(t)
	spawn := func() *natstest.Process { return spawnWorker(t, url, l, envFair+"=1", envSlots+"=8") }
	drained, killed := spawn(), spawn()
	of := append(tenants(5, false), tenants(2, true)...)
	n := 0
	load := func(tasks int) {
		for range tasks {
			publishFor(t, js, append(of, "")[n%(len(of)+1)], strconv.Itoa(n), note{Text: "sleep 100ms"})
			n++
		}
	}
	load(200)
	l.wait(t, 20*time.Second, "both work", func(events []event) bool { return len(events) > 40 })
	drained.Signal(syscall.SIGTERM)
	load(100)
	third := spawn()
	drained.Wait()
	for id, runs := range l.count(t, "start") {
		if runs != 1 {
			t.Errorf("task %s has run %d times, and no worker was killed yet", id, runs)
		}
	}
	load(100)
	killed.Kill()
	at := time.Now()
	l.wait(t, 60*time.Second, "all tasks end", func([]event) bool { return len(l.count(t, "end")) == n })
	third.Stop()
	starts := map[string][]event{}
	for _, e := range l.read(t) {
		switch {
		case e.attempt != 0 || e.what == "cancelled":
			t.Errorf("task %s: %s with attempt %d", e.id, e.what, e.attempt)
		case e.what == "start":
			starts[e.id] = append(starts[e.id], e)
		}
	}
	for id, all := range starts {
		if len(all) > 2 || len(all) == 2 && all[0].pid != killed.PID() {
			t.Errorf("task %s has run %d times, first in %d", id, len(all), all[0].pid)
		}
		if len(all) == 2 {
			if took := all[1].at.Sub(at); took > shortAckWait+2*time.Second {
				t.Errorf("task %s of the killed worker was back after %v, want at most ack-wait + 2s", id, took)
			}
		}
	}
	empty(t, js, "TASKS_BULK", "RETRY", "DEAD")
}

// The broker is killed in the middle of a crowd's backlog, and is there again later: the
// lanes take tasks again by themselves, and tenants still take turns.
func TestFairWithoutBroker(t *testing.T) {
	t.Parallel()
	const crowd, each = 600, 10
	broker := natstest.StartBroker(t)
	js := broker.Connect(t)
	fairTopology(t, js, shortAckWait)
	l := newLedger(t)
	for i := range crowd {
		publishFor(t, js, "crowd", "crowd-"+strconv.Itoa(i), note{Text: "sleep 50ms"})
	}
	var fleet []*natstest.Process
	for range 2 {
		fleet = append(fleet, spawnWorker(t, broker.URL, l, envFair+"=1", envSlots+"=4"))
	}
	l.wait(t, 20*time.Second, "the crowd's tasks run", func(events []event) bool { return len(events) > 40 })
	broker.Kill()
	time.Sleep(max(outage(), 3*time.Second)) // until no request to an idle partition counts as outstanding any more
	broker.Restart(t)
	js = broker.Connect(t)
	of := append(tenants(5, false), "")
	for i := range each * len(of) {
		publishFor(t, js, of[i%len(of)], "other-"+strconv.Itoa(i), note{Text: "sleep 50ms"})
	}
	ends := func(prefix string) (n int) {
		for id := range l.count(t, "end") {
			if strings.HasPrefix(id, prefix) {
				n++
			}
		}
		return n
	}
	l.wait(t, 30*time.Second, "the others' tasks end", func([]event) bool { return ends("other-") == each*len(of) })
	if n := ends("crowd-"); n > crowd/2 {
		t.Errorf("%d of the crowd's %d tasks were done before the %d of the others", n, crowd, each*len(of))
	}
	l.wait(t, 60*time.Second, "the crowd's tasks end", func([]event) bool { return ends("crowd-") == crowd })
	natstest.StopAll(fleet...)
	again := 0
	for id, runs := range l.count(t, "start") {
		if again += runs - 1; strings.HasPrefix(id, "other-") && runs > 1 {
			t.Errorf("%s ran %d times, and the broker was there all the time", id, runs)
		}
	}
	if most := 2 * 4 * 2; again > most { // acknowledgements that the broker never got
		t.Errorf("%d runs more than tasks, want at most %d: what was in hand and just done", again, most)
	}
	empty(t, js, "TASKS_BULK", "RETRY", "DEAD")
}

// A task keeps its tenant when it is retried, and in its dead letter.
func TestTenantTravels(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fairTopology(t, js, ackWait)
	var mu sync.Mutex
	var seen []string
	_, stop := start(t, js, func(w *worker.Worker) {
		worker.Handle(w, func(ctx context.Context, n note) error {
			info, _ := task.FromContext(ctx)
			mu.Lock()
			seen = append(seen, info.Tenant+strconv.Itoa(info.Attempt))
			mu.Unlock()
			if info.Attempt == 0 {
				return errors.New("the first attempt fails")
			}
			return retry.Permanent(errors.New("and so does the second"))
		}, worker.Retry(retry.Policy{Base: time.Millisecond, Cap: time.Millisecond}))
	}, fair(2))
	publishFor(t, js, "acme", "a", note{})
	until(t, 20*time.Second, "a dead letter", func() bool { return len(letters(t, js)) == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(seen, " "); got != "acme0 acme1" {
		t.Errorf("attempts were of %s, want acme0 acme1", got)
	}
	letter := letters(t, js)[0]
	if st := state(t, "DEAD", letter); st.Subject.Tenant != "acme" || st.Subject.Kind() != "test.note" || letter.Header.Get(task.HeaderSubject) != "tasks.bulk.test.note.acme" {
		t.Errorf("the dead letter is of tenant %q, kind %s, published to %s", st.Subject.Tenant, st.Subject.Kind(), letter.Header.Get(task.HeaderSubject))
	}
	empty(t, js, "TASKS_BULK", "RETRY")
}

// The consumer of one partition is deleted under a worker: it says which within 30 s,
// takes the tasks of the others meanwhile, and works on when it is made again.
func TestDeletedPartition(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		fairTopology(t, js, ackWait)
		w, done, stop := counted(t, js, fair(2))
		time.Sleep(time.Minute)
		ready(t, w, "idle", "")
		name := task.PartitionConsumer("test", inPartition("crowd"))
		if err := js.DeleteConsumer(t.Context(), "TASKS_BULK", name); err != nil {
			t.Fatal(err)
		}
		other := tenants(1, false)[0]
		publishFor(t, js, "crowd", "a", note{})
		for i := range 29 {
			publishFor(t, js, other, strconv.Itoa(i), note{})
			time.Sleep(time.Second)
		}
		ready(t, w, "without the consumer of a partition", "tasks of "+name)
		if n := done.Load(); n != 29 {
			t.Errorf("%d tasks of the others are done, want 29", n)
		}
		fairTopology(t, js, ackWait)
		time.Sleep(20 * time.Second)
		ready(t, w, "with its consumer again", "")
		if n := done.Load(); n != 30 {
			t.Errorf("%d tasks are done, want 30", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// A worker that loses the subscriptions of a fair lane takes tasks again.
func TestFairLaneRecovers(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		fairTopology(t, js, ackWait)
		w, done, stop := counted(t, js, fair(2))
		time.Sleep(time.Minute)
		worker.KillPulls(w)
		time.Sleep(10 * time.Second) // what was asked for has ended
		for i, tenant := range append(tenants(3, false), "") {
			publishFor(t, js, tenant, strconv.Itoa(i), note{})
		}
		time.Sleep(time.Minute)
		ready(t, w, "after a minute", "")
		if n := done.Load(); n != 4 {
			t.Errorf("%d tasks are done, want 4", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
