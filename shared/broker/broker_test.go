package broker_test

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/shared/natstest"
)

var quiet = slog.New(slog.DiscardHandler)

func start(tb testing.TB, c embed.Config) *embed.Server {
	tb.Helper()
	c.Logger = quiet
	s, err := embed.Start(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Shutdown)
	return s
}

// A connection reconnects on its own when the broker is back, and a publish in
// between is an error at once, not something sent late.
func TestReconnect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, embed.Config{Dir: dir, Port: -1})
	js, err := broker.Connect(t.Context(), broker.Options{URL: first.URL(), Name: "svc email/1", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	nc := js.Conn()
	defer nc.Close()
	if inbox := nc.NewInbox(); !strings.HasPrefix(inbox, "_INBOX_svc_email_1.") {
		t.Errorf("inbox %s, want one of its own prefix", inbox)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(first.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	first.Shutdown()
	for deadline := time.Now().Add(10 * time.Second); nc.IsConnected() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := nc.Publish("s", nil); err == nil {
		t.Error("a publish without a broker is kept for later")
	}
	start(t, embed.Config{Dir: dir, Port: p})
	for deadline := time.Now().Add(10 * time.Second); !nc.IsConnected(); {
		if time.Now().After(deadline) {
			t.Fatal("not connected again after 10s")
		}
		time.Sleep(time.Millisecond)
	}
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != 1 {
		t.Errorf("%d messages after the restart, want the 1 from before", got)
	}
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	bare := natstest.Serve(t, &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT}) // without JetStream
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "nats://drover:secret@" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    broker.Options
		want error
		says string
	}{
		{"nobody there", broker.Options{URL: nobody}, broker.ErrUnreachable, "drover up"},
		{"no JetStream", broker.Options{URL: bare.ClientURL()}, broker.ErrNoJetStream, "jetstream {}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.o.Logger = quiet
			_, err := broker.Connect(t.Context(), tt.o)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Connect() = %v, want %v that says %q", err, tt.want, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error gives the password away: %v", err)
			}
		})
	}
}

func TestOlder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"2.14.2", "2.14.3", true},
		{"2.14.3", "2.14.3", false},
		{"2.15.0", "2.14.3", false},
		{"2.9.25", "2.14.3", true},
		{"v2.14.3-RC.1", "2.14.3", false},
		{"1.99.99", "2.14.3", true},
		{"", "2.14.3", true},
		{"10.0.0", "2.14.3", false},
	} {
		if got := broker.Older(tt.a, tt.b); got != tt.want {
			t.Errorf("Older(%q, %q) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}
