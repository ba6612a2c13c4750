//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// TestBackupAndRestore carries a fleet's tasks to an empty broker with the commands of
// docs/operations.md: what waits runs there, a timer fires there, a dead letter is there, and
// the topology needs nothing more.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	require(t, "nats")
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

	backup, restore := backupCommands(t)
	if told := command(t, f.env, "sh", "-ec", backup); strings.Contains(told, "no backup of") {
		t.Fatalf("the backup lacks a stream:\n%s", told)
	}
	url, js := natstest.Listen(t) // an empty broker
	env := slices.Concat(f.env, []string{"NATS_URL=" + url, "DROVER_NATS_URL=" + url})
	if told := command(t, env, "sh", "-ec", restore); !strings.Contains(told, "nothing to change") {
		t.Errorf("the commands that restore say this, want that there is nothing to change:\n%s", told)
	}

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

// backupCommands returns the two blocks of section 8 of docs/operations.md, as shell
// scripts on folders of the test.
func backupCommands(tb testing.TB) (backup, restore string) {
	tb.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		tb.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## 8 Backup and restore\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile(`(?m)(?:^ {4}.*\n)+`).FindAllString(section, -1)
	if len(blocks) != 2 {
		tb.Fatalf("section 8 of docs/operations.md has %d blocks of commands, want one that backs up and one that restores", len(blocks))
	}
	dir := tb.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "keys"), 0o700), os.Mkdir(filepath.Join(dir, "backup"), 0o700)); err != nil {
		tb.Fatal(err)
	}
	for _, file := range []string{"fleet.yaml", filepath.Join("keys", "accounts.conf")} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	for i, b := range blocks {
		blocks[i] = "cd '" + dir + "'\n" + strings.ReplaceAll(b, " /backup/", " backup/")
	}
	return blocks[0], blocks[1]
}

// command runs a program to its end, which must be a success, and returns what it said.
func command(tb testing.TB, env []string, name string, args ...string) string {
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
	return p.output()
}
