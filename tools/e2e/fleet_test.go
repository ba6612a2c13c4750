//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/dev"
)

// fleet is a broker with a topology, and the outside world of its services.
type fleet struct {
	tb    testing.TB
	url   string
	js    jetstream.JetStream
	env   []string // of every program: where the broker is, and nothing of the developer's
	mail  *dev.MailServer
	mails chan dev.Mail
	hooks *dev.Receiver
	calls chan dev.Call
}

const room = 1000 // for what the outside world tells; more than any test makes it tell

// newFleet starts a broker in this process, without services. file is the fleet
// file; "" means the built-in one.
func newFleet(tb testing.TB, file string) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, mails: make(chan dev.Mail, room), calls: make(chan dev.Call, room)}
	log := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := embed.Start(embed.Config{Dir: tb.TempDir(), Port: -1, Logger: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Shutdown)
	f.url = s.URL()
	ctx, cancel := context.WithTimeout(alive, patience)
	defer cancel()
	if f.js, err = broker.Connect(ctx, broker.Options{URL: f.url, Logger: log}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(f.js.Conn().Close)
	topology := streams.Default()
	home := tb.TempDir()
	f.env = []string{
		"PATH=" + own + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"HOME=" + home, "XDG_CONFIG_HOME=" + home, // the nats command keeps contexts there
		"NO_COLOR=1", "NATS_URL=" + f.url, "DROVER_NATS_URL=" + f.url, "DROVER_ADMIN_ADDR=",
	}
	if file != "" {
		if topology, err = streams.Load(file); err != nil {
			tb.Fatal(err)
		}
		if file, err = filepath.Abs(file); err != nil {
			tb.Fatal(err)
		}
		f.env = append(f.env, "DROVER_FLEET="+file)
	}
	if _, err := streams.Apply(ctx, f.js, topology); err != nil {
		tb.Fatal(err)
	}
	f.mail, err = dev.ListenMail(ctx, dev.MailOptions{Taken: func(m dev.Mail) { f.mails <- m }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(f.mail.Close)
	f.hooks, err = dev.ListenHooks(ctx, dev.ReceiverOptions{Answered: func(c dev.Call) { f.calls <- c }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(f.hooks.Close)
	f.env = append(f.env, dev.Env(nil, f.mail, f.hooks)...)
	return f
}

// service starts the binary of a service and returns once it takes tasks.
func (f *fleet) service(name string, args ...string) *process {
	f.tb.Helper()
	p := start(f.tb, f.env, filepath.Join(own, name), args...)
	p.wait("worker takes tasks")
	return p
}

// holds waits until a stream holds n messages.
func (f *fleet) holds(stream string, n uint64) error {
	ctx, cancel := context.WithTimeout(alive, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := f.js.Stream(ctx, stream)
		switch {
		case err != nil:
			return fmt.Errorf("wait for %d messages in %s: %w", n, stream, err)
		case s.CachedInfo().State.Msgs == n:
			return nil
		}
		<-tick.C
	}
}

// next waits for what somebody tells next.
func next[T any](tb testing.TB, from <-chan T) T {
	tb.Helper()
	v, err := receive(from)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func receive[T any](from <-chan T) (T, error) {
	select {
	case v := <-from:
		return v, nil
	case <-time.After(patience):
		var none T
		return none, fmt.Errorf("no %T within %v", none, patience)
	}
}
