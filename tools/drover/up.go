package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/droverhq/drover/services/cmd/catalog"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/dev"
	"github.com/droverhq/drover/tools/supervise"
	"github.com/droverhq/drover/tools/supervise/console"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type upCmd struct {
	State string         `env:"DROVER_STATE" type:"path" placeholder:"DIR" help:"Folder of streams and logs, kept from one time to the next. The default is $$XDG_STATE_HOME/drover, or ~/.local/state/drover."`
	Port  int            `default:"4222" help:"Port of the broker on 127.0.0.1; 0 for any free one. The default is ${default}."`
	Scale map[string]int `placeholder:"SERVICE=N" help:"Run N processes of a service; may be repeated. Without it, one of each."`
	Dev   bool           `default:"true" negatable:"" help:"Start a mail server that delivers to nobody and a receiver of webhooks, and point the services at them."`
	Admin string         `default:"127.0.0.1:0" placeholder:"HOST:PORT" help:"Where the supervisor's own /healthz, /readyz and /metrics are: any free port by default; empty for nowhere."`
	Drain time.Duration  `env:"DROVER_DRAIN" default:"25s" help:"How long running tasks may go on after ctrl-C, before they are given back."`
	Every time.Duration  `default:"10s" help:"How often to write a status line where there is no terminal."`
}

// Help is the long text of --help.
func (upCmd) Help() string {
	return `The broker runs inside this process and keeps its streams in the state folder.
Each process of a service is a child, started again when it ends, unless its flags
or its environment are wrong. Ctrl-C drains them all; a second one ends them at
once. What the children say is in the folder logs of the state folder; what they
warn of is shown here as well.

A service of the fleet file that this command does not contain is started by its
owner, from its own binary; "up" says with which flags, and --scale NAME=0 leaves
that out.

In development, which is the default, mail to bounce…@ is refused for good and mail
to busy…@ once. The receiver fails when it is told to:

    curl -X POST 'http://127.0.0.1:8026/-/fail?status=503&retry-after=2s&for=30s'
    curl -X POST 'http://127.0.0.1:8026/-/fail?hang=true'
    curl -X POST http://127.0.0.1:8026/-/mend

DROVER_SMTP_… and DROVER_WEBHOOK_… of your environment win over that. OTEL_
variables reach the services. A Jaeger on this machine takes traces, and no metrics:

    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces drover up

Examples:

    drover up
    drover up --scale email=3 --scale webhook=2
    drover up --port 0 --state /tmp/drover
    DROVER_SMTP_ADDR=smtp.example.org:587 DROVER_SMTP_FROM=drover@example.org \
        drover up --no-dev --fleet fleet.yaml`
}

// Validate is called by kong.
func (c *upCmd) Validate() error {
	switch {
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("--port %d: want 1 to 65535, or 0 for any free one", c.Port)
	case c.Every <= 0 || c.Drain <= 0:
		return fmt.Errorf("--every %v and --drain %v: want more than nothing", c.Every, c.Drain)
	}
	return nil
}

// Ports of what development needs beside the broker. When one is taken, any free
// one is as good.
const (
	mailPort = 1025
	hookPort = 8026
)

// Run brings the fleet up and looks after it until a signal asks it to end.
func (c *upCmd) Run(ctx context.Context, app *App) error {
	begun := time.Now()
	cfg, err := c.config(app)
	if err != nil {
		return err
	}
	w := &world{}
	defer w.close()
	if c.Dev {
		if err := w.start(ctx); err != nil {
			return err
		}
		cfg.Env = dev.Env(os.Environ(), w.mail, w.hooks)
	}
	shown := console.New(console.Options{
		Stdout: app.Stdout, JSON: app.JSON, Dir: c.State, Begun: begun, Every: c.Every,
		Advice: func(s *supervise.Supervisor) []string { return advice(app, cfg.Fleet, s, w) },
		World:  w.lines, Summary: w.summary, Outside: w.addresses(),
	})
	defer shown.Close()
	cfg.Events, cfg.Logger = shown.Event, shown.Logger()
	complain(func(text string) {
		shown.Event(supervise.Event{At: time.Now(), Kind: supervise.Logged, Process: "drover", Text: text})
	})

	signals := make(chan os.Signal, 2) // the second one may come before the first is looked at
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	gone := make(chan os.Signal, 1) // whoever read the output; the fleet goes on
	signal.Notify(gone, syscall.SIGPIPE)
	defer signal.Stop(gone)
	s, err := supervise.Start(ctx, cfg)
	if errors.Is(err, supervise.ErrInUse) || errors.Is(err, embed.ErrPortTaken) {
		return usage(err)
	}
	if err != nil {
		return err
	}
	for _, name := range c.elsewhere(cfg.Fleet) {
		shown.Say(fmt.Sprintf("%s is not part of this command: its owner starts it, such as with ./%s --nats %s --fleet %s", name, name, s.URL(), app.Fleet))
	}
	return shown.Run(ctx, s, signals)
}

// elsewhere are the services of the fleet that somebody else starts, without those
// that nobody wants.
func (c *upCmd) elsewhere(fleet *streams.Fleet) []string {
	var out []string
	for _, s := range fleet.Services {
		if n, scaled := c.Scale[s.Name]; !contains(s.Name) && (!scaled || n != 0) {
			out = append(out, s.Name)
		}
	}
	return out
}

const mostProcesses = 64 // of one service on one machine, as the supervisor has it

