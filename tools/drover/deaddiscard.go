package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/deadletter"
)

type deadDiscardCmd struct {
	letterName
	letterFilter
	manyFlags
	deed

	IDs []string `arg:"" optional:"" name:"id" help:"The tasks' ids, or the letters' sequences in DEAD."`
}

// Help is the long text of --help.
func (deadDiscardCmd) Help() string {
	return `The letters and their arguments are gone for ever. Why has to be said, with --why;
their traces keep it, too.

Examples:

    drover dead discard order-17-mail --why 'sent by hand'
    drover dead discard order-17-mail --why 'sent by hand' --dry-run
    drover dead discard 41 42 43 --by sequence --why 'test data'
    drover dead discard --group 3f9a0c17d2b4 --until 7d --why 'the customer left' --yes`
}

// Validate is called by kong.
func (c *deadDiscardCmd) Validate() error {
	if err := c.check(c.IDs, c.letterFilter); err != nil {
		return err
	}
	if strings.TrimSpace(c.Why) == "" {
		return errors.New("--why: say why")
	}
	return nil
}

func (c *deadDiscardCmd) Run(ctx context.Context, app *App) error {
	now := time.Now()
	f, err := c.filter(now)
	if err != nil {
		return usage(err)
	}
	e := audit.Entry{Verb: "dead.discard", By: c.As, Reason: c.Why}
	discard := func(ctx context.Context, m *mover, l deadletter.Letter) (moved, error) {
		return moved{Done: "discarded"}, deadletter.Discard(ctx, m.js, l, c.Why, deadletter.TracerProvider(m.traces))
	}
	if len(c.IDs) > 0 {
		return app.moving(ctx, func(ctx context.Context, m *mover) error {
			if c.DryRun {
				return m.rehearse(ctx, c.letterName, c.IDs, "discarded")
			}
			return m.named(ctx, c.letterName, c.IDs, e, discard)
		})
	}
	e.Filter = c.words(now)
	return app.many(ctx, many{
		manyFlags: c.manyFlags, filter: f, entry: e, done: "discarded",
		do: func(ctx context.Context, m *mover, a *act, census deadletter.Census) (map[string]int, error) {
			f.Limit = census.Count
			return m.matching(ctx, a, f, discard)
		},
	})
}

const auditBatch = 100 // letters in one part of an act

// matching does something to all letters that f lets through.
func (m *mover) matching(ctx context.Context, a *act, f deadletter.Filter, do doing) (map[string]int, error) {
	counts := map[string]int{}
	var batch []deadletter.Letter
	var errs []error
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := a.part(ctx, idsOf(batch)); err != nil {
			return err
		}
		for _, l := range batch {
			if ctx.Err() != nil {
				return errInterrupted
			}
			did, err := m.one(ctx, l, do)
			counts[resultOf(did, err)]++
			if err := m.told(l.ID, l, did, err); err != nil {
				errs = append(errs, err)
			}
		}
		batch = batch[:0]
		return nil
	}
	for l, err := range deadletter.List(ctx, m.js, f) {
		if err != nil {
			return counts, errors.Join(append(errs, deadError(err))...)
		}
		if batch = append(batch, l); len(batch) == auditBatch {
			if err := flush(); err != nil {
				return counts, errors.Join(append(errs, err)...)
			}
		}
	}
	return counts, errors.Join(append(errs, flush())...)
}
