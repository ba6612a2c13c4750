package deadletter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	s := dead("one")
	s.Errors[1].Trace = "00-ffffffffffffffffffffffffffffffff-0123456789abcdef-01"
	s.Errors[1].Attempt, s.Attempt = 12, 12
	s.Errors[1].Error = "panic: \x1b[31mred\nstack"
	from := s.EnqueuedAt.Add(2 * time.Second)
	for i := range 3 {
		s.Wait(task.Circuit, from.Add(time.Duration(i)*time.Minute))
	}
	s.Wait(task.PutOff, from.Add(2*time.Hour))
	s.Wait(task.Limited, from.Add(3*time.Hour))
	s.Wait(task.Cap, from.Add(4*time.Hour))
	s.Wait(task.GaveBack, from) // a drain says nothing of the task
	l := deadletter.Letter{State: s, Sequence: 7, Header: s.Header(map[string][]string{"traceparent": {oldTrace}})}
	want := `email.send one
  2026-05-04T10:00:00.000Z  published to tasks.default.email.send
  2026-05-04T10:00:01.000Z  attempt 1: connection refused
  2026-05-04T10:00:02.000Z  waited 3 times, the last time from 2026-05-04T10:02:02.000Z, circuit: the breaker of its destination was open
                            attempts 2 to 11: not kept
  2026-05-04T11:00:00.000Z  attempt 12: panic: �[31mred
                            stack (trace ffffffffffffffffffffffffffffffff)
  2026-05-04T12:00:02.000Z  waited, after: the handler asked for a later time
  2026-05-04T13:00:02.000Z  waited, limit: the rate limit of its key was used up
  2026-05-04T14:00:02.000Z  waited, cap: all permits of a resource were in use
  2026-05-04T11:00:00.000Z  dead-lettered: failed
All 12 attempts ended in an error.
- If the cause is mended, for example a destination that was down: drover dead redrive 7
- If the task is of no use any more: drover dead discard 7 --why WHY
Trace: 0123456789abcdef0123456789abcdef
`
	if diff := cmp.Diff(want, deadletter.Explain(l).String()); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
}

func TestExplainEveryReason(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason task.Reason
		why    string
	}{
		{task.Failed, "attempts"},
		{task.Permanent, "no further attempt"},
		{task.CrashLoop, "no process lived"},
		{task.Undecodable, "checks"},
		{task.UnknownKind, "no handler for email.send"},
		{task.Expired, "deadline"},
		{"", "not one that this version knows"},
		{"something new", "not one that this version knows"},
	}
	for _, tt := range tests {
		s := dead("one")
		s.Reason = tt.reason
		e := deadletter.Explain(deadletter.Letter{State: s, Sequence: 7, Problem: task.ErrBadHeader})
		if !strings.Contains(e.Why, tt.why) || !strings.Contains(strings.Join(e.Next, " "), "drover dead redrive 7") ||
			!strings.Contains(e.String(), "bad header") {
			t.Errorf("Explain of %q = %v, want %q, how to redrive, and the problem", tt.reason, e, tt.why)
		}
	}
}

// How the process of an isolated task ended is followed by what to do about it.
func TestExplainIsolated(t *testing.T) {
	t.Parallel()
	for failure, want := range map[string]string{
		"oom: it reached its memory cap of 512 MiB":                                              "(worker.Memory)",
		"killed: it used up its processor time of 1s":                                            "worker.CPUTime",
		"time limit reached (3s): killed: wall clock: it went on for 1s after its context ended": "worker.Timeout",
		"died: exit status 3": "the end of its output",
		"no: room":            "",
	} {
		s := dead("one")
		s.Errors[len(s.Errors)-1].Error = failure
		next := deadletter.Explain(deadletter.Letter{State: s, Sequence: 7}).Next
		if all := strings.Join(next, "\n"); !strings.Contains(all, want) || want == "" && len(next) != 2 {
			t.Errorf("Explain of %q says what to do: %q, want %q in it", failure, all, want)
		}
	}
}