func (c *upCmd) config(app *App) (supervise.Config, error) {
	fleet, err := app.fleet()
	if err != nil {
		return supervise.Config{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return supervise.Config{}, fmt.Errorf("find this program, to start services with: %w", err)
	}
	if c.State == "" {
		if c.State, err = stateFolder(); err != nil {
			return supervise.Config{}, err
		}
	}
	scale := maps.Clone(c.Scale)
	for name, n := range c.Scale {
		switch _, ok := fleet.Service(name); {
		case n < 0 || n > mostProcesses:
			return supervise.Config{}, usage(fmt.Errorf("--scale %s=%d: want 0 to %d", name, n, mostProcesses))
		case !ok && !slices.Contains(withoutTasks(), name):
			return supervise.Config{}, usage(fmt.Errorf("--scale %s: %s has %s", name, app.where(), served(fleet)))
		case n != 0 && !contains(name):
			return supervise.Config{}, usage(fmt.Errorf("--scale %s=%d: this command does not contain %s: start its own binary, %d times", name, n, name, n))
		}
	}
	for _, name := range c.elsewhere(fleet) {
		if scale == nil {
			scale = map[string]int{}
		}
		scale[name] = 0
	}
	return supervise.Config{
		Dir: c.State, Port: cmp.Or(c.Port, -1), Fleet: fleet, FleetFile: app.Fleet, Command: []string{exe, "run"},
		Extra: withoutTasks(), Scale: scale, Drain: c.Drain, Admin: c.Admin,
	}, nil
}

// withoutTasks are the services that run beside those of the fleet file.
func withoutTasks() []string {
	var out []string
	for _, s := range catalog.All() {
		if s.NoTasks {
			out = append(out, s.Name)
		}
	}
	return out
}

// stateFolder is where the state is kept when nobody says otherwise.
func stateFolder() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "drover"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usage(fmt.Errorf("find the state folder: %w: name one with --state", err))
	}
	return filepath.Join(home, ".local", "state", "drover"), nil
}

// advice is what to type once the fleet is ready.
func advice(app *App, fleet *streams.Fleet, s *supervise.Supervisor, w *world) []string {
	drover := "drover"
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "go-build") {
		drover = "go run ./tools/drover"
	}
	flags := ""
	if s.URL() != broker.DefaultURL {
		flags += " --nats " + s.URL()
	}
	if f := app.Fleet; f != "" {
		flags += " --fleet " + f
	}
	drover += " "
	out := []string{"try in another terminal:"}
	add := func(about, command string) { out = append(out, fmt.Sprintf("  %-13s %s", about, command)) }
	if _, ok := fleet.Service("email"); ok {
		add("a mail", drover+"enqueue"+flags+" email.send to=ada@example.org subject=Hello text='It works.'")
	}
	if _, ok := fleet.Service("webhook"); ok && w.hooks != nil {
		deliver := drover + "enqueue" + flags + " webhook.deliver event=order.paid payload.id=7 url=" + w.hooks.URL()
		add("a webhook", deliver+"/")
		add("a refused one", deliver+"/status/410")
	}
	add("what happens", drover+"lanes"+flags)
	add("what died", drover+"dead ls"+flags)
	add("with nats", "nats --server "+s.URL()+" stream ls")
	const jaeger = "http://127.0.0.1:16686"
	if to := cmp.Or(os.Getenv(tracesEnv), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")); to != "" {
		add("traces", "go to "+to+"; a Jaeger on this machine shows them at "+jaeger)
	} else {
		add("traces", tracesEnv+"=http://127.0.0.1:4318/v1/traces "+drover+"up, with a Jaeger: "+jaeger)
	}
	return out
}

// world is what services talk to in development.
type world struct {
	mail  *dev.MailServer // nil when there is none
	hooks *dev.Receiver   // nil when there is none
}

func (w *world) start(ctx context.Context) (err error) {
	if !dev.Has(os.Environ(), "DROVER_SMTP_ADDR") {
		if w.mail, err = dev.ListenMail(ctx, dev.MailOptions{Port: mailPort, Fallback: true}); err != nil {
			return err
		}
	}
	w.hooks, err = dev.ListenHooks(ctx, dev.ReceiverOptions{Port: hookPort, Fallback: true})
	return err
}

func (w *world) close() {
	if w.mail != nil {
		w.mail.Close()
	}
	if w.hooks != nil {
		w.hooks.Close()
	}
}

// addresses are the keys of the world in up --json.
func (w *world) addresses() map[string]string {
	out := map[string]string{}
	if w.mail != nil {
		out["smtp"] = w.mail.Addr()
	}
	if w.hooks != nil {
		out["webhooks"] = w.hooks.URL()
	}
	return out
}

// lines are the world on the screen.
func (w *world) lines() []string {
	var out []string
	if w.mail != nil {
		line := "mail server  " + w.mail.Addr() + "  " + screen.Some(w.mail.Total(), "mail", "mails")
		if all := w.mail.Last(); len(all) > 0 {
			m := all[len(all)-1]
			line += ", the last to " + screen.Plain(strings.Join(m.To, ", ")) + ": " + screen.Plain(m.Subject)
		}
		out = append(out, line)
	}
	if w.hooks != nil {
		came, taken := w.hooks.Totals()
		out = append(out, fmt.Sprintf("receiver     %s  %s, %s taken; it %s", w.hooks.URL(), screen.Some(came, "delivery", "deliveries"), screen.Count(taken), w.hooks.Mood("")))
	}
	return out
}

func (w *world) summary() string {
	text := ""
	if w.mail != nil {
		text += " · " + screen.Some(w.mail.Total(), "mail", "mails")
	}
	if w.hooks != nil {
		_, taken := w.hooks.Totals()
		text += " · " + screen.Some(taken, "webhook", "webhooks")
	}
	return text
}
