package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
)

// mute makes a listener for email.send that never answers, and returns how often
// it was asked.
func mute(t *testing.T, js jetstream.JetStream) func() int {
	t.Helper()
	sub, err := js.Conn().SubscribeSync("tasks.default.email.send")
	if err != nil {
		t.Fatal(err)
	}
	return func() int {
		n, _, err := sub.Pending()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// both runs f with Publish and with PublishAll.
func both(t *testing.T, f func(*testing.T, jetstream.JetStream, func(context.Context) (client.Receipt, error))) {
	t.Helper()
	bothOver(t, jetstream.DefaultAPIPrefix, f)
}

func bothOver(t *testing.T, api string, f func(*testing.T, jetstream.JetStream, func(context.Context) (client.Receipt, error))) {
	t.Helper()
	t.Run("Publish", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
			c := newClient(t, over(t, js, api))
			f(t, js, func(ctx context.Context) (client.Receipt, error) { return c.Publish(ctx, Send{}) })
		})
	})
	t.Run("PublishAll", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
			c := newClient(t, over(t, js, api))
			f(t, js, func(ctx context.Context) (client.Receipt, error) {
				out, err := client.PublishAll(ctx, c, []Send{{}})
				if (err == nil) != (out[0].Err == nil) {
					t.Errorf("PublishAll = %+v, %v, want both errors or none", out, err)
				}
				return out[0].Receipt, err
			})
		})
	})
}

// over is js with another prefix for questions to the broker.
func over(t *testing.T, js jetstream.JetStream, api string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.NewWithAPIPrefix(js.Conn(), api)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestNoAnswer(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		asked := mute(t, js)
		start := time.Now()
		rc, err := publish(t.Context())
		if !errors.Is(err, client.ErrUnknown) || rc.ID == "" {
			t.Errorf("publish = %+v, %v, want ErrUnknown and the id", rc, err)
		}
		if d := time.Since(start); d < 30*time.Second || d > 31*time.Second {
			t.Errorf("gave up after %v, want 30 s", d)
		}
		if n := asked(); n < 4 || n > 6 {
			t.Errorf("tried %d times in 30 s, want 4 to 6", n)
		}
	})
}

func TestNoAnswerUntilDeadline(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		mute(t, js)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
		defer cancel()
		_, err := publish(ctx)
		if !errors.Is(err, client.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("publish = %v, want ErrUnknown and the context's error", err)
		}
		if d := time.Since(start); d != 45*time.Second {
			t.Errorf("gave up after %v, want 45 s", d)
		}
	})
}

func TestNoAnswerUntilCancel(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		mute(t, js)
		why := errors.New("shutting down")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(500*time.Millisecond, func() { cancel(why) })
		start := time.Now()
		_, err := publish(ctx)
		if !errors.Is(err, client.ErrUnknown) || !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
			t.Errorf("publish = %v, want ErrUnknown, the context's error and its cause", err)
		}
		if d := time.Since(start); d != 500*time.Millisecond {
			t.Errorf("gave up after %v, want 500 ms", d)
		}
	})
}

// The broker forgets an id after ten minutes, so a task that it may have must not
// be sent again after that, however patient the caller is.
func TestDoubtEndsTries(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		mute(t, js)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := publish(ctx); !errors.Is(err, client.ErrUnknown) || ctx.Err() != nil {
			t.Errorf("publish = %v, want ErrUnknown before the context ends", err)
		}
		if d := time.Since(start); d < 5*time.Minute || d > 6*time.Minute {
			t.Errorf("gave up after %v, want 5 minutes", d)
		}
	})
}

func TestAnswerToLaterTry(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		n := 0
		if _, err := js.Conn().Subscribe("tasks.default.email.send", func(m *nats.Msg) {
			switch n++; n {
			case 1: // lost
			case 2:
				_ = m.Respond([]byte(`{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}`))
			case 3:
				_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`))
			case 4:
				_ = m.Respond([]byte("what?"))
			default:
				_ = m.Respond([]byte(`{"stream":"TASKS_DEFAULT","seq":7,"duplicate":true,"domain":"hub"}`))
			}
		}); err != nil {
			t.Fatal(err)
		}
		rc, err := publish(t.Context())
		if want := (client.Receipt{ID: rc.ID, Stream: "TASKS_DEFAULT", Sequence: 7}); err != nil || rc != want {
			t.Errorf("publish = %+v, %v, want %+v: a duplicate of its own first try is none", rc, err, want)
		}
		if n != 5 {
			t.Errorf("%d tries, want 5", n)
		}
	})
}

// Refused on the second try, after a first one whose answer was lost: the first
// may have been stored.
func TestRefusedAfterDoubt(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		n := 0
		if _, err := js.Conn().Subscribe("tasks.default.email.send", func(m *nats.Msg) {
			if n++; n > 1 {
				_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`))
			}
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := publish(t.Context()); !errors.Is(err, client.ErrFull) || !errors.Is(err, client.ErrUnknown) {
			t.Errorf("publish = %v, want ErrFull and ErrUnknown", err)
		}
	})
}

func TestElection(t *testing.T) {
	bothOver(t, "fake", func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		// A stream that is known, while nobody listens on its subject.
		sub, err := js.Conn().Subscribe("fake.STREAM.NAMES", func(m *nats.Msg) {
			_ = m.Respond([]byte(`{"type":"io.nats.jetstream.api.v1.stream_names_response","total":1,"streams":["TASKS_DEFAULT"]}`))
		})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Second, func() {
			_ = sub.Unsubscribe()
			fleet(t, js)
		})
		start := time.Now()
		rc, err := publish(t.Context())
		if err != nil || rc.Stream != "TASKS_DEFAULT" {
			t.Errorf("publish = %+v, %v, want it stored after the election", rc, err)
		}
		if d := time.Since(start); d < 20*time.Second || d > 21*time.Second {
			t.Errorf("stored after %v, want 20 to 21 s", d)
		}
	})
}

