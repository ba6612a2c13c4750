package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/worker"
)

// stand-in for the leader of a consumer, which delivers one task and is then as
// absent as a test wants: a real one cannot be made to lose a single question.
type stand struct {
	js  jetstream.JetStream // whose questions it answers
	got func(m *nats.Msg)   // takes what is said of the delivery
}

const standAck = "stand.ACK.TASKS_DEFAULT.test.1.1.1"

// newStand takes the place of TASKS_DEFAULT's consumer; RETRY and DEAD are real.
func newStand(t *testing.T, whole jetstream.JetStream, got func(*nats.Msg)) *stand {
	t.Helper()
	topology(t, whole, fleetAckWait)
	js, err := jetstream.NewWithAPIPrefix(whole.Conn(), "stand")
	if err != nil {
		t.Fatal(err)
	}
	delivered := false
	for subject, answer := range map[string]nats.MsgHandler{
		"stand.CONSUMER.INFO.TASKS_DEFAULT.test": func(m *nats.Msg) {
			_ = m.Respond(fmt.Appendf(nil, `{"type":"io.nats.jetstream.api.v1.consumer_info_response","stream_name":"TASKS_DEFAULT","name":"test",`+
				`"config":{"durable_name":"test","ack_policy":"explicit","ack_wait":%d}}`, fleetAckWait))
		},
		"stand.CONSUMER.MSG.NEXT.TASKS_DEFAULT.test": func(m *nats.Msg) {
			if !delivered {
				delivered = true
				_ = whole.Conn().PublishMsg(&nats.Msg{
					Subject: m.Reply, Reply: fmt.Sprintf("%s.%d.0", standAck, time.Now().UnixNano()),
					Header: nats.Header{"Nats-Msg-Id": {"a"}, "Task-Subject": {"tasks.default.test.note"}}, Data: []byte{0x80},
				})
			}
			time.AfterFunc(2*time.Second, func() { // the end of the pull; an error means the end of the test
				_ = whole.Conn().PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Status": {"408"}}})
			})
		},
	} {
		if _, err := whole.Conn().Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	s := &stand{js: js, got: got}
	if got != nil {
		s.listen(t)
	}
	return s
}

// listen makes it hear what is said of the delivery; before, nobody does.
func (s *stand) listen(t *testing.T) {
	t.Helper()
	if _, err := s.js.Conn().Subscribe(standAck+".>", s.got); err != nil {
		t.Fatal(err)
	}
}

// The leader is paused for ten seconds: questions to it are neither answered nor
// refused. The task's lease is good for 18 s, so it is extended by whoever leads
// then, and the handler is left alone.
func TestLeaseIsAskedForAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		begin := time.Now()
		var asked, acked atomic.Int64
		s := newStand(t, js, func(m *nats.Msg) {
			switch now := time.Since(begin); {
			case string(m.Data) == "":
				acked.Add(1)
			case now < 6*time.Second || now > 16*time.Second:
				asked.Add(1)
				_ = m.Respond(nil)
			}
		})
		_, stop := start(t, s.js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ note) error {
				select {
				case <-time.After(40 * time.Second):
					return nil
				case <-ctx.Done():
					t.Errorf("cancelled after %v: %v", time.Since(begin), context.Cause(ctx))
					return ctx.Err()
				}
			})
		}, worker.Serve(worker.Class{Name: "default"}), worker.Only(worker.LivePool))
		time.Sleep(45 * time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if n := acked.Load(); n != 1 {
			t.Errorf("the task was acknowledged %d times, want once", n)
		}
		if n := asked.Load(); n > 8 {
			t.Errorf("a lease was extended %d times in 34 s, want every 6.7 s", n)
		}
	})
}

// A task is moved while the leader of its stream is being elected: the original
// is acknowledged as soon as there is one, because its second life would fork the
// task.
func TestMovedTaskIsAcknowledgedAfterElection(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		var acks, last atomic.Int64 // and when the last one came, ns after begin
		s := newStand(t, js, nil)
		begin := time.Now()
		s.got = func(m *nats.Msg) {
			if len(m.Data) == 0 {
				acks.Add(1)
				last.Store(int64(time.Since(begin)))
			}
			_ = m.Respond(nil)
		}
		time.AfterFunc(8*time.Second, func() { s.listen(t) })
		w, stop := start(t, s.js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { return retry.Permanent(errors.New("no such account")) })
		}, worker.Serve(worker.Class{Name: "default"}), worker.Only(worker.LivePool))
		time.Sleep(7 * time.Second)
		if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "acknowledge a moved task") {
			t.Errorf("Ready = %v while the move cannot be acknowledged, want that", err)
		}
		time.Sleep(8 * time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if n := len(letters(t, js)); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
		if n, at := acks.Load(), time.Duration(last.Load()); n != 1 || at > 14*time.Second {
			t.Errorf("acknowledged %d times, at last after %v, want once, soon after 8s", n, at)
		}
	})
}

// A question that the broker never answers, because it died of it, does not use
// up all the time that a worker has to find its consumers.
func TestBindAsksAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, fleetAckWait)
		over, err := jetstream.NewWithAPIPrefix(js.Conn(), "late")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if _, err := js.Conn().Subscribe("late.>", func(m *nats.Msg) {
			if n++; n > 1 {
				_ = js.Conn().PublishRequest("$JS.API."+strings.TrimPrefix(m.Subject, "late."), m.Reply, m.Data)
			}
		}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		w, _ := start(t, over, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { return nil })
		})
		until(t, 20*time.Second, "the worker is ready", func() bool { return w.Ready() == nil })
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("the worker was ready after %v, want 5 s", took)
		}
	})
}

// A node that serves none of a worker's lanes is left for another one after 15 s,
// and a node that serves one of them is not.
func TestNodeThatServesNothingIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		gone []string // consumers of TASKS_DEFAULT and of RETRY
		want []string // that are dialed within 40 s
	}{
		{"serves all", nil, []string{natstest.Node1}},
		{"serves one", []string{"TASKS_DEFAULT test"}, []string{natstest.Node1}},
		{"serves none", []string{"TASKS_DEFAULT test", "RETRY default-test"}, []string{natstest.Node1, natstest.Node2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, whole jetstream.JetStream) {
				topology(t, whole, fleetAckWait)
				js, dialed := natstest.TwoNodes(t, whole)
				start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error { return nil })
				})
				time.Sleep(5 * time.Second)
				for _, name := range tt.gone {
					stream, consumer, _ := strings.Cut(name, " ")
					if err := whole.DeleteConsumer(t.Context(), stream, consumer); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(40 * time.Second)
				if diff := cmp.Diff(tt.want, dialed()); diff != "" {
					t.Errorf("dialed (-want +got):\n%s", diff)
				}
			})
		})
	}
}
