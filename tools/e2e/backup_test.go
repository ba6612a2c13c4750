//go:build e2e

package e2e_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// TestBackupAndRestore carries a fleet's tasks to an empty broker with the nats
// command: what waits runs there, a timer fires there, a dead letter is there, and
// the topology needs nothing more.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	natsCLI := require(t, "nats")
	f := newFleet(t, "")
	body, err := task.Marshal(map[string]any{"to": "ada@example.com", "subject": "Hi", "text": "It works."})
	if err != nil {
		t.Fatal(err)
	}
	subject, err := task.ParseSubject("tasks.default.email.send")
	if err != nil {
		t.Fatal(err)
	}
	later := task.State{Subject: subject, ID: "later", Attempt: 1, Hop: 1}
	timer := &nats.Msg{Subject: subject.RetryWait("later"), Header: later.Header(nil), Data: body}
	due := time.Now().Add(10 * time.Second)
	timer.Header[task.HeaderSchedule] = []string{"@at " + due.UTC().Format(time.RFC3339Nano)}
	timer.Header[task.HeaderScheduleTarget] = []string{subject.RetryReady("later")}
	dead := task.State{Subject: subject, ID: "dead", DiedAt: time.Now()}
	for _, m := range []*nats.Msg{
		{Subject: subject.String(), Header: nats.Header{task.HeaderID: {"waiting"}}, Data: body},
		timer,
		{Subject: subject.Dead("dead"), Header: dead.Header(nil), Data: body},
	} {
		if _, err := f.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}

	folder := filepath.Join(t.TempDir(), "backup")
	command(t, f.env, natsCLI, "account", "backup", "--force", folder)
	url, js := natstest.Listen(t) // an empty broker
	env := slices.Concat(f.env, []string{"NATS_URL=" + url, "DROVER_NATS_URL=" + url})
	command(t, env, natsCLI, "account", "restore", folder)

	changes, err := streams.Plan(t.Context(), js, streams.Default())
	if err != nil || len(changes) > 0 {
		t.Errorf("the restored broker needs %v (%v), want nothing", changes, err)
	}
	restored := *f
	restored.env, restored.js = env, js
	restored.service("email")
	for range 2 {
		if m := next(t, f.mails); m.Subject != "Hi" {
			t.Errorf("a mail came with subject %q, want Hi", m.Subject)
		}
	}
	if early := time.Until(due); early > 0 {
		t.Errorf("the timer fired %v early", early)
	}
	for stream, n := range map[string]uint64{task.Default.Stream(): 0, task.RetryStream: 0, task.DeadStream: 1} {
		if err := restored.holds(stream, n); err != nil {
			t.Errorf("after the tasks ran: %v", err)
		}
	}
}

// command runs a program to its end, which must be a success.
func command(tb testing.TB, env []string, name string, args ...string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(alive, patience)
	defer cancel()
	p := start(tb, env, name, args...)
	select {
	case <-p.ended:
		if p.err != nil {
			tb.Fatalf("%s %q: %v\n%s", name, args, p.err, p.output())
		}
	case <-ctx.Done():
		tb.Fatalf("%s %q has not ended after %v\n%s", name, args, patience, p.output())
	}
}
