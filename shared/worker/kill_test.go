package worker_test

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

const shortAckWait = 2 * time.Second // not for production: see architecture

// A worker is killed in the middle of a task: another one has it within ack-wait
// and two seconds.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	first := spawnWorker(t, url, l)
	publish(t, js, "a", note{Text: "sleep 3s"})
	l.wait(t, 10*time.Second, "a starts", happened("start", "a"))
	second := spawnWorker(t, url, l)
	killed := time.Now()
	first.Kill()
	l.wait(t, 20*time.Second, "a ends", ended("a"))
	var again time.Time
	for _, e := range l.read(t) {
		if e.what == "start" && e.pid == second.PID() {
			again = e.at
		}
	}
	if took := again.Sub(killed); took > shortAckWait+2*time.Second {
		t.Errorf("the task was back after %v, want at most ack-wait + 2s", took)
	}
	second.Stop()
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// A worker is stopped (SIGSTOP) for longer than its lease and then goes on: its
// handler is cancelled and its acknowledgement never sent, so the second run is
// the one that counts.
func TestStoppedWorkerIsFenced(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	zombie := spawnWorker(t, url, l)
	publish(t, js, "a", note{Text: "sleep 6s"})
	l.wait(t, 10*time.Second, "a starts", happened("start", "a"))
	zombie.Pause()
	second := spawnWorker(t, url, l)
	l.wait(t, 20*time.Second, "a starts again", func(events []event) bool { return len(events) == 2 })
	zombie.Resume()
	l.wait(t, 10*time.Second, "the zombie is cancelled", happened("cancelled", "a"))
	l.wait(t, 20*time.Second, "a ends", ended("a"))
	natstest.StopAll(zombie, second)
	for _, e := range l.read(t) {
		if e.what == "end" && e.pid != second.PID() {
			t.Errorf("the zombie finished its run")
		}
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// A task is handed to a worker that is stopped, and comes back when its lease is
// over: the worker finds it when it goes on, late, and does not run it.
func TestStoppedWorkerFindsLateTask(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	zombie := spawnWorker(t, url, l)
	until(t, 10*time.Second, "it asks for tasks", func() bool { return asked(t, js) })
	zombie.Pause()
	publish(t, js, "a", note{Text: "ok"})
	second := spawnWorker(t, url, l)
	l.wait(t, 20*time.Second, "a ends", ended("a"))
	second.Stop()
	zombie.Resume()
	publish(t, js, "b", note{Text: "ok"})
	l.wait(t, 20*time.Second, "it works again, and b ends", ended("b"))
	zombie.Stop()
	for _, e := range l.read(t) {
		if e.id == "a" && e.pid != second.PID() {
			t.Errorf("the stopped worker has run it: %s", e.what)
		}
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// asked reports whether a worker waits for tasks.
func asked(tb testing.TB, js jetstream.JetStream) bool {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), "TASKS_DEFAULT", "test")
	if err != nil {
		tb.Fatal(err)
	}
	return c.CachedInfo().NumWaiting > 0
}

// Five rolling restarts under load: nothing is lost, nothing runs twice, and
// nothing costs an attempt or counts as a death, started or not.
func TestRollingRestarts(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, 20*time.Second)
	l := newLedger(t)
	workers := []*natstest.Process{spawnWorker(t, url, l, envSlots+"=8"), spawnWorker(t, url, l, envSlots+"=8")}
	n := 0
	load := func(d time.Duration) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
			publish(t, js, strconv.Itoa(n), note{Text: "sleep 100ms"}) // 200/s, and room for 160/s: there is always a backlog
			<-tick.C
		}
	}
	load(time.Second)
	for i := range 5 {
		old := workers[i%2]
		old.Signal(syscall.SIGTERM)
		workers[i%2] = spawnWorker(t, url, l, envSlots+"=8")
		load(500 * time.Millisecond)
		old.Wait()
	}
	l.wait(t, 60*time.Second, "all tasks end", func([]event) bool { return len(l.count(t, "end")) == n })
	natstest.StopAll(workers...)
	for _, e := range l.read(t) {
		if e.attempt != 0 || e.what == "cancelled" {
			t.Errorf("task %s: %s with attempt %d", e.id, e.what, e.attempt)
		}
	}
	for id, runs := range l.count(t, "start") {
		if runs != 1 {
			t.Errorf("task %s ran %d times", id, runs)
		}
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// A task that kills its process ends in DEAD after at most max-deliver + 1
// deaths; of the tasks that ran beside it none is lost, none is dead-lettered,
// and each is doubled at most once by each death.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kill", "exit"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			url, js := natstest.Listen(t)
			topology(t, js, shortAckWait)
			l := newLedger(t)
			const innocents = 60
			for i := range innocents {
				publish(t, js, fmt.Sprint("innocent", i), note{Text: "sleep 200ms"})
			}
			publish(t, js, "killer", note{Text: how})
			deaths := 0
			supervised := spawnWorker(t, url, l, envSlots+"=8")
			done := func() bool { return len(letters(t, js)) == 1 && len(l.count(t, "end")) == innocents }
			for deadline := time.Now().Add(60 * time.Second); !done(); {
				select {
				case <-supervised.Done():
					deaths++
					supervised = spawnWorker(t, url, l, envSlots+"=8")
				case <-time.After(50 * time.Millisecond):
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d dead letters and %d of %d innocents after a minute", len(letters(t, js)), len(l.count(t, "end")), innocents)
				}
			}
			supervised.Stop()
			st := state(t, "DEAD", letters(t, js)[0])
			if st.ID != "killer" || st.Reason != task.CrashLoop || st.Attempt != 0 {
				t.Errorf("%s is dead of %s after %d attempts, want the killer, of crash-loop, after none", st.ID, st.Reason, st.Attempt)
			}
			runs := l.count(t, "start")
			if runs["killer"] > 4 || runs["killer"] != deaths+1 {
				t.Errorf("the killer ran %d times and %d workers died, want at most 4 deaths, the last of a child", runs["killer"], deaths)
			}
			for id, n := range runs {
				if id != "killer" && n > deaths+1 {
					t.Errorf("%s ran %d times for %d deaths", id, n, deaths)
				}
			}
			empty(t, js, "TASKS_DEFAULT", "RETRY")
		})
	}
}

