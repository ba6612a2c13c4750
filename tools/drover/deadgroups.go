package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadGroupsCmd struct {
	letterFilter

	Sort  string `enum:"count,last" default:"count" help:"What comes first: the most letters (count), or the latest death (last)."`
	Limit int    `default:"20" placeholder:"N" help:"At most this many groups; 0 for all. The default is 20."`
}

// Help is the long text of --help.
func (deadGroupsCmd) Help() string {
	return `Letters are one group when kind, class and reason are the same, and the last error
is too but for numbers, ids, addresses and quotations.

Examples:

    drover dead
    drover dead groups --since 2h --sort last
    drover dead groups --service email --limit 0 --json`
}

// Validate is called by kong.
func (c *deadGroupsCmd) Validate() error { return checkLimit(c.Limit) }

// group are the keys of dead groups --json, one object for each group.
type group struct {
	Group    string      `json:"group"` // its fingerprint
	Count    int         `json:"count"`
	Kind     string      `json:"kind"`
	Class    task.Class  `json:"class"`
	Reason   task.Reason `json:"reason"`
	First    time.Time   `json:"first"`
	Last     time.Time   `json:"last"`
	ID       string      `json:"id"` // of the letter that died last
	Sequence uint64      `json:"sequence"`
	Error    string      `json:"error,omitempty"` // its last one
	Text     string      `json:"text,omitempty"`  // what the errors have in common
}

func groupOf(g deadletter.Group) group {
	return group{
		Group: g.Fingerprint, Count: g.Count, Kind: g.Kind, Class: g.Class, Reason: g.Reason, First: g.First.UTC(), Last: g.Last.UTC(),
		ID: g.ID, Sequence: g.Sequence, Error: g.Error, Text: g.Text,
	}
}

func (c *deadGroupsCmd) Run(ctx context.Context, app *App) error {
	f, err := c.filter(time.Now())
	if err != nil {
		return usage(err)
	}
	js, done, err := app.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	census, err := deadletter.Groups(ctx, js, f)
	if err != nil {
		return deadError(err)
	}
	return app.census(census, c.Sort == "last", c.Limit)
}

// census writes groups, those with the most letters first or those that grew last.
func (a *App) census(c deadletter.Census, latest bool, limit int) error {
	slices.SortStableFunc(c.Groups, func(x, y deadletter.Group) int {
		if latest {
			return y.Last.Compare(x.Last)
		}
		return cmp.Or(cmp.Compare(y.Count, x.Count), y.Last.Compare(x.Last))
	})
	shown := c.Groups
	if limit > 0 {
		shown = shown[:min(limit, len(shown))]
	}
	if a.JSON {
		for _, g := range shown {
			if err := a.encode(groupOf(g)); err != nil {
				return err
			}
		}
		return nil
	}
	if c.Count == 0 {
		a.printf("no dead letters\n")
		return nil
	}
	t := screen.Table{Head: []string{"GROUP", ">COUNT", "KIND", "CLASS", "REASON", ">FIRST", ">LAST", "EXAMPLE", "ERROR"}}
	now := time.Now()
	for _, g := range shown {
		t.Add(g.Fingerprint, screen.Count(g.Count), g.Kind, string(g.Class), string(g.Reason), screen.Span(now.Sub(g.First)), screen.Span(now.Sub(g.Last)),
			screen.Plain(g.ID), screen.Cut(headline(g.Error), errorWidth))
	}
	seen := a.table(&t, give{"ERROR", 40}, give{"FIRST", 0}, give{"LAST", 0}, give{"EXAMPLE", 0}, give{"ERROR", 24}, give{"CLASS", 0},
		give{"ERROR", 16}, give{"KIND", 10})
	text := total(c)
	if n := len(c.Groups) - len(shown); n > 0 {
		text += fmt.Sprintf(", %s of them not shown: --limit 0 shows all", screen.Count(n))
	}
	if c.Rest > 0 {
		text += fmt.Sprintf("; %s in further groups, which are too many to tell apart", screen.Count(c.Rest))
	}
	if has(seen, "EXAMPLE") {
		text += "; `drover dead show EXAMPLE` tells the story of one"
	} else {
		text += "; `drover dead ls --group GROUP` lists those of one"
	}
	a.note(text)
	return nil
}

// total says how many letters a census counted, and in how many groups.
func total(c deadletter.Census) string {
	return fmt.Sprintf("%s in %s", letters(c.Count), screen.Some(len(c.Groups), "group", "groups"))
}
