package worker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/worker"
)

// restricted connects as a user who may publish anything but what denied matches,
// and hear inboxes that begin with inbox.
func restricted(t *testing.T, denied []string, inbox string) (js, admin jetstream.JetStream) {
	t.Helper()
	js, admin = natstest.Restricted(t, server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{">"}, Deny: denied},
		Subscribe: &server.SubjectPermission{Allow: []string{inbox}},
	})
	topology(t, admin, 2*time.Second) // so that what cannot be settled is given up soon
	return js, admin
}

// A worker that may not do what it has to is not silent: within seconds it is not
// ready, and says which subject it lacks.
func TestDenied(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		denied  string
		says    string
		handler error // of the handler of one task
	}{
		{"pull", "$JS.API.CONSUMER.MSG.NEXT.TASKS_DEFAULT.test", "$JS.API.CONSUMER.MSG.NEXT.TASKS_DEFAULT.test", nil},
		{"pull retries", "$JS.API.CONSUMER.MSG.NEXT.RETRY.>", "$JS.API.CONSUMER.MSG.NEXT.RETRY.default-test", nil},
		{"acknowledge", "$JS.ACK.>", "$JS.ACK.TASKS_DEFAULT.test.", nil},
		{"retry", "retry.>", "retry.ready.default.test.note.", retry.After(0, errors.New("later"))},
		{"bury", "dead.>", "dead.default.test.note.", retry.Permanent(errors.New("never"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js, admin := restricted(t, []string{tt.denied}, "_INBOX.>")
			w, _ := start(t, js, func(w *worker.Worker) {
				worker.Handle(w, func(context.Context, note) error { return tt.handler })
			}, worker.DrainLimit(0))
			publish(t, admin, "one", note{})
			var err error
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				if err = w.Ready(); errors.Is(err, broker.ErrDenied) {
					break
				}
			}
			if err == nil || !errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "drover keys") {
				t.Errorf("Ready = %v, want ErrDenied that names %s and says what to do", err, tt.says)
			}
			js.Conn().Close() // or it would hold on to what it cannot settle for as long as draining may take
		})
	}
}

// What it lacks at its start ends it at once, where it would else wait for an answer.
func TestDeniedAtStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, denied, inbox, says string }{
		{"consumer", "$JS.API.CONSUMER.INFO.RETRY.>", "_INBOX.>", `publish to "$JS.API.CONSUMER.INFO.RETRY.default-test"`},
		{"inbox", "nothing", "_INBOX_other.>", "may not hear answers, which come to _INBOX.>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js, _ := restricted(t, []string{tt.denied}, tt.inbox)
			w, err := worker.New(js, "test")
			if err != nil {
				t.Fatal(err)
			}
			worker.Handle(w, func(context.Context, note) error { return nil })
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = w.Run(ctx)
			if !errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Run = %v, want ErrDenied with %s", err, tt.says)
			}
		})
	}
}

// A refusal of what the handler does with the same connection is not the worker's.
func TestDeniedHandler(t *testing.T) {
	t.Parallel()
	js, admin := restricted(t, []string{"elsewhere", "$JS.API.STREAM.NAMES"}, "_INBOX.>")
	heard := make(chan string, 2)
	js.Conn().SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- broker.Denied(err).Subject })
	w, _ := start(t, js, func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, note) error {
			return errors.Join(js.Conn().Publish("elsewhere", nil), js.Conn().Publish("$JS.API.STREAM.NAMES", nil))
		})
	})
	publish(t, admin, "one", note{})
	got := []string{<-heard, <-heard}
	if slices.Sort(got); !slices.Equal(got, []string{"$JS.API.STREAM.NAMES", "elsewhere"}) {
		t.Errorf("the connection's own handler heard %q, want both refusals", got)
	}
	if err := w.Ready(); err != nil {
		t.Errorf("Ready = %v, want nil", err)
	}
}
