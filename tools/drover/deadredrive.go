package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
)

type deadRedriveCmd struct {
	letterName
	letterFilter
	manyFlags
	canaryFlags
	deed

	IDs []string `arg:"" optional:"" name:"id" help:"The tasks' ids, or the letters' sequences in DEAD."`
}

// Help is the long text of --help.
func (deadRedriveCmd) Help() string {
	return `A redriven task has the same id and arguments, no attempts behind it and no
deadline, and a new trace that links to the old one. Redriving a letter twice within
ten minutes makes one task.

Letters that filters choose go as a canary: one first, then ten, each time until
their end is known, and then the rest at a rate. It stops when too many fail again:
when their first attempt has failed, or they are dead again. Those that are left
stay dead letters. Ctrl-C stops it too.

Examples:

    drover dead redrive order-17-mail
    drover dead redrive 41 42 43 --by sequence
    drover dead redrive --group 3f9a0c17d2b4 --why 'the relay is back'
    drover dead redrive --service webhook --since 2h --rate 200/s --max-failures 1% --yes`
}

// canaryFlags are those of verbs that redrive many.
type canaryFlags struct {
	Rate        rate          `default:"50/s" placeholder:"N/s" help:"Letters a second once the canaries are through. The default is 50/s."`
	MaxFailures tolerance     `default:"10%" placeholder:"N|N%" help:"Stop when more fail again than this number, or this share of what was redriven. The default is 10%."`
	Wait        time.Duration `default:"5m" help:"How long to wait for the ends of one stage. The default is 5m."`
	NoCanary    bool          `help:"No stages: all at the rate, without looking what becomes of them."`
}

// Validate is called by kong.
func (c *deadRedriveCmd) Validate() error {
	return firstError(c.check(c.IDs, c.letterFilter), c.waits())
}

func (c canaryFlags) waits() error {
	if c.Wait <= 0 {
		return fmt.Errorf("--wait %v: want more than nothing", c.Wait)
	}
	return nil
}

func (c *deadRedriveCmd) Run(ctx context.Context, app *App) error {
	now := time.Now()
	f, err := c.filter(now)
	if err != nil {
		return usage(err)
	}
	e := audit.Entry{Verb: "dead.redrive", By: c.As, Reason: c.Why}
	if len(c.IDs) > 0 {
		return app.moving(ctx, func(ctx context.Context, m *mover) error {
			if c.DryRun {
				return m.rehearse(ctx, c.letterName, c.IDs, "redriven")
			}
			return m.named(ctx, c.letterName, c.IDs, e, redrive)
		})
	}
	e.Filter = c.words(now)
	return app.many(ctx, many{
		manyFlags: c.manyFlags, filter: f, entry: e, done: "redriven",
		do: func(ctx context.Context, m *mover, a *act, census deadletter.Census) (map[string]int, error) {
			return m.canary(ctx, a, c.canaryFlags, f, census, "redriven", func(ctx context.Context, l deadletter.Letter) (client.Receipt, error) {
				return deadletter.Redrive(ctx, m.js, l, deadletter.TracerProvider(m.traces))
			})
		},
	})
}

func redrive(ctx context.Context, m *mover, l deadletter.Letter) (moved, error) {
	r, err := deadletter.Redrive(ctx, m.js, l, deadletter.TracerProvider(m.traces))
	return movedTo("redriven", r), err
}

// canary redrives what f lets through, stage by stage.
func (m *mover) canary(ctx context.Context, a *act, flags canaryFlags, f deadletter.Filter, census deadletter.Census, done string,
	do func(context.Context, deadletter.Letter) (client.Receipt, error),
) (map[string]int, error) {
	p := m.progress(census.Count, done, flags.NoCanary)
	c := deadletter.Canary{
		Rate: float64(flags.Rate), Wait: flags.Wait, Tolerated: deadletter.Tolerance(flags.MaxFailures), Do: do, Observe: p.observe,
		Before: func(ctx context.Context, batch []deadletter.Letter) error { return a.part(ctx, idsOf(batch)) },
	}
	if flags.NoCanary {
		c.Stages, c.Unwatched = []int{}, true
	}
	f.Limit = census.Count // what died since is not what was asked for
	tally, err := c.Run(ctx, m.js, deadletter.List(ctx, m.js, f))
	if ctx.Err() != nil {
		err = errInterrupted
	}
	p.end(tally)
	if err == nil && tally.Refused > 0 {
		err = fmt.Errorf("%s could not be %s: see above", letters(tally.Refused), done)
	}
	return map[string]int{
		done: tally.Redriven, "ended": tally.Done, "failed again": tally.Failed, "skipped": tally.Skipped, "refused": tally.Refused,
	}, deadError(err)
}

func idsOf(batch []deadletter.Letter) []string {
	ids := make([]string, len(batch))
	for i, l := range batch {
		ids[i] = l.ID
	}
	return ids
}

// rate is letters a second.
type rate float64

// UnmarshalText reads 50/s, 600/m, or 50.
func (r *rate) UnmarshalText(text []byte) error {
	number, unit, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseFloat(number, 64)
	switch unit {
	case "", "s":
	case "m", "min":
		n /= 60
	default:
		err = errors.New("unit")
	}
	if err != nil || !(n > 0 && n <= 1e6) {
		return fmt.Errorf("%q: want a rate such as 50/s or 600/m", text)
	}
	*r = rate(n)
	return nil
}

// tolerance is how many failures do not stop a canary.
type tolerance deadletter.Tolerance

// UnmarshalText reads 10 or 10%.
func (t *tolerance) UnmarshalText(text []byte) error {
	if share, ok := strings.CutSuffix(string(text), "%"); ok {
		n, err := strconv.ParseFloat(share, 64)
		if err != nil || !(n >= 0 && n <= 100) {
			return fmt.Errorf("%q: want a share from 0%% to 100%%", text)
		}
		*t = tolerance{Share: n / 100}
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q: want a number such as 5, or a share such as 10%%", text)
	}
	*t = tolerance{Number: n}
	return nil
}
