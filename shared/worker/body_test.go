package worker_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// A body in BODIES is there for every attempt, and as long as the dead letter; it
// goes, without a trace, once the task is done.
func TestBodyOutOfMessage(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail error // of the second attempt; the first always fails
		dead int
	}{
		{name: "done", dead: 0},
		{name: "dead", fail: retry.Permanent(errors.New("no such account")), dead: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				text := strings.Repeat("a large body ", 100_000)
				o := checkIn(t, js, note{Text: text})
				runs := 0
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(_ context.Context, n note) error {
						if runs++; n.Text != text {
							t.Errorf("run %d has a text of %d bytes, want the %d that were published", runs, len(n.Text), len(text))
						}
						if runs == 1 {
							return errors.New("not yet")
						}
						return tt.fail
					})
				})
				publishRef(t, js, o.Name)
				time.Sleep(time.Hour)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				if runs != 2 || len(letters(t, js)) != tt.dead {
					t.Errorf("%d runs and %d dead letters, want 2 and %d", runs, len(letters(t, js)), tt.dead)
				}
				empty(t, js, "TASKS_DEFAULT", "RETRY")
				if tt.dead == 0 {
					empty(t, js, "OBJ_BODIES")
				} else if _, err := bodies.Get(t.Context(), js, o.Name); err != nil {
					t.Errorf("the dead letter's body = %v, want it kept", err)
				}
			})
		})
	}
}

// A body stays when the broker has not heard that its task is done: the task comes
// back, and would be dead-lettered without it.
func TestBodyOutlivesLostAcknowledgement(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		o := checkIn(t, js, note{Text: "large"})
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				return js.DeleteConsumer(ctx, "TASKS_DEFAULT", "test") // nobody hears the acknowledgement
			})
		})
		publishRef(t, js, o.Name)
		time.Sleep(time.Hour)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := bodies.Get(t.Context(), js, o.Name); err != nil {
			t.Errorf("the body of a task that is not acknowledged = %v, want it kept", err)
		}
	})
}

// A claim check that leads to no body is dead-lettered, when it is handed out once more
// at the latest, and the worker goes on.
func TestBadClaimCheck(t *testing.T) {
	for _, tt := range []struct{ name, ref string }{
		{"nowhere", "nowhere"},
		{"long", strings.Repeat("x", 5<<10)}, // to ask for it would end the connection
		{"too large", "large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				info, err := json.Marshal(jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Name: "large"}, NUID: "x", Size: task.MaxBody + 1})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := js.Publish(t.Context(), "$O.BODIES.M."+base64.URLEncoding.EncodeToString([]byte("large")), info); err != nil {
					t.Fatal(err)
				}
				runs := 0
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error { runs++; return nil })
				})
				publishRef(t, js, tt.ref)
				publish(t, js, "sound", note{})
				time.Sleep(ackWait + time.Second)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				dead := letters(t, js)
				if len(dead) != 1 || runs != 1 {
					t.Fatalf("%d dead letters and %d runs, want 1 and that of the sound task", len(dead), runs)
				}
				if st := state(t, "DEAD", dead[0]); st.Reason != task.Undecodable || st.Attempt != 0 || st.Ref != tt.ref {
					t.Errorf("the dead letter says %s after %d attempts of %.20q, want undecodable after none", st.Reason, st.Attempt, st.Ref)
				}
				empty(t, js, "TASKS_DEFAULT", "RETRY")
			})
		})
	}
}

// Task-Ref is a publisher's word: it must not have the body of another kind's task
// removed.
func TestForgedClaimCheck(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		body, err := task.Marshal(note{Text: "another's"})
		if err != nil {
			t.Fatal(err)
		}
		o, err := bodies.Put(t.Context(), js, func(ctx context.Context, m *nats.Msg) error {
			_, err := js.PublishMsg(ctx, m)
			return err
		}, "other.kind", body)
		if err != nil {
			t.Fatal(err)
		}
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { return nil })
		})
		publishRef(t, js, o.Name)
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
		if _, err := bodies.Get(t.Context(), js, o.Name); err != nil {
			t.Errorf("the other task's body = %v, want it kept", err)
		}
	})
}

// checkIn puts the body of args into BODIES.
func checkIn(tb testing.TB, js jetstream.JetStream, args note) *bodies.Object {
	tb.Helper()
	body, err := task.Marshal(args)
	if err != nil {
		tb.Fatal(err)
	}
	o, err := bodies.Put(tb.Context(), js, func(ctx context.Context, m *nats.Msg) error {
		_, err := js.PublishMsg(ctx, m)
		return err
	}, "test.note", body)
	if err != nil {
		tb.Fatal(err)
	}
	return o
}

func publishRef(tb testing.TB, js jetstream.JetStream, ref string) {
	tb.Helper()
	msg := &nats.Msg{Subject: "tasks.default.test.note", Header: nats.Header{task.HeaderRef: {ref}}}
	if _, err := js.PublishMsg(tb.Context(), msg); err != nil {
		tb.Fatal(err)
	}
}
