package main

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type streamsCmd struct {
	Plan  planCmd  `cmd:"" help:"Show what apply would change, and change nothing."`
	Apply applyCmd `cmd:"" help:"Make the broker hold what the fleet file says."`
}

// Help is the long text of --help.
func (streamsCmd) Help() string {
	return `The fleet file says which classes and services there are; streams and consumers
are derived from it. Nothing is ever deleted, and a change that would lose or strand
tasks is refused, with what to do first. Every key of the file is explained in
streams/README.md.

Examples:

    drover streams plan
    drover streams apply --fleet fleet.yaml`
}

type planCmd struct{}

// Help is the long text of --help.
func (planCmd) Help() string {
	return `Examples:

    drover streams plan
    drover streams plan --fleet fleet.yaml --json`
}

func (planCmd) Run(ctx context.Context, app *App) error {
	return app.topology(ctx, streams.Plan, "would change; `drover streams apply` does it")
}

type applyCmd struct{}

// Help is the long text of --help.
func (applyCmd) Help() string {
	return `Running it again is safe, and so is running it while the fleet works.

Examples:

    drover streams apply
    drover streams apply --fleet fleet.yaml --nats nats://broker:4222 --creds admin.creds`
}

func (applyCmd) Run(ctx context.Context, app *App) error {
	return app.topology(ctx, streams.Apply, "changed")
}

// topology shows the changes that do returns, and sums them up with what became
// of them.
func (a *App) topology(ctx context.Context, do func(context.Context, jetstream.JetStream, *streams.Fleet) ([]streams.Change, error), became string) error {
	fleet, err := a.fleet()
	if err != nil {
		return err
	}
	js, done, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := a.limit(ctx)
	defer cancel()
	changes, err := do(ctx, js, fleet)
	err = patient(ctx, err)
	if a.JSON {
		for _, c := range changes {
			if err := a.encode(c); err != nil {
				return err
			}
		}
		return err
	}
	n := 0
	for _, c := range changes {
		a.printf("%s\n", c)
		if c.Action == streams.Create || c.Action == streams.Update {
			n++
		}
	}
	switch {
	case err != nil:
	case n > 0:
		a.printf("\n%s %s.\n", screen.Some(n, "object", "objects"), became)
	default:
		if len(changes) > 0 {
			a.printf("\n")
		}
		a.printf("nothing to change: the broker is as %s wants it\n", a.where())
	}
	return err
}
