package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type tasksShowCmd struct {
	ID    string     `arg:"" name:"id" help:"The task's id."`
	Class task.Class `placeholder:"CLASS" help:"Look only in this class."`
	Kind  string     `placeholder:"KIND" help:"Look only among tasks of this kind."`
	Scan  int        `default:"10000" placeholder:"N" help:"How many tasks of each class to look through. The default is 10000."`
}

// Help is the long text of --help.
func (tasksShowCmd) Help() string {
	return `Retries and dead letters are found by their id. Tasks that have not failed yet are not
kept by it: the oldest --scan of each class are looked through, and when the task is
not among them the answer says how many were not looked at. --class and --kind help.

Examples:

    drover tasks show order-17-mail
    drover tasks show order-17-mail --class bulk --kind email.send --scan 1000000
    drover tasks show order-17-mail --json`
}

// Validate is called by kong.
func (c *tasksShowCmd) Validate() error {
	if c.Scan < 1 {
		return fmt.Errorf("--scan %d: want 1 or more", c.Scan)
	}
	return nil
}

// taskStory are the keys of tasks show --json, one object for each task of that id.
type taskStory struct {
	taskState

	Headers  nats.Header    `json:"headers"`
	Failures []task.Failure `json:"failures"`

	arguments
}

func (c *tasksShowCmd) Run(ctx context.Context, app *App) error {
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	var stories []taskStory
	err = app.talk(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		found, searched, err := backlog.Find(ctx, js, fleet, c.ID, backlog.Where{Class: c.Class, Kind: c.Kind, Scan: c.Scan})
		for _, t := range found {
			stories = append(stories, taskStoryOf(ctx, js, t))
		}
		if len(found) == 0 && err == nil {
			return notFound(fmt.Errorf("task %s: not found; %s", c.ID, went(searched)))
		}
		return backlogError(err)
	})
	for i, s := range stories {
		if app.JSON {
			if err := app.encode(s); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			app.printf("\n")
		}
		app.tellTask(s)
	}
	return err
}

// went says how far a search went.
func went(searched []backlog.Searched) string {
	looked, left := uint64(0), []string{}
	for _, s := range searched {
		looked += s.Looked
		if s.Left > 0 {
			left = append(left, fmt.Sprintf("%s of %s", screen.Count(s.Left), s.Stream))
		}
	}
	text := fmt.Sprintf("RETRY and DEAD have none of that id, and it is not among the %s that were looked through", screen.Some(looked, "task", "tasks"))
	if len(left) > 0 {
		return text + "; not looked at: " + strings.Join(left, ", ") + ": raise --scan, or name --class and --kind"
	}
	return text + ", which are all there are: it is settled, or was never published"
}

func taskStoryOf(ctx context.Context, js jetstream.JetStream, t backlog.Task) taskStory {
	s := taskStory{taskState: taskStateOf(t), Headers: nats.Header{}, Failures: append([]task.Failure{}, t.Errors...)}
	maps.Copy(s.Headers, t.Stored.Header)
	content, err := t.Content(ctx, js)
	s.arguments = argumentsOf(content, err, t.Stored.Data)
	return s
}

// states say for people what the states mean.
var states = map[backlog.Place]string{
	backlog.Waiting: "waits for a worker",
	backlog.Held:    "was handed out and is not settled: a worker has it, or has died with it",
	backlog.Due:     "waits for a worker, for its next attempt",
	backlog.Timer:   "waits on a timer for its next attempt",
	backlog.Dead:    "is dead: `drover dead show` tells its story",
}

// tellTask writes a task for people.
func (a *App) tellTask(s taskStory) {
	row := func(name, format string, args ...any) {
		a.printf("%s%-11s  %s\n", indent, name, screen.Plain(fmt.Sprintf(format, args...)))
	}
	a.printf("%s %s\n\n", screen.Plain(s.Kind), screen.Plain(s.ID))
	row("state", "%s: it %s", s.State, states[s.State])
	if s.DueAt != nil {
		row("due", "%s, in %s", second(*s.DueAt), screen.Span(time.Until(*s.DueAt)))
	}
	row("class", "%s", s.Class)
	if s.Tenant != "" {
		row("tenant", "%s", s.Tenant)
	}
	row("published", "%s, %s ago", second(s.EnqueuedAt), screen.Span(time.Since(s.EnqueuedAt)))
	if s.Deadline != nil {
		row("deadline", "%s", second(*s.Deadline))
	}
	row("attempts", "%d failed, %s, generation %d", s.Attempts, screen.Some(s.Deaths, "death", "deaths"), s.Generation)
	row("stored", "%s %d, %s", s.Stream, s.Sequence, s.Subject)
	if s.Trace != "" {
		row("trace", "%s", s.Trace)
	}
	if s.Problem != "" {
		row("problem", "%s", s.Problem)
	}
	if len(s.Failures) > 0 {
		a.printf("\nFailures\n")
		for _, f := range s.Failures {
			text := strings.ReplaceAll(printable(f.Error), "\n", "\n"+indent+strings.Repeat(" ", len(millis))+"  ")
			a.printf("%s%s  attempt %d: %s\n", indent, f.At.Local().Format(millis), f.Attempt, text)
		}
	}
	a.printf("\nHeaders\n")
	if len(s.Headers) == 0 {
		a.printf("%snone\n", indent)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Headers)) {
		if k != task.HeaderErrors { // the failures above
			a.printf("%s%s: %s\n", indent, screen.Plain(k), screen.Plain(strings.Join(s.Headers[k], ", ")))
		}
	}
	a.printf("\nArguments\n")
	s.tellArguments(a)
}
