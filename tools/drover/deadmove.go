package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadRedriveCmd struct {
	letterName
	letterFilter

	IDs []string `arg:"" optional:"" name:"id" help:"The tasks' ids, or the letters' sequences in DEAD."`
	All bool     `help:"All dead letters that the filters let through, instead of naming them."`
	Yes bool     `help:"Do it. Without it --all only says how many there are."`
}

// Help is the long text of --help.
func (deadRedriveCmd) Help() string {
	return `A redriven task has the same id and arguments, no attempts behind it and no
deadline, and a new trace that links to the old one. Redriving a letter twice within
ten minutes makes one task.

Examples:

    drover dead redrive order-17-mail
    drover dead redrive 41 42 43 --by sequence
    drover dead redrive --all --service webhook --reason failed --since 2h --yes`
}

// Validate is called by kong.
func (c *deadRedriveCmd) Validate() error {
	switch {
	case c.All && len(c.IDs) > 0:
		return errors.New("ids and --all: give one of them")
	case !c.All && len(c.IDs) == 0:
		return errors.New("name dead letters by their ids, or choose them with --all and filters")
	case !c.All && c.letterFilter != letterFilter{}:
		return errors.New("filters choose among all: give --all with them")
	}
	return nil
}

func (c *deadRedriveCmd) Run(ctx context.Context, app *App) error {
	f, err := c.filter(time.Now())
	if err != nil {
		return usage(err)
	}
	return app.moving(ctx, func(ctx context.Context, m *mover) error {
		if c.All {
			return c.matching(ctx, m, f)
		}
		return m.named(ctx, c.letterName, c.IDs, redrive)
	})
}

func redrive(ctx context.Context, m *mover, l deadletter.Letter) (moved, error) {
	r, err := deadletter.Redrive(ctx, m.js, l, deadletter.TracerProvider(m.traces))
	return moved{Done: "redriven", Stream: r.Stream, TaskSequence: r.Sequence, Duplicate: r.Duplicate}, err
}

// matching redrives what the filter lets through, or only counts it.
func (c *deadRedriveCmd) matching(ctx context.Context, m *mover, f deadletter.Filter) error {
	var errs []error
	n := 0
	for l, err := range deadletter.List(ctx, m.js, f) {
		if ctx.Err() != nil {
			return errors.Join(append(errs, errInterrupted)...)
		}
		if err != nil {
			return errors.Join(append(errs, deadError(err))...)
		}
		n++
		if !c.Yes {
			continue
		}
		errs = append(errs, m.one(ctx, l.ID, func(ctx context.Context) (deadletter.Letter, moved, error) {
			did, err := redrive(ctx, m, l)
			return l, did, err
		}))
	}
	switch {
	case n == 0:
		_, _ = fmt.Fprintln(m.app.Stderr, "no dead letter matches")
	case !c.Yes:
		return usage(fmt.Errorf("%s would be redriven, and nothing was done: repeat it with --yes", letters(n)))
	}
	return errors.Join(errs...)
}

type deadDiscardCmd struct {
	letterName

	IDs    []string `arg:"" name:"id" help:"The tasks' ids, or the letters' sequences in DEAD."`
	Reason string   `placeholder:"TEXT" help:"Why, for those who look at the task's traces later."`
}

// Help is the long text of --help.
func (deadDiscardCmd) Help() string {
	return `The letters and their arguments are gone for ever.

Examples:

    drover dead discard order-17-mail --reason 'sent by hand'
    drover dead discard 41 42 43 --by sequence`
}

func (c *deadDiscardCmd) Run(ctx context.Context, app *App) error {
	return app.moving(ctx, func(ctx context.Context, m *mover) error {
		return m.named(ctx, c.letterName, c.IDs, func(ctx context.Context, m *mover, l deadletter.Letter) (moved, error) {
			return moved{Done: "discarded"}, deadletter.Discard(ctx, m.js, l, c.Reason, deadletter.TracerProvider(m.traces))
		})
	})
}

// moved are the keys of dead redrive --json and dead discard --json, one object
// for each letter.
type moved struct {
	letter

	Done         string `json:"done,omitempty"`          // "redriven" or "discarded"
	Stream       string `json:"stream,omitempty"`        // that the task is in now
	TaskSequence uint64 `json:"task_sequence,omitempty"` // in that stream
	Duplicate    bool   `json:"duplicate,omitempty"`     // someone else redrove it first
	Failed       string `json:"failed,omitempty"`        // why it was not done
}

// mover redrives or discards one letter after the other. One that fails does not
// stop the others; the error holds all of them.
type mover struct {
	app    *App
	js     jetstream.JetStream
	traces trace.TracerProvider
}

func (a *App) moving(ctx context.Context, f func(context.Context, *mover) error) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	js, done, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	traces, flush, err := a.tracing(ctx, a.complaint)
	if err != nil {
		return err
	}
	defer flush()
	return f(ctx, &mover{a, js, traces})
}

func (m *mover) named(ctx context.Context, by letterName, names []string, do func(context.Context, *mover, deadletter.Letter) (moved, error)) error {
	var errs []error
	for _, name := range names {
		if ctx.Err() != nil {
			return errors.Join(append(errs, errInterrupted)...)
		}
		errs = append(errs, m.one(ctx, name, func(ctx context.Context) (deadletter.Letter, moved, error) {
			l, err := by.find(ctx, m.js, name)
			if err != nil {
				return l, moved{}, err
			}
			did, err := do(ctx, m, l)
			return l, did, err
		}))
	}
	return errors.Join(errs...)
}

// one does one letter, and tells what became of it.
func (m *mover) one(ctx context.Context, name string, do func(context.Context) (deadletter.Letter, moved, error)) error {
	ctx, cancel := m.app.limit(ctx)
	defer cancel()
	l, did, err := do(ctx)
	err = deadError(patient(ctx, err))
	if m.app.JSON {
		did.letter = letterOf(l)
		if l.Sequence == 0 {
			did.ID = name
		}
		if err != nil {
			did.Done, did.Failed = "", err.Error()
		}
		return firstError(m.app.encode(did), err)
	}
	kind, id := l.Subject.Kind(), screen.Plain(l.ID)
	switch {
	case err != nil:
	case did.Stream == "":
		m.app.printf("%s %s %s\n", did.Done, kind, id)
	case did.Duplicate:
		m.app.printf("%s %s was redriven already: %s, sequence %d\n", kind, id, did.Stream, did.TaskSequence)
	default:
		m.app.printf("%s %s %s, generation %d: %s, sequence %d\n", did.Done, kind, id, l.Generation+1, did.Stream, did.TaskSequence)
	}
	return err
}
