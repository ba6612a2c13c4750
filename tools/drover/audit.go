package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type auditCmd struct {
	Ls auditLsCmd `cmd:"" default:"withargs" help:"List who did what, and why. This is what \"drover audit\" does alone."`
}

// Help is the long text of --help.
func (auditCmd) Help() string {
	return `What operators do with this command to dead letters and lanes is kept in the stream
AUDIT: an intent before it, parts with ids while many letters are moved, and the
outcome. An act without an outcome was cut short, or is not over yet.

Examples:

    drover audit
    drover audit ls --since 24h
    drover audit ls --verb dead.discard --limit 0 --json`
}

type auditLsCmd struct {
	Verb  string `placeholder:"VERB" help:"Only acts of this verb, such as dead.redrive, or dead for all that begin so."`
	By    string `placeholder:"NAME" help:"Only what they did."`
	Act   string `placeholder:"ACT" help:"Only the entries of this act."`
	Since string `placeholder:"WHEN" help:"Only what was done since: a duration ago such as 2h, or a time as RFC 3339 has it."`
	Until string `placeholder:"WHEN" help:"Only what was done before that."`
	Limit int    `default:"100" placeholder:"N" help:"The latest so many entries; 0 for all. The default is 100."`
}

// Help is the long text of --help.
func (auditLsCmd) Help() string {
	return `Parts, which name every letter that an act touched, are shown with --act and --json.

Examples:

    drover audit ls
    drover audit ls --since 7d --verb dead --by ada@ops1`
}

// Validate is called by kong.
func (c *auditLsCmd) Validate() error { return checkLimit(c.Limit) }

func (c *auditLsCmd) Run(ctx context.Context, app *App) error {
	f := audit.Filter{Verb: c.Verb, By: c.By, Act: c.Act, Limit: c.Limit}
	now := time.Now()
	var err error
	if f.Since, err = when("--since", c.Since, now); err != nil {
		return usage(err)
	}
	if f.Until, err = when("--until", c.Until, now); err != nil {
		return usage(err)
	}
	if err := between(f.Since, f.Until); err != nil {
		return usage(err)
	}
	js, done, err := app.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	t := screen.Table{Head: []string{"TIME", "BY", "VERB", "PHASE", "WHAT", "RESULT", "WHY", "ACT"}}
	for e, err := range audit.List(ctx, js, f) {
		if err != nil {
			return auditError(err)
		}
		if app.JSON {
			if err := app.encode(e); err != nil {
				return err
			}
			continue
		}
		if e.Phase == audit.Part && c.Act == "" {
			continue // they only name what the intent is about
		}
		t.Add(second(e.Time), screen.Plain(e.By), screen.Plain(e.Verb), screen.Plain(string(e.Phase)), screen.Cut(what(e), whatWidth), screen.Cut(result(e), whatWidth), screen.Cut(screen.Plain(e.Reason), whatWidth), screen.Plain(e.Act))
	}
	switch {
	case app.JSON:
	case len(t.Rows) == 0:
		app.printf("nothing was done\n")
	default:
		app.table(&t, give{"WHAT", 32}, give{"RESULT", 32}, give{"ACT", 0}, give{"WHAT", 24}, give{"RESULT", 16}, give{"PHASE", 0}, give{"BY", 12},
			give{"WHY", 24}, give{"WHAT", 16}, give{"TIME", 0}, give{"WHY", 12}, give{"WHAT", 12}, give{"BY", 8})
	}
	return nil
}

const (
	idsShown  = 3
	whatWidth = 60
)

// what is what an act is about.
func what(e audit.Entry) string {
	var out []string
	if e.Filter != "" {
		out = append(out, e.Filter)
	}
	shown := e.Targets[:min(idsShown, len(e.Targets))]
	out = append(out, shown...)
	if n := len(e.Targets) - len(shown); n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return screen.Plain(strings.Join(out, " "))
}

const intended = "letters" // that an act is about; the other counts are what became of them

// result is what became of an act.
func result(e audit.Entry) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(e.Counts)) {
		if k == intended {
			out = append(out, screen.Some(e.Counts[k], "letter", intended))
			continue
		}
		out = append(out, screen.Count(e.Counts[k])+" "+k)
	}
	text := strings.Join(out, ", ")
	if e.Error != "" {
		text = strings.TrimPrefix(text+"; "+headline(e.Error), "; ")
	}
	return screen.Plain(text)
}
