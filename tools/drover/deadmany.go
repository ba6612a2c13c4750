package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// manyFlags are those of verbs that may do something to all letters that a filter
// lets through.
type manyFlags struct {
	All    bool `help:"All dead letters, where no filter is given."`
	Limit  *int `placeholder:"N" help:"At most this many, the oldest first."`
	DryRun bool `help:"Only show which letters it would be."`
	Yes    bool `short:"y" help:"Do not ask. Where nobody can be asked it has to be given."`
}

// check is about ids beside filters.
func (c manyFlags) check(ids []string, filter letterFilter) error {
	filters := filter.given()
	filtered := len(filters) > 0
	switch {
	case len(ids) > audit.MaxTargets:
		return fmt.Errorf("%d ids, at most %d are allowed: choose them with filters", len(ids), audit.MaxTargets)
	case c.All && len(ids) > 0:
		return errors.New("ids and --all: give one of them")
	case len(ids) > 0 && filtered:
		flags := make([]string, len(filters))
		for i, f := range filters {
			flags[i] = f.flag
		}
		choose := "choose"
		if len(flags) == 1 {
			choose = "chooses"
		}
		text := fmt.Sprintf("an id and %s, which %s letters: give one of them", strings.Join(flags, " "), choose)
		if filter.Reason != "" {
			text += "; why it is done is said with --why"
		}
		return errors.New(text)
	case len(ids) > 0 && c.Limit != nil:
		return errors.New("--limit is for letters that filters choose")
	case len(ids) == 0 && !filtered && !c.All:
		return errors.New("name dead letters by their ids, or choose them with filters, or all of them with --all")
	}
	if c.Limit != nil && *c.Limit < 1 {
		return fmt.Errorf("--limit %d: want 1 or more", *c.Limit)
	}
	return nil
}

// many is something to be done to all letters that a filter lets through.
type many struct {
	manyFlags

	filter deadletter.Filter
	entry  audit.Entry // its intent
	done   string      // what will have been done to them: "redriven"
	do     func(context.Context, *mover, *act, deadletter.Census) (map[string]int, error)
}

func (a *App) many(ctx context.Context, job many) error {
	if job.Limit != nil {
		job.filter.Limit = *job.Limit
	}
	js, disconnect, err := a.connect(ctx)
	if err != nil {
		return err
	}
	census, err := deadletter.Groups(ctx, js, job.filter)
	if err == nil && census.Count == 0 && job.filter.Fingerprint != "" {
		err = thereIs(ctx, js, job.filter.Fingerprint)
	}
	disconnect()
	if err != nil {
		return deadError(err)
	}
	switch {
	case census.Count == 0:
		_, _ = fmt.Fprintln(a.Stderr, "no dead letter matches")
		return nil
	case job.DryRun:
		if err := a.census(census, false, 0); err != nil || a.JSON {
			return err
		}
		a.printf("%s would be %s; nothing was done\n", letters(census.Count), job.done)
		return nil
	case !job.Yes:
		if err := a.ask(census, job.done); err != nil {
			return err
		}
	}
	return a.moving(ctx, func(ctx context.Context, m *mover) error {
		job.entry.Counts = map[string]int{intended: census.Count}
		act, err := beginAct(ctx, m.js, job.entry)
		if err != nil {
			return err
		}
		counts, err := job.do(ctx, m, act, census)
		if ctx.Err() != nil && !errors.Is(err, errInterrupted) {
			err = errInterrupted // whatever else that broke
		}
		return act.end(ctx, only(counts), err)
	})
}

// thereIs is an error when no letter is of a group: whoever names one means it.
func thereIs(ctx context.Context, js jetstream.JetStream, group string) error {
	census, err := deadletter.Groups(ctx, js, deadletter.Filter{Fingerprint: group, Limit: 1})
	if err == nil && census.Count == 0 {
		err = notFound(fmt.Errorf("group %s: no dead letter is of it: `drover dead` lists the groups", group))
	}
	return err
}

// ask asks the operator whether to go on. Where nobody can answer, the answer is no.
func (a *App) ask(c deadletter.Census, done string) error {
	in, ok := a.Stdin.(*os.File)
	if !ok || !screen.IsTerminal(in) {
		return usage(fmt.Errorf("%s would be %s, and nothing was done: repeat it with --yes", letters(c.Count), done))
	}
	if !a.JSON {
		if err := a.census(c, false, 10); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(a.Stderr, "%s will be %s. Go on? [y/N] ", total(c), done)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer == "y" || answer == "yes" {
		return nil
	}
	return errors.New("nothing was done")
}
