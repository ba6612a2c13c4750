package worker_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// publishSuspect publishes a task that two workers have died of already.
func publishSuspect(tb testing.TB, js jetstream.JetStream, text string) {
	tb.Helper()
	body, err := task.Marshal(note{Text: text})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: "retry.ready.default.test.note.a", Data: body, Header: nats.Header{
		"Task-Id": {"a"}, "Task-Subject": {"tasks.default.test.note"}, "Task-Deaths": {"2"}, "Task-Reason": {"suspect"},
	}}); err != nil {
		tb.Fatal(err)
	}
}

// What a suspect's handler returns in its child is its verdict, and a child that
// ends before it has begun the task is a failed attempt, not the task's fault.
func TestChildAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		env        []string
		reason     task.Reason // of the dead letter; "" for none
	}{
		{"done", "ok", nil, ""},
		{"fails once", "fail-once", nil, ""},
		{"fails without a word", "fail-empty", nil, task.Failed},
		{"permanent", "permanent", nil, task.Permanent},
		{"dies", "kill", nil, task.CrashLoop},
		{"never begins", "ok", []string{envBadChild + "=1"}, task.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, js := natstest.Listen(t)
			topology(t, js, 20*time.Second)
			l := newLedger(t)
			p := spawnWorker(t, url, l, tt.env...)
			publishSuspect(t, js, tt.text)
			until(t, 60*time.Second, "the task has come to its end", func() bool {
				if tt.reason == "" {
					return l.count(t, "end")["a"] > 0
				}
				return len(letters(t, js)) > 0
			})
			p.Stop()
			dead := letters(t, js)
			switch {
			case tt.reason == "" && (len(dead) != 0 || l.count(t, "end")["a"] != 1):
				t.Errorf("%d dead letters and %d runs that ended, want none and 1", len(dead), l.count(t, "end")["a"])
			case tt.reason != "" && (len(dead) != 1 || state(t, "DEAD", dead[0]).Reason != tt.reason):
				t.Errorf("dead letters %v, want one of %s", dead, tt.reason)
			}
			for _, e := range l.read(t) {
				if e.pid == p.PID() {
					t.Error("the suspect ran in the worker itself")
				}
			}
			empty(t, js, "TASKS_DEFAULT", "RETRY")
		})
	}
}

// A suspect runs in a child of its own, and the child ends with its parent even
// when its handler does not listen: else it would run on beside the next one.
func TestOrphanedChildEnds(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, shortAckWait)
	l := newLedger(t)
	parent := spawnWorker(t, url, l)
	publishSuspect(t, js, "stuck")
	events := l.wait(t, 10*time.Second, "a starts", happened("start", "a"))
	child := events[0].pid
	if child == parent.PID() {
		t.Fatal("the suspect runs in the worker itself")
	}
	parent.Kill()
	until(t, 10*time.Second, "the child has ended", func() bool { return syscall.Kill(child, 0) != nil })
}
