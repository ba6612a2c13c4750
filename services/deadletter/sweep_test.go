package deadletter_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/deadletter"
	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// unadvised takes ADVISORIES' ears away, so that what the broker says is lost.
func unadvised(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	setStream(tb, js, task.AdvisoryStream, func(c *jetstream.StreamConfig) { c.Subjects = []string{"nobody.says.this"} })
}

// A task whose advisory was lost is found and buried; one that a worker holds is
// left alone, and so is one that waits.
func TestStrays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, stream, consumer, subject string }{
		{"live", live, "email", subject},
		{"retry", task.RetryStream, "default-email", "retry.ready.default.email.send.a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			topology(t, js)
			unadvised(t, js)
			body := bytes.Repeat([]byte{0x80}, 1000)
			header := nats.Header{"Task-Id": {"a"}, "Task-Subject": {subject}}
			publish(t, js, &nats.Msg{Subject: tt.subject, Data: body, Header: header})
			giveUp(t, js, tt.stream, tt.consumer, 1)
			if n := messages(t, js, task.AdvisoryStream); n != 0 {
				t.Fatalf("ADVISORIES holds %d messages, want the advisory lost", n)
			}
			r := start(t, js, quick())
			if got := letters(t, js, 1)[0]; !bytes.Equal(got.Data, body) || got.Header.Get("Task-Id") != "a" || got.Header.Get("Task-Reason") != "crash-loop" {
				t.Errorf("the letter is %d bytes with %v, want the task", len(got.Data), got.Header)
			}
			r.log.wait(saying("tasks that the broker gave up on without a word are in DEAD now, unless they went on elsewhere"))
			if n := messages(t, js, tt.stream); n != 0 {
				t.Errorf("%s holds %d messages, want none", tt.stream, n)
			}
		})
	}
}

// Sweeps do not take what a worker holds, however long, nor what waits.
func TestNoStrays(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	unadvised(t, js)
	setConsumer(t, js, live, "email", func(c *jetstream.ConsumerConfig) { c.AckWait = time.Minute })
	for _, id := range []string{"done", "held", "waiting"} {
		publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}, Header: nats.Header{"Nats-Msg-Id": {id}}})
	}
	c, err := js.Consumer(t.Context(), live, "email")
	if err != nil {
		t.Fatal(err)
	}
	for _, done := range []bool{true, false} {
		msg, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		if done {
			if err := msg.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	cfg := quick()
	cfg.Overdue = 100 * time.Millisecond
	r := start(t, js, cfg)
	// Some thirty sweeps go by before this timer is overdue, and one more sets it again.
	stuckTimer(t, js, "marker", patience)
	r.log.wait(saying("timers that the broker did not fire are set again: see whether its storage was full"))
	r.stop()
	if dead, left := messages(t, js, task.DeadStream), messages(t, js, live); dead != 0 || left != 2 {
		t.Errorf("DEAD holds %d letters and %s %d tasks, want 0 and 2", dead, live, left)
	}
}

// stuckTimer leaves a timer in RETRY that the broker should have fired and has
// forgotten: there was no room when it was due.
func stuckTimer(tb testing.TB, js jetstream.JetStream, id string, limit time.Duration) {
	tb.Helper()
	st := task.State{Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"}, ID: id, Hop: 1}
	h := st.Header(nil)
	h.Set("Nats-Msg-Id", st.MoveID()+time.Now().String())
	h.Set(task.HeaderSchedule, "@at "+time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano))
	h.Set(task.HeaderScheduleTarget, st.Subject.RetryReady(id))
	publish(tb, js, &nats.Msg{Subject: st.Subject.RetryWait(id), Header: h, Data: []byte("body of " + id)})
	setStream(tb, js, task.RetryStream, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 10 })
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	select { // it is fired 1 s after it was stored, at most 250 ms late, and refused
	case <-time.After(1500 * time.Millisecond):
	case <-ctx.Done():
	}
	setStream(tb, js, task.RetryStream, func(c *jetstream.StreamConfig) { c.MaxMsgSize = -1 })
}

