package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/droverhq/drover/tools/demo"
)

type demoCmd struct {
	Keep bool   `help:"Keep broker, fleet and what is left in DEAD after the report, until ctrl-C."`
	OTLP string `name:"otlp" placeholder:"URL" help:"Send traces to an OTLP collector, such as a Jaeger at http://127.0.0.1:4318. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=URL/v1/traces does the same."`
}

// Help is the long text of --help.
func (demoCmd) Help() string {
	return `Starts a fleet of its own on free ports of this machine and a temporary folder:
no other broker, mail server or receiver is needed or touched. In less than half a
minute it sends real mails and webhooks, lets a receiver die and come back, runs a
task that kills its process each time, 2,000 bulk mails under urgent ones, and
redrives a dead letter. The report says what became of every task.

The exit code is 0 only when every task is accounted for: it was seen to be done by
the mail server, the receiver or the service itself, or it is in DEAD; not both;
and nothing is left in any other stream.

Examples:

    drover demo
    drover demo --keep
    drover demo --otlp http://127.0.0.1:4318
    drover demo --json | jq .waits`
}

const tracesPath = "/v1/traces" // of every OTLP collector, over HTTP

// Run runs the demo and shows it.
func (c *demoCmd) Run(ctx context.Context, app *App) error {
	if c.OTLP != "" {
		url := strings.TrimSuffix(strings.TrimRight(c.OTLP, "/"), tracesPath) + tracesPath
		if err := os.Setenv(tracesEnv, url); err != nil { // for this process and the services
			return fmt.Errorf("set the collector: %w", err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to start services with: %w", err)
	}
	complaints := make(chan string, 1) // kept, because the screen is in use
	defer func() {
		select {
		case text := <-complaints:
			app.complaint(text)
		default:
		}
	}()
	traces, flush, err := app.tracing(ctx, func(text string) {
		select {
		case complaints <- text:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer flush()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP) // of a terminal that is closed
	defer stop()
	o := demo.Options{Command: []string{exe, "run"}, TracerProvider: traces}
	if !app.JSON {
		o.Stdout = app.Stdout
	}
	if c.Keep {
		o.Keep = func(ctx context.Context, r *demo.Report) {
			if app.JSON {
				_ = app.encode(r) // whoever reads it needs it now
			} else {
				app.printf("\nit is still there, until ctrl-C:\n  drover lanes --nats %[1]s\n  drover dead ls --nats %[1]s\n  nats --server %[1]s stream ls\n", r.Broker)
			}
			<-ctx.Done()
		}
	}
	r, err := demo.Run(ctx, o)
	switch {
	case err != nil && ctx.Err() != nil:
		return errInterrupted
	case err != nil:
		return err
	case app.JSON && !c.Keep:
		if err := app.encode(r); err != nil {
			return err
		}
	}
	if !r.OK {
		return fmt.Errorf("not every task is accounted for: %s", strings.Join(r.Problems, "; "))
	}
	return nil
}
