package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type tasksCmd struct {
	Ls   tasksLsCmd   `cmd:"" default:"withargs" help:"List tasks, oldest first. This is what \"drover tasks\" does alone."`
	Show tasksShowCmd `cmd:"" help:"Find a task by its id, and show where it is and what it says."`
}

// Help is the long text of --help.
func (tasksCmd) Help() string {
	return `Tasks are read where they are stored, without taking or delaying any.

Examples:

    drover tasks
    drover tasks --class urgent
    drover tasks show order-17-mail`
}

type tasksLsCmd struct {
	Class   task.Class    `placeholder:"CLASS" help:"Only tasks of this class."`
	Service string        `placeholder:"NAME" help:"Only tasks of this service."`
	Kind    string        `placeholder:"KIND" help:"Only tasks of this kind, such as email.send."`
	Tenant  string        `placeholder:"NAME" help:"Only tasks of this tenant."`
	State   backlog.Place `placeholder:"STATE" help:"Only tasks in this state: waiting, held, due, retry or dead. Without it all but dead."`
	Limit   int           `default:"50" placeholder:"N" help:"At most this many. The default is 50."`
}

// Help is the long text of --help.
func (tasksLsCmd) Help() string {
	return `AGE is the time since a task was published. STATE says where it is:

    waiting    for a worker, never handed out
    held       handed out and not settled: a worker runs it or is about to, or has
               died with it. Which worker is not stored with a task
    due        for a worker, after a failed attempt
    retry      for its next attempt, on a timer; IN says how long
    dead       dead-lettered: see also "drover dead ls"

Of each stream the tasks that were stored first are looked at, and the list says how
many more there are.

Examples:

    drover tasks ls
    drover tasks ls --service webhook --state retry
    drover tasks ls --kind email.send --tenant acme --limit 500 --json`
}

// Validate is called by kong.
func (c *tasksLsCmd) Validate() error {
	if c.Limit < 1 {
		return fmt.Errorf("--limit %d: want 1 or more", c.Limit)
	}
	if c.State != "" && !slices.Contains(backlog.Places(), c.State) {
		return fmt.Errorf("--state %s: want one of %s", c.State, list(backlog.Places()))
	}
	return nil
}

// taskState are the keys of tasks ls --json, one object for each task.
type taskState struct {
	ID         string        `json:"id"`
	Kind       string        `json:"kind"`
	Class      task.Class    `json:"class"`
	Tenant     string        `json:"tenant,omitempty"`
	State      backlog.Place `json:"state"`
	Attempts   int           `json:"attempts"` // that failed
	Deaths     int           `json:"deaths"`
	Generation int           `json:"generation"`
	EnqueuedAt time.Time     `json:"enqueued_at"`
	StoredAt   time.Time     `json:"stored_at"` // where it is now
	DueAt      *time.Time    `json:"due_at,omitempty"`
	Deadline   *time.Time    `json:"deadline,omitempty"`
	Stream     string        `json:"stream"`
	Sequence   uint64        `json:"sequence"`
	Subject    string        `json:"subject"` // in the stream
	Size       int           `json:"size"`    // bytes of the body as stored
	Error      string        `json:"error,omitempty"`
	Trace      string        `json:"trace,omitempty"`
	Problem    string        `json:"problem,omitempty"`
}

func taskStateOf(t backlog.Task) taskState {
	out := taskState{
		ID: t.ID, Kind: t.Subject.Kind(), Class: t.Subject.Class, Tenant: t.Subject.Tenant, State: t.Place,
		Attempts: t.Attempt, Deaths: t.Deaths, Generation: t.Generation, EnqueuedAt: t.EnqueuedAt.UTC(), StoredAt: t.Stored.Time.UTC(),
		DueAt: instant(t.DueAt), Deadline: instant(t.Deadline), Stream: t.Stored.Stream, Sequence: t.Stored.Sequence, Subject: t.Stored.Subject,
		Size: len(t.Stored.Data), Error: t.LastError(), Trace: traceOf(t.Stored.Header),
	}
	if t.Problem != nil {
		out.Problem = t.Problem.Error()
	}
	return out
}

func (c *tasksLsCmd) Run(ctx context.Context, app *App) error {
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	var l backlog.Listing
	err = app.talk(ctx, func(ctx context.Context, js jetstream.JetStream) (err error) {
		l, err = backlog.List(ctx, js, fleet, backlog.Filter{
			Class: c.Class, Service: c.Service, Kind: c.Kind, Tenant: c.Tenant, Place: c.State, Limit: c.Limit,
		})
		return backlogError(err)
	})
	if err != nil && len(l.Tasks) == 0 {
		return err
	}
	if app.JSON {
		for _, t := range l.Tasks {
			if err := app.encode(taskStateOf(t)); err != nil {
				return err
			}
		}
	} else {
		app.listing(l)
	}
	return err
}

// listing writes tasks for people.
func (a *App) listing(l backlog.Listing) {
	if len(l.Tasks) == 0 {
		if l.Unsure {
			a.printf("no such task among those that were looked at; there are more\n")
			return
		}
		a.printf("no tasks\n")
		return
	}
	t := screen.Table{Head: []string{">AGE", "STATE", "KIND", "CLASS", "TENANT", ">ATTEMPTS", ">IN", ">SIZE", "ID", "ERROR"}}
	for _, x := range l.Tasks {
		in := ""
		if !x.DueAt.IsZero() {
			in = screen.Span(time.Until(x.DueAt))
		}
		t.Add(screen.Span(time.Since(x.EnqueuedAt)), string(x.Place), screen.Plain(x.Subject.Kind()), screen.Plain(string(x.Subject.Class)),
			x.Subject.Tenant, strconv.Itoa(x.Attempt), in, screen.Count(len(x.Stored.Data)), screen.Plain(x.ID), screen.Cut(headline(x.LastError()), errorWidth))
	}
	a.table(&t, give{"ERROR", 40}, give{"SIZE", 0}, give{"TENANT", 0}, give{"ATTEMPTS", 0}, give{"CLASS", 0}, give{"ERROR", 16}, give{"AGE", 0},
		give{"KIND", 10}, give{"IN", 0})
	text := screen.Some(len(l.Tasks), "task", "tasks")
	switch {
	case l.More > 0 && l.Unsure:
		text += fmt.Sprintf(", and %s more at least", screen.Count(l.More))
	case l.More > 0:
		text += fmt.Sprintf(", and %s more: --limit shows more of them", screen.Count(l.More))
	case l.Unsure:
		text += ", and there may be more: not all could be looked at"
	}
	a.note(text + "; `drover tasks show ID` shows one")
}

// backlogError gives errors about tasks their exit codes.
func backlogError(err error) error {
	switch {
	case errors.Is(err, backlog.ErrFilter):
		return usage(err)
	case errors.Is(err, backlog.ErrNoStream):
		return mark{err, errRefused}
	}
	return err
}
