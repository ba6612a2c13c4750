package client_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
)

// allowed connects as a user with only these permissions to a server that has a
// fleet's streams.
func allowed(t *testing.T, publish, subscribe []string, opts ...nats.Option) (restricted, admin jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: t.Name(), DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "producer", Password: "producer", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: publish},
				Subscribe: &server.SubjectPermission{Allow: subscribe},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	connect := func(user string, opts ...nats.Option) jetstream.JetStream {
		nc, err := nats.Connect("", append(opts, nats.InProcessServer(s), nats.UserInfo(user, user))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	admin = connect("admin")
	fleet(t, admin)
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	return connect("producer", append(opts, quiet)...), admin
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
