package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadLsCmd struct {
	letterFilter

	Limit int `default:"100" placeholder:"N" help:"At most this many; 0 for all. The default is 100."`
}

// Help is the long text of --help.
func (deadLsCmd) Help() string {
	return `Examples:

    drover dead ls
    drover dead ls --kind 'email.*' --tenant acme --since 24h
    drover dead ls --group 3f9a0c17d2b4 --limit 0 --json`
}

// Validate is called by kong.
func (c *deadLsCmd) Validate() error { return checkLimit(c.Limit) }

func checkLimit(n int) error {
	if n < 0 {
		return fmt.Errorf("--limit %d: want 0 for all, or more", n)
	}
	return nil
}

const errorWidth = 100 // of the table's last column, when no screen limits it

func (c *deadLsCmd) Run(ctx context.Context, app *App) error {
	f, err := c.filter(time.Now())
	if err != nil {
		return usage(err)
	}
	if c.Limit > 0 {
		f.Limit = c.Limit + 1 // to know whether there are more
	}
	js, done, err := app.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	t := screen.Table{Head: []string{">SEQUENCE", ">AGE", "KIND", "CLASS", "REASON", ">ATTEMPTS", "ID", "ERROR"}}
	n, more := 0, false
	for l, err := range deadletter.List(ctx, js, f) {
		if err != nil {
			return deadError(err)
		}
		if more = c.Limit > 0 && n == c.Limit; more {
			break
		}
		n++
		if app.JSON {
			if err := app.encode(letterOf(l)); err != nil {
				return err
			}
			continue
		}
		t.Add(strconv.FormatUint(l.Sequence, 10), screen.Span(time.Since(l.DiedAt)), l.Subject.Kind(), string(l.Subject.Class),
			string(l.Reason), strconv.Itoa(l.Attempt), screen.Plain(l.ID), screen.Cut(headline(l.LastError()), errorWidth))
	}
	switch {
	case app.JSON:
	case n == 0:
		app.printf("no dead letters\n")
	default:
		seen := app.table(&t, give{"ERROR", 40}, give{"ATTEMPTS", 0}, give{"ID", 0}, give{"ERROR", 24}, give{"CLASS", 0}, give{"AGE", 0},
			give{"ERROR", 16}, give{"KIND", 10})
		text := letters(n)
		if more {
			text += ", and there are more: --limit 0 lists all"
		}
		name := "ID"
		if !has(seen, name) {
			name = "SEQUENCE"
		}
		app.note(text + "; `drover dead show " + name + "` tells the story of one")
	}
	return nil
}
