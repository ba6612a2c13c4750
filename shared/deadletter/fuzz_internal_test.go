package deadletter

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

// FuzzLetter reads letters that anyone may have written. Nothing about them may
// panic, and what is redriven goes to a task's subject only.
func FuzzLetter(f *testing.F) {
	f.Add("dead.default.email.send.x", "tasks.default.email.send", "1", `[{"attempt":1,"error":"x"}]`, "2026-05-04T10:00:00Z", []byte{0x80})
	f.Add("dead", "tasks.*.>", "-1", "[", "now", []byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Add("dead.a.b.c.d", "", "99999999999999999999", "null", "", []byte(nil))
	f.Fuzz(func(t *testing.T, where, subject, number, failures, at string, body []byte) {
		l := newLetter(stored.Message{Stream: task.DeadStream, Sequence: 1, Time: time.Unix(1, 0), Subject: where, Data: body, Header: nats.Header{
			task.HeaderSubject: {subject}, task.HeaderGeneration: {number}, task.HeaderAttempt: {number}, task.HeaderDeaths: {number},
			task.HeaderErrors: {failures}, task.HeaderDiedAt: {at}, task.HeaderDeadline: {at}, "traceparent": {subject}, task.HeaderPrev: {at},
		}})
		if l.ID == "" {
			t.Error("no id")
		}
		_ = Explain(l).String()
		if _, err := l.Arguments(t.Context(), nil); err == nil && l.Encoding == "" && task.Check(body, task.Limits{}) != nil {
			t.Error("arguments of a body that does not pass the guard")
		}
		m := redriven(t.Context(), &l)
		if _, err := task.ParseSubject(subject); err == nil && m.Subject != subject {
			t.Errorf("redriven to %q, want %q", m.Subject, subject)
		}
	})
}