// Tasks that are there when the broker comes back start at once: what a worker asks for
// then is not late, though it had heard nothing for longer than a lease.
func TestTasksAfterOutage(t *testing.T) {
	t.Parallel()
	const tasks = 20
	b := natstest.StartBroker(t)
	js := b.Connect(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	w := spawnWorker(t, b.URL, l)
	publish(t, js, "before", note{})
	l.wait(t, 10*time.Second, "a task ends", ended("before"))
	until(t, 10*time.Second, "the broker has its acknowledgement", func() bool {
		s, err := js.Stream(t.Context(), "TASKS_DEFAULT")
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	b.Kill()
	time.Sleep(2 * shortAckWait)
	b.Restart(t)
	js = b.Connect(t)
	for i := range tasks {
		publish(t, js, strconv.Itoa(i), note{})
	}
	l.wait(t, 20*time.Second, "all end", func([]event) bool { return len(l.count(t, "end")) == tasks+1 })
	w.Stop()
	c, err := js.Consumer(t.Context(), "TASKS_DEFAULT", "test")
	if err != nil {
		t.Fatal(err)
	}
	if d := c.CachedInfo().Delivered; d.Consumer > d.Stream { // fewer if the kill took what the consumer had counted
		t.Errorf("%d deliveries of %d tasks, want one of each", d.Consumer, d.Stream)
	}
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}

// The broker is killed and started again on its store, under load: every task
// that was acknowledged to its publisher runs.
func TestKilledBroker(t *testing.T) {
	t.Parallel()
	b := natstest.StartBroker(t)
	js := b.Connect(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	workers := []*natstest.Process{spawnWorker(t, b.URL, l), spawnWorker(t, b.URL, l)}
	accepted := map[string]bool{}
	n := 0
	body, err := task.Marshal(note{Text: "fail-once"})
	if err != nil {
		t.Fatal(err)
	}
	load := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
			id := strconv.Itoa(n)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := js.PublishMsg(ctx, &nats.Msg{Subject: "tasks.default.test.note", Data: body}, jetstream.WithMsgID(id))
			cancel()
			if err == nil {
				accepted[id] = true
			} else {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	load(time.Second)
	for range 2 {
		b.Kill()
		load(200 * time.Millisecond)
		b.Restart(t)
		load(time.Second)
	}
	l.wait(t, 60*time.Second, "all accepted tasks end", func([]event) bool {
		ends := l.count(t, "end")
		for id := range accepted {
			if ends[id] == 0 {
				return false
			}
		}
		return true
	})
	for _, w := range workers {
		w.Stop()
	}
	t.Logf("%d tasks accepted of %d, over 2 kills", len(accepted), n)
	empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
}
