package task_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/task"
)

var stored = task.Stored{Stream: "TASKS_DEFAULT", Sequence: 7, Time: time.Date(2026, 11, 20, 12, 0, 0, 5, time.UTC)}

// A task that nobody gave an id has the same one at every delivery, and another
// one than its neighbours.
func TestReadStateOfRawTask(t *testing.T) {
	t.Parallel()
	read := func(at task.Stored) task.State {
		s, err := task.ReadState("tasks.default.email.send", nil, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := read(stored)
	if again := read(stored); a.ID != again.ID || task.CheckToken(a.ID) != nil {
		t.Errorf("ids %q and %q of one message, want one legal token", a.ID, again.ID)
	}
	next := stored
	next.Sequence++
	if b := read(next); b.ID == a.ID {
		t.Errorf("two messages share the id %q", a.ID)
	}
	if !a.EnqueuedAt.Equal(stored.Time) {
		t.Errorf("enqueued at %v, want when it was stored, %v", a.EnqueuedAt, stored.Time)
	}
}

// What a move writes is what the next delivery reads, and what a publisher wrote
// comes through, except what the broker would act upon.
func TestStateSurvivesMove(t *testing.T) {
	t.Parallel()
	now := stored.Time
	s := task.State{
		Subject: task.Subject{Class: task.Bulk, Service: "sync", Action: "page", Tenant: "acme"}, ID: "order 17/ä",
		Generation: 2, Attempt: 3, Hop: 4, Deaths: 1, EnqueuedAt: now, Deadline: now.Add(time.Hour), Encoding: task.EncodingZstd, Ref: "body-1",
		Errors: []task.Failure{{Attempt: 1, At: now, Error: "line one\nline two\r\n\x00ü", Trace: "t"}},
		Waits:  []task.Wait{{Reason: task.Circuit, Times: 2, First: now, Last: now.Add(time.Second)}}, Prev: "p", Reason: task.Failed, DiedAt: now.Add(time.Minute),
	}
	h := s.Header(nats.Header{
		"X-Mine": {"a", "b"}, "Task-Encoding": {"zstd"}, "Task-Ref": {"body-1"}, "Task-Attempt": {"99"},
		"Nats-Rollup": {"all"}, "nats-ttl": {"1s"}, "Nats-Msg-Id": {"x"},
	})
	got, err := task.ReadState(s.Subject.Dead(s.ID), h, stored)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Errorf("state after a move (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, h["X-Mine"]); diff != "" {
		t.Errorf("X-Mine (-want +got):\n%s", diff)
	}
	for name := range h {
		if strings.HasPrefix(strings.ToLower(name), "nats-") {
			t.Errorf("%s came through", name)
		}
	}
}

// Where a task was published is taken from its own subject while it is in a
// TASKS stream, whatever a publisher writes into Task-Subject.
func TestForgedSubjectIsIgnored(t *testing.T) {
	t.Parallel()
	h := nats.Header{"Task-Subject": {"tasks.urgent.billing.refund.other"}}
	s, err := task.ReadState("tasks.default.email.send.acme", h, stored)
	if err != nil {
		t.Fatal(err)
	}
	if want := (task.Subject{Class: "default", Service: "email", Action: "send", Tenant: "acme"}); s.Subject != want {
		t.Errorf("subject %+v, want %+v", s.Subject, want)
	}
}

// A message of RETRY or DEAD that does not say where it was published, which no
// worker writes, can be dead-lettered all the same: its own subject says enough.
func TestReadStateWithoutOrigin(t *testing.T) {
	t.Parallel()
	send := task.Subject{Class: task.Default, Service: "email", Action: "send"}
	for _, tt := range []struct {
		name    string
		subject string
		origin  string // Task-Subject
		want    task.Subject
	}{
		{name: "due", subject: "retry.ready.default.email.send.a", want: send},
		{name: "timer", subject: "retry.wait.default.email.send.a", want: send},
		{name: "dead", subject: "dead.default.email.send.a", want: send},
		{name: "no id", subject: "retry.ready.default.email.send", want: send},
		{name: "more tokens", subject: "retry.ready.default.email.send.a.b.c", want: send},
		{name: "foreign origin", subject: "dead.default.email.send.a", origin: "retry.ready.bulk.pdf.make.a", want: send},
		{name: "origin with wildcards", subject: "dead.default.email.send.a", origin: "tasks.*.email.>", want: send},
		{name: "origin without a service", subject: "dead.default.email.send.a", origin: "tasks.default", want: send},
		{
			name: "origin with an illegal action", subject: "dead.default.email.h-1.a", origin: "tasks.default.email.a$b",
			want: task.Subject{Class: task.Default, Service: "email", Action: "a$b"},
		},
		{name: "nothing", subject: "elsewhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := nats.Header{"Task-Id": {"a"}}
			if tt.origin != "" {
				h["Task-Subject"] = []string{tt.origin}
			}
			s, err := task.ReadState(tt.subject, h, stored)
			if !errors.Is(err, task.ErrBadSubject) {
				t.Errorf("ReadState(%s) = %v, want %v", tt.subject, err, task.ErrBadSubject)
			}
			if diff := cmp.Diff(tt.want, s.Subject); diff != "" {
				t.Errorf("subject of %s (-want +got):\n%s", tt.subject, diff)
			}
		})
	}
}

func TestReadStateBadHeaders(t *testing.T) {
	t.Parallel()
	for _, h := range []nats.Header{
		{"Task-Deadline": {"tomorrow"}},
		{"Task-Enqueued-At": {"1"}},
		{"Task-Attempt": {"-1"}},
		{"Task-Hop": {"1e3"}},
		{"Task-Generation": {"99999999999999999999"}},
		{"Task-Deaths": {" 1"}},
		{"Task-Errors": {"{"}},
		{"Task-Waits": {"{"}},
		{"Task-Waits": {"[" + strings.Repeat("{},", 20) + "{}]"}},
		{"Task-Encoding": {"gzip"}},
	} {
		s, err := task.ReadState("tasks.default.email.send", h, stored)
		if !errors.Is(err, task.ErrBadHeader) {
			t.Errorf("ReadState with %v: %v, want ErrBadHeader", h, err)
		}
		if s.ID == "" || s.Subject.Service != "email" || s.Attempt != 0 {
			t.Errorf("ReadState with %v: %+v, want what can be read", h, s)
		}
	}
}

// One id of two kinds, or of two classes, makes two move ids, and each hop and
// generation another.
func TestMoveIDsDiffer(t *testing.T) {
	t.Parallel()
	base := task.State{ID: "17", Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"}}
	kind, class, hop, generation := base, base, base, base
	kind.Subject.Action, class.Subject.Class, hop.Hop, generation.Generation = "verify", task.Urgent, 1, 1
	seen := map[string]bool{}
	for _, s := range []task.State{base, kind, class, hop, generation} {
		if seen[s.MoveID()] {
			t.Errorf("two moves share the id %s", s.MoveID())
		}
		seen[s.MoveID()] = true
	}
	if base.RedriveID() == kind.RedriveID() {
		t.Errorf("two kinds share the redrive id %s", base.RedriveID())
	}
}

// Of many failures the first and the last nine are kept, each cut to 1 KiB, and
// all headers together stay below what the broker takes.
func TestFailuresAreBounded(t *testing.T) {
	t.Parallel()
	var s task.State
	s.Subject = task.Subject{Class: task.Default, Service: "email", Action: "send"}
	for i := range 30 {
		s.Fail(task.Failure{Attempt: i + 1, At: stored.Time, Error: fmt.Sprint(i, strings.Repeat("ü", 2000))})
	}
	var attempts []int
	for _, f := range s.Errors {
		attempts = append(attempts, f.Attempt)
		if len(f.Error) > 1<<10 {
			t.Errorf("failure %d has %d bytes", f.Attempt, len(f.Error))
		}
	}
	if diff := cmp.Diff([]int{1, 22, 23, 24, 25, 26, 27, 28, 29, 30}, attempts); diff != "" {
		t.Errorf("failures kept (-want +got):\n%s", diff)
	}
	for _, own := range []int{0, 20 << 10, 50 << 10, 58 << 10} {
		h := s.Header(nats.Header{"X-Large": {strings.Repeat("x", own)}})
		size := 0
		for k, v := range h {
			size += len(k) + len(v[0]) + 4
		}
		if size > 60<<10 || own == 0 && size < 9<<10 {
			t.Errorf("with %d bytes of a publisher's headers a move has %d, want the history within 60 KiB", own, size)
		}
	}
}

func FuzzReadState(f *testing.F) {
	f.Add("tasks.default.email.send", "Task-Errors", `[{"attempt":1,"error":"x"}]`)
	f.Add("retry.ready.default.email.send.1", "Task-Subject", "tasks.default.email.send")
	f.Add("dead.default.email.send.1", "Task-Deadline", "2026-11-20T00:00:00Z")
	f.Fuzz(func(t *testing.T, subject, name, value string) {
		s, err := task.ReadState(subject, nats.Header{name: {value}}, stored)
		if s.ID == "" {
			t.Fatal("no id")
		}
		if err != nil {
			return
		}
		moved, err := task.ReadState(s.Subject.Dead(s.ID), s.Header(nats.Header{name: {value}}), stored)
		if err != nil || moved.ID != s.ID || moved.Subject != s.Subject || moved.Attempt != s.Attempt {
			t.Fatalf("%+v reads as %+v after a move: %v", s, moved, err)
		}
	})
}
