package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/streams"
)

// Globals are the flags of every verb.
type Globals struct {
	NATS    string        `name:"nats" env:"DROVER_NATS_URL" default:"${nats}" placeholder:"URL" group:"all" help:"Broker to connect to. The default is ${default}."`
	Creds   string        `env:"DROVER_CREDS" type:"existingfile" placeholder:"FILE" group:"all" help:"Credentials of the NATS user to connect as."`
	NKey    string        `name:"nkey" env:"DROVER_NKEY" type:"existingfile" placeholder:"FILE" group:"all" help:"Seed of the nkey to connect with, instead of credentials."`
	Fleet   string        `env:"DROVER_FLEET" type:"existingfile" placeholder:"FILE" group:"all" help:"Fleet file. Without one the built-in fleet.yaml holds."`
	Timeout time.Duration `default:"10s" group:"all" help:"How long to wait for the broker."`
	JSON    bool          `name:"json" group:"all" help:"Write JSON for programs instead of text for people."`
}

// Validate is called by kong.
func (g *Globals) Validate() error {
	if g.Timeout <= 0 {
		return fmt.Errorf("--timeout %v: want more than nothing", g.Timeout)
	}
	return nil
}

// App is what every verb gets: where it reads and writes, and the common flags.
type App struct {
	Globals

	Named          bool // --nats was on the command line
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// fleet reads the fleet file, or the built-in one.
func (a *App) fleet() (*streams.Fleet, error) {
	if a.Fleet == "" {
		return streams.Default(), nil
	}
	f, err := streams.Load(a.Fleet)
	if err != nil {
		return nil, usage(fmt.Errorf("--fleet: %w", err))
	}
	return f, nil
}

// connect connects to the broker that the flags name. The caller closes it.
func (a *App) connect(ctx context.Context) (jetstream.JetStream, func(), error) {
	return a.connectTo(ctx, false)
}

// connectToPublish is connect for a verb that only publishes, which a producer's key
// allows and nothing else.
func (a *App) connectToPublish(ctx context.Context) (jetstream.JetStream, func(), error) {
	return a.connectTo(ctx, a.user() != streams.OperatorUser)
}

func (a *App) connectTo(ctx context.Context, publishOnly bool) (jetstream.JetStream, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	js, err := broker.Connect(ctx, broker.Options{
		URL: a.NATS, Name: a.user(), Creds: a.Creds, NKey: a.NKey, PublishOnly: publishOnly,
		Logger: slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return nil, nil, err
	}
	return js, js.Conn().Close, nil
}

// user is the name to connect as, which the permissions of an inbox go by: that of
// the key, as `drover keys` names its file.
func (a *App) user() string {
	if file := filepath.Base(a.NKey); strings.HasSuffix(file, ".nk") {
		name, _, _ := strings.Cut(file, ".")
		return name
	}
	return streams.OperatorUser
}

// limit is ctx for one conversation with the broker.
func (a *App) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return a.limitAfter(ctx, 0)
}

// limitAfter is limit for a conversation that may wait d for something else.
func (a *App) limitAfter(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d+a.Timeout, fmt.Errorf("%w within %v: raise --timeout", errSilent, a.Timeout))
}

// talk connects and calls f, within the time for one conversation with the broker.
func (a *App) talk(ctx context.Context, f func(context.Context, jetstream.JetStream) error) error {
	js, done, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := a.limit(ctx)
	defer cancel()
	return patient(ctx, f(ctx, js))
}

// encode writes v as one line of JSON.
func (a *App) encode(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printf writes for people.
func (a *App) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Stdout, format, args...)
}

// where names the fleet file in messages.
func (a *App) where() string {
	if a.Fleet != "" {
		return a.Fleet
	}
	return "the built-in fleet.yaml"
}

// interruptible is ctx until the process is asked to end, for verbs that have
// something to put in order then. The others end at once, as the system does it.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// list joins names for a sentence.
func list[S ~string](names []S) string {
	text := make([]string, len(names))
	for i, n := range names {
		text[i] = string(n)
	}
	return strings.Join(text, ", ")
}
