package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
)

// restricted is a server whose one user may publish to these subjects, and hear
// its own inbox.
func restricted(t *testing.T, publish ...string) *server.Server {
	t.Helper()
	return natstest.Serve(t, &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "shop", Password: "shop", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_shop.>"}},
		}}},
	})
}

func TestDenied(t *testing.T) {
	t.Parallel()
	violation := func(text string) error {
		return fmt.Errorf("%w: Permissions Violation for %s", nats.ErrPermissionViolation, text)
	}
	for _, tt := range []struct {
		name          string
		err           error
		verb, subject string // "" for nil
	}{
		{"publish", violation(`Publish to "tasks.urgent.email.send"`), "publish", "tasks.urgent.email.send"},
		{"reply", violation(`Publish with Reply of "$JS.ACK.x"`), "publish with a reply", "$JS.ACK.x"},
		{"subscription", violation(`Subscription to "_INBOX.>"`), "subscribe", "_INBOX.>"},
		{"queue subscription", violation(`Subscription to "a.b" using queue "q"`), "subscribe", "a.b"},
		{"of another form", violation(`something else`), "", ""},
		{"another error", nats.ErrSlowConsumer, "", ""},
		{"none", nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := broker.Denied(tt.err)
			if tt.verb == "" {
				if d != nil {
					t.Errorf("Denied(%v) = %v, want nil", tt.err, d)
				}
				return
			}
			if d == nil || d.Verb != tt.verb || d.Subject != tt.subject {
				t.Errorf("Denied(%v) = %+v, want %s %s", tt.err, d, tt.verb, tt.subject)
			}
		})
	}
}

// A user who may not ask whether JetStream is on connects without a wait for the
// answer that does not come, and without a word of it in the log.
func TestConnectWithoutAccountInfo(t *testing.T) {
	t.Parallel()
	s := restricted(t, "tasks.>")
	var log bytes.Buffer // read once the connection is closed
	start := time.Now()
	js, err := broker.Connect(t.Context(), broker.Options{
		URL: s.ClientURL(), Name: "shop", Logger: slog.New(slog.NewTextHandler(&log, nil)), Extra: []nats.Option{nats.UserInfo("shop", "shop")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("Connect took %v, as long as a question without an answer", took)
	}
	closed := js.Conn().StatusChanged(nats.CLOSED)
	js.Conn().Close()
	<-closed
	if log.Len() > 0 {
		t.Errorf("the log says %s, want nothing", &log)
	}
}

// A connection that may not hear its own inbox is refused at once, whether or not it
// may ask for JetStream, and whether or not it does.
func TestConnectWithoutInbox(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		publish     []string
		publishOnly bool
	}{
		{"operator", []string{">"}, false},
		{"producer", []string{"tasks.>"}, false},
		{"producer that only publishes", []string{"tasks.>"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := restricted(t, tt.publish...)
			start := time.Now()
			_, err := broker.Connect(t.Context(), broker.Options{
				URL: s.ClientURL(), Name: "other", PublishOnly: tt.publishOnly, Logger: quiet,
				Extra: []nats.Option{nats.UserInfo("shop", "shop")},
			})
			if d, ok := errors.AsType[*broker.DeniedError](err); !ok || !d.Inbox() || !strings.Contains(err.Error(), "_INBOX_other.>") || !strings.Contains(err.Error(), "drover.nk") {
				t.Fatalf("Connect = %v, want a DeniedError of the inbox that says what its name goes by", err)
			}
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("Connect took %v, as long as a question without an answer", took)
			}
		})
	}
}

// Who only publishes and may hear the answers has nothing refused.
func TestConnectToPublish(t *testing.T) {
	t.Parallel()
	s := restricted(t, "tasks.>")
	js, err := broker.Connect(t.Context(), broker.Options{
		URL: s.ClientURL(), Name: "shop", PublishOnly: true, Logger: quiet, Extra: []nats.Option{nats.UserInfo("shop", "shop")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer js.Conn().Close()
	if err := js.Conn().FlushTimeout(10 * time.Second); err != nil {
		t.Error(err)
	}
	if err := js.Conn().LastError(); err != nil {
		t.Errorf("the broker refused %v, want nothing", err)
	}
	if n := js.Conn().NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left, want none", n)
	}
}

// A guarded request ends with the permission that it lacks; others go on, and the
// connection's own handler hears of it too.
func TestGuard(t *testing.T) {
	t.Parallel()
	s := restricted(t, "tasks.>")
	heard := make(chan error, 4)
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("shop", "shop"), nats.CustomInboxPrefix("_INBOX_shop"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	other, releaseOther := broker.Guard(ctx, nc, func(subject string) bool { return subject == "another" })
	guarded, release := broker.Guard(ctx, nc, nil)
	_, err = nc.RequestWithContext(guarded, "secret", nil)
	err = broker.Why(guarded, err)
	if !errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), `publish to "secret"`) {
		t.Errorf("a denied request = %v, want ErrDenied that names the subject", err)
	}
	if err := <-heard; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("the connection's own handler heard %v, want the violation", err)
	}
	if other.Err() != nil {
		t.Errorf("a guard of another subject ended: %v", context.Cause(other))
	}
	release()
	releaseOther()

	later, release := broker.Guard(ctx, nc, nil)
	defer release()
	_, err = nc.RequestWithContext(later, "tasks.x", nil)
	if err = broker.Why(later, err); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("an allowed request = %v, want %v", err, nats.ErrNoResponders)
	}
	if err := broker.Why(guarded, nil); err != nil {
		t.Errorf("Why(nil) = %v, want nil", err)
	}
}