// A timer that the broker has forgotten fires after all, once, with all that it
// carries; one that is due later is left alone.
func TestStuckTimer(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	stuckTimer(t, js, "a", patience)
	if n := messages(t, js, task.RetryStream); n != 1 {
		t.Fatalf("RETRY holds %d messages, want the timer alone", n)
	}
	c, err := js.Consumer(t.Context(), task.RetryStream, "default-email")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := c.Next(jetstream.FetchMaxWait(time.Second)); !errors.Is(err, nats.ErrTimeout) {
		t.Fatalf("the timer fired by itself: %v, %v; the broker is mended, and this sweep is not needed any more", msg, err)
	}
	cfg := quick()
	cfg.Overdue = 100 * time.Millisecond
	for range 2 { // two leaders at once would be no worse
		start(t, js, cfg)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatalf("the timer does not fire: %v", err)
	}
	if h := msg.Headers(); string(msg.Data()) != "body of a" || h.Get("Task-Id") != "a" || h.Get("Task-Hop") != "1" || h.Get("Task-Subject") != subject {
		t.Errorf("it carries %q with %v, want what was stored", msg.Data(), h)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := messages(t, js, task.RetryStream); n != 0 {
		t.Errorf("RETRY holds %d messages, want none: the task is forked", n)
	}
}

// Bodies that nothing refers to are named, and removed only when that is asked for.
func TestOrphans(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		remove time.Duration
		want   error // of getting the orphan afterwards
	}{
		{"named", 0, nil},
		{"removed", time.Millisecond, bodies.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			topology(t, js)
			put := func(owner string) string {
				o, err := bodies.Put(t.Context(), js, func(ctx context.Context, m *nats.Msg) error { _, err := js.PublishMsg(ctx, m); return err }, owner, []byte(owner))
				if err != nil {
					t.Fatal(err)
				}
				return o.Name
			}
			orphan := put("orphan")
			var used []string
			st := task.State{Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"}, ID: "a", Hop: 1}
			for _, where := range []string{subject, st.Subject.RetryReady("a"), st.Subject.Dead("a")} {
				st.Ref = put(where)
				used = append(used, st.Ref)
				publish(t, js, &nats.Msg{Subject: where, Header: st.Header(nats.Header{"Task-Ref": {st.Ref}})})
			}
			cfg := quick()
			cfg.OrphanAge, cfg.OrphanSweep, cfg.OrphanRemove = time.Millisecond, time.Millisecond, tt.remove
			r := start(t, js, cfg)
			if tt.remove == 0 {
				line := r.log.wait(func(line map[string]any) bool { return line["bodies"] != nil })
				if names, _ := line["names"].([]any); len(names) != 1 || names[0] != orphan {
					t.Errorf("the log names %v, want %s", line["names"], orphan)
				}
			} else {
				r.log.wait(saying("bodies that no task referred to are removed"))
			}
			r.stop()
			if _, err := bodies.Get(t.Context(), js, orphan); !errors.Is(err, tt.want) {
				t.Errorf("Get(orphan) = %v, want %v", err, tt.want)
			}
			for _, name := range used {
				if _, err := bodies.Get(t.Context(), js, name); err != nil {
					t.Errorf("Get(%s) = %v, want the body of a task", name, err)
				}
			}
		})
	}
}

// A sweep that cannot be made is said, and does not end the others.
func TestSweepFails(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	if err := js.DeleteConsumer(t.Context(), live, "email"); err != nil {
		t.Fatal(err)
	}
	r := start(t, js, quick())
	r.log.wait(saying("a sweep failed; it is tried again"))
	if err := r.ready(); err == nil || !strings.Contains(err.Error(), "sweep for strays: read consumer TASKS_DEFAULT/email") {
		t.Errorf("Ready = %v, want the sweep that fails", err)
	}
	if _, err := js.CreateConsumer(t.Context(), live, fleet().Topology().Consumers[0].Config); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(patience)
	for r.ready() != nil && time.Now().Before(limit) {
		time.Sleep(10 * time.Millisecond) // nothing tells of a sweep that went well
	}
	if err := r.ready(); err != nil {
		t.Errorf("Ready = %v after the consumer is back, want nil", err)
	}
}

// A timer that fired, or was replaced, after it was read is not brought back.
func TestRearmComparesAndSets(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	st := task.State{Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"}, ID: "a", Hop: 1}
	timer := func(in time.Duration) *nats.Msg {
		h := st.Header(nil)
		h.Set(task.HeaderSchedule, "@at "+time.Now().Add(in).UTC().Format(time.RFC3339Nano))
		h.Set(task.HeaderScheduleTarget, st.Subject.RetryReady("a"))
		return &nats.Msg{Subject: st.Subject.RetryWait("a"), Header: h}
	}
	old := timer(time.Hour)
	ack, err := js.PublishMsg(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := deadletter.Rearm(t.Context(), js, old, ack.Sequence); !ok || err != nil {
		t.Errorf("Rearm = %v, %v, want true", ok, err)
	}
	if ok, err := deadletter.Rearm(t.Context(), js, old, ack.Sequence); ok || err != nil {
		t.Errorf("Rearm of one that was replaced = %v, %v, want false", ok, err)
	}
	publish(t, js, timer(0))
	c, err := js.Consumer(t.Context(), task.RetryStream, "default-email")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, err := deadletter.Rearm(t.Context(), js, old, ack.Sequence+1); ok || err != nil {
		t.Errorf("Rearm of one that fired = %v, %v, want false", ok, err)
	}
	if n := messages(t, js, task.RetryStream); n != 0 {
		t.Errorf("RETRY holds %d messages, want none", n)
	}
}
