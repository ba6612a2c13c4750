package main

import (
	"context"
	"errors"
	"fmt"

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

type planCmd struct {
	Check bool `help:"End with exit code 7 when apply would change something."`
}

// Help is the long text of --help.
func (planCmd) Help() string {
	return `Each change is a block: + is made new, ~ is changed live, ! is refused, with the
commands to run first, and ? is on the broker but not in the fleet file, and stays.

Ends with 0 whether there are changes or not, with 4 when one is refused, and under
--check with 7 when there are changes and none is refused.

Examples:

    drover streams plan
    drover streams plan --fleet fleet.yaml --json
    drover streams plan --check`
}

func (c planCmd) Run(ctx context.Context, app *App) error {
	n, err := app.topology(ctx, streams.Plan, future)
	if err == nil && c.Check && n > 0 {
		return exitError(exitChanges)
	}
	return err
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
	_, err := app.topology(ctx, streams.Apply, past)
	return err
}

// topology shows the changes that do returns and counts those that are made, or
// would be.
func (a *App) topology(ctx context.Context, do func(context.Context, jetstream.JetStream, *streams.Fleet) ([]streams.Change, error), t tense) (int, error) {
	fleet, err := a.fleet()
	if err != nil {
		return 0, err
	}
	var changes []streams.Change
	err = a.talk(ctx, func(ctx context.Context, js jetstream.JetStream) (err error) {
		changes, err = do(ctx, js, fleet)
		return err
	})
	if refused, ok := errors.AsType[*streams.RefusedError](err); ok {
		if changes == nil {
			changes = refused.Changes
		}
		// The blocks say the rest.
		err = mark{fmt.Errorf("refused: nothing is applied before this is dealt with: %s", screen.Some(len(refused.Changes), "change", "changes")), streams.ErrRefused}
	}
	n := 0
	for _, c := range changes {
		if c.Action == streams.Create || c.Action == streams.Update {
			n++
		}
	}
	if a.JSON {
		for _, c := range changes {
			if err := a.encode(c); err != nil {
				return n, err
			}
		}
		return n, err
	}
	a.changes(changes, t)
	switch {
	case err != nil:
	case n == 0:
		a.printf("nothing to change: the broker is as %s wants it\n", a.where())
	case t == future:
		a.printf("`drover streams apply` makes the changes\n")
	}
	return n, err
}