// On a node that is cut off from the others nobody listens on the subject and
// nobody can say which streams there are: that is no reason to say that there is
// none.
func TestLeaderless(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer []byte // to who asks for streams; nil for none
	}{
		{"refused", []byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`)},
		{"unanswered", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothOver(t, "fake", func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
				if _, err := js.Conn().Subscribe("fake.STREAM.NAMES", func(m *nats.Msg) {
					if tt.answer != nil {
						_ = m.Respond(tt.answer)
					}
				}); err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(20*time.Second, func() { fleet(t, js) })
				start := time.Now()
				rc, err := publish(t.Context())
				if err != nil || rc.Stream != "TASKS_DEFAULT" {
					t.Errorf("publish = %+v, %v, want it stored once there is a leader", rc, err)
				}
				if d := time.Since(start); d < 20*time.Second || d > 23*time.Second {
					t.Errorf("stored after %v, want soon after 20 s", d)
				}
			})
		})
	}
}

// A node that is cut off from the others for longer than an election takes is left
// for another one; a stream that is missing is no reason.
func TestNodeWithoutLeaderIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		want         []string // that are dialed
	}{
		{"no leader", `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`, []string{natstest.Node1, natstest.Node2}},
		{"no stream", `{"type":"io.nats.jetstream.api.v1.stream_names_response","total":0,"streams":null}`, []string{natstest.Node1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				two, dialed := natstest.TwoNodes(t, js)
				if _, err := js.Conn().Subscribe("fake.STREAM.NAMES", func(m *nats.Msg) { _ = m.Respond([]byte(tt.answer)) }); err != nil {
					t.Fatal(err)
				}
				if _, err := newClient(t, over(t, two, "fake")).Publish(t.Context(), Send{}); err == nil {
					t.Error("Publish = nil without a stream")
				}
				if diff := cmp.Diff(tt.want, dialed()); diff != "" {
					t.Errorf("dialed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A producer that may not ask for streams waits longer than an election takes.
func TestNoStreamWithoutAsking(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		c := newClient(t, over(t, js, "nowhere"))
		for range 2 {
			start := time.Now()
			_, err := c.Publish(t.Context(), Send{})
			if d := time.Since(start); !errors.Is(err, client.ErrNoStream) || d < 10*time.Second || d > 12*time.Second {
				t.Errorf("Publish = %v after %v, want ErrNoStream after 10 s", err, d)
			}
			start = time.Now()
			_, err = client.PublishAll(t.Context(), c, make([]Send, 2000))
			if d := time.Since(start); !errors.Is(err, client.ErrNoStream) || d < 10*time.Second || d > 14*time.Second {
				t.Errorf("PublishAll = %v after %v, want ErrNoStream after 10 s", err, d)
			}
		}
	})
}

// While nothing is answered the whole of a PublishAll has one patience, not each
// window of it.
func TestPublishAllStalls(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		mute(t, js)
		start := time.Now()
		out, err := client.PublishAll(t.Context(), newClient(t, js), make([]Send, 5000))
		if d := time.Since(start); !errors.Is(err, client.ErrUnknown) || d > 31*time.Second {
			t.Errorf("PublishAll = %v after %v, want ErrUnknown after 30 s", err, d)
		}
		if last := out[len(out)-1]; last.Err == nil || errors.Is(last.Err, client.ErrUnknown) {
			t.Errorf("the last task = %v, want an error that it was not sent", last.Err)
		}
	})
}

// PublishAll takes as long as it needs while answers come.
func TestPublishAllIsPatientWithSlowBroker(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		if _, err := js.Conn().Subscribe("tasks.default.email.send", func(m *nats.Msg) {
			select {
			case <-t.Context().Done():
			case <-time.After(50 * time.Millisecond):
			}
			_ = m.Respond([]byte(`{"stream":"TASKS_DEFAULT","seq":1}`))
		}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := client.PublishAll(t.Context(), newClient(t, js), make([]Send, 3000)); err != nil {
			t.Errorf("PublishAll = %v after %v", err, time.Since(start))
		}
		if d := time.Since(start); d < 2*time.Minute {
			t.Errorf("PublishAll took %v, want more than the patience for this test to mean anything", d)
		}
	})
}

// A connection that is made to reconnect, as one is to leave a node that serves
// nothing, is not closed: its publishes go on.
func TestForcedReconnect(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		mute(t, js)
		time.AfterFunc(time.Second, func() {
			if err := js.Conn().ForceReconnect(); err != nil {
				t.Error(err)
			}
		})
		time.AfterFunc(3*time.Second, func() { fleet(t, js) })
		rc, err := publish(t.Context())
		if err != nil || rc.Stream != "TASKS_DEFAULT" {
			t.Errorf("publish = %+v, %v, want it stored over the new connection", rc, err)
		}
	})
}

func TestClosedConnection(t *testing.T) {
	both(t, func(t *testing.T, js jetstream.JetStream, publish func(context.Context) (client.Receipt, error)) {
		mute(t, js)
		time.AfterFunc(time.Second, js.Conn().Close)
		if _, err := publish(t.Context()); !errors.Is(err, nats.ErrConnectionClosed) || !errors.Is(err, client.ErrUnknown) {
			t.Errorf("publish on a connection that closes = %v, want that and ErrUnknown", err)
		}
		if _, err := publish(t.Context()); !errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, client.ErrUnknown) {
			t.Errorf("publish on a closed connection = %v, want that, and nothing unknown", err)
		}
	})
}
