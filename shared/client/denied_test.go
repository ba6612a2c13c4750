package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
)

// allowed connects as a user with only these permissions to a server that has a
// fleet's streams.
func allowed(t *testing.T, publish, subscribe []string, opts ...nats.Option) (restricted, admin jetstream.JetStream) {
	t.Helper()
	restricted, admin = natstest.Restricted(t, server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: subscribe},
	}, opts...)
	fleet(t, admin)
	return restricted, admin
}

func TestProducerNeedsOnlyItsSubjectsAndInbox(t *testing.T) {
	t.Parallel()
	js, admin := allowed(t, []string{"tasks.default.email.>"}, []string{"_INBOX_producer.>"}, nats.CustomInboxPrefix("_INBOX_producer"))
	c := newClient(t, js)
	if _, err := c.Publish(t.Context(), Send{}); err != nil {
		t.Errorf("Publish = %v", err)
	}
	if _, err := client.PublishAll(t.Context(), c, make([]Send, 10)); err != nil {
		t.Errorf("PublishAll = %v", err)
	}
	if n := stored(t, admin, "TASKS_DEFAULT"); n != 11 {
		t.Errorf("%d tasks stored, want 11", n)
	}
}

func TestDeniedPublish(t *testing.T) {
	t.Parallel()
	js, _ := allowed(t, []string{"tasks.default.email.send"}, []string{"_INBOX.>"})
	c := newClient(t, js)
	start := time.Now()
	_, err := c.Publish(t.Context(), Reset{})
	if !errors.Is(err, client.ErrDenied) || errors.Is(err, client.ErrUnknown) || !strings.Contains(err.Error(), "tasks.urgent.email.reset") {
		t.Errorf("Publish = %v, want ErrDenied that names the subject", err)
	}
	if _, err = c.Publish(t.Context(), Send{}); err != nil {
		t.Errorf("Publish elsewhere after that = %v", err)
	}
	out, err := client.PublishAll(t.Context(), c, make([]Reset, 3000))
	if !errors.Is(err, client.ErrDenied) || errors.Is(err, client.ErrUnknown) || !errors.Is(out[2999].Err, client.ErrDenied) {
		t.Errorf("PublishAll = %v, want ErrDenied for all", err)
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("it took %v to find out", d)
	}
}

// A producer that may not ask for streams is refused by the lookup, not by waiting
// for its answer, and its error leaves open what it cannot know. It comes in place
// of the context's, when that ends first.
func TestNoStreamForProducer(t *testing.T) {
	t.Parallel()
	js, _ := allowed(t, []string{"tasks.>"}, []string{"_INBOX.>"})
	c := newClient(t, js)
	for _, tt := range []struct {
		name  string
		limit time.Duration
	}{
		{"first", 900 * time.Millisecond}, // less than a lookup without an answer takes
		{"again", 300 * time.Millisecond},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
		_, err := c.Publish(ctx, Send{}, client.Class("nowhere"))
		if !errors.Is(err, client.ErrNoStream) || errors.Is(err, client.ErrUnknown) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: Publish = %v, want ErrNoStream alone", tt.name, err)
		}
		for _, want := range []string{"tasks.nowhere.email.send", "drover streams apply", "no leader", "may not ask"} {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Publish = %v, want an error with %q", tt.name, err, want)
			}
		}
		if ctx.Err() != nil {
			t.Errorf("%s: Publish took all of %v", tt.name, tt.limit)
		}
		cancel()
	}
	if _, err := c.Publish(t.Context(), Send{}); err != nil {
		t.Errorf("Publish elsewhere after that = %v", err)
	}
}

func TestDeniedInbox(t *testing.T) {
	t.Parallel()
	js, _ := allowed(t, []string{"tasks.>"}, []string{"_INBOX_other.>"})
	_, err := newClient(t, js).Publish(t.Context(), Send{})
	if !errors.Is(err, client.ErrDenied) || !errors.Is(err, client.ErrUnknown) || !strings.Contains(err.Error(), "inbox") {
		t.Errorf("Publish = %v, want ErrDenied and ErrUnknown about the inbox", err)
	}
	_, err = client.PublishAll(t.Context(), newClient(t, js), []Send{{}})
	if !errors.Is(err, client.ErrDenied) || !errors.Is(err, client.ErrUnknown) || !strings.Contains(err.Error(), "inbox") {
		t.Errorf("PublishAll = %v, want ErrDenied and ErrUnknown about the inbox", err)
	}
}
