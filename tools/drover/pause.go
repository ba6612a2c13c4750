package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// share names what to pause or resume.
type share struct {
	Share string `arg:"" name:"share" placeholder:"CLASS|SERVICE|CLASS/SERVICE" help:"A class, a service, or one class of one service: bulk, email, bulk/email."`
}

type pauseCmd struct {
	share
	deed

	For   *time.Duration `placeholder:"DURATION" help:"For how long. The default is 1h."`
	Until string         `placeholder:"TIME" help:"Until when instead, as RFC 3339 has it."`
}

// Help is the long text of --help.
func (pauseCmd) Help() string {
	return `The broker hands out none of these tasks, retries included, until the end of the
pause, and then goes on by itself. Tasks go on being accepted, and wait. What runs
is not touched, and is settled as always; a task whose worker dies meanwhile waits
until the end. Pausing again replaces end and reason. "drover lanes" shows what is
paused, and the audit trail who did it.

Examples:

    drover pause webhook --for 30m --why 'the provider is down'
    drover pause bulk/email --until 2026-12-24T18:00:00Z
    drover pause bulk --why 'let the night run finish first'`
}

// Validate is called by kong.
func (c *pauseCmd) Validate() error {
	switch {
	case c.For != nil && c.Until != "":
		return errors.New("--for and --until: give one of them")
	case c.For != nil && *c.For <= 0:
		return fmt.Errorf("--for %v: want more than nothing", *c.For)
	}
	return nil
}

const usualPause = time.Hour

// end is until when the flags ask for it.
func (c *pauseCmd) end(now time.Time) (time.Time, error) {
	switch {
	case c.Until != "":
		until, err := time.Parse(time.RFC3339, c.Until)
		if err != nil || !until.After(now) {
			return until, fmt.Errorf("--until %q: want a time to come, such as %s", c.Until, now.Add(usualPause).Format(time.RFC3339))
		}
		return until, nil
	case c.For != nil:
		return now.Add(*c.For), nil
	}
	return now.Add(usualPause), nil
}

func (c *pauseCmd) Run(ctx context.Context, app *App) error {
	until, err := c.end(time.Now())
	if err != nil {
		return usage(err)
	}
	return c.with(ctx, app, func(ctx context.Context, js jetstream.JetStream, of []fleet.Durable) error {
		paused, err := fleet.Pause(ctx, js, of, fleet.Record{Until: until, Reason: c.Why, By: c.who()})
		for _, r := range paused {
			if app.JSON {
				err = errors.Join(err, app.encode(r))
				continue
			}
			app.printf("%s/%s is paused until %s\n", r.Class, r.Service, moment(r.Until))
		}
		if len(paused) > 0 && !app.JSON {
			app.printf("\nWhat runs goes on; a task whose worker dies waits. `drover resume %s` ends it.\n", c.Share)
		}
		return err
	})
}

type resumeCmd struct {
	share
	actor
}

// Help is the long text of --help.
func (resumeCmd) Help() string {
	return `Ends a pause before its time. What waits is handed out at once.

Examples:

    drover resume webhook
    drover resume bulk/email`
}

func (c *resumeCmd) Run(ctx context.Context, app *App) error {
	return c.with(ctx, app, func(ctx context.Context, js jetstream.JetStream, of []fleet.Durable) error {
		resumed, err := fleet.Resume(ctx, js, of, c.who())
		for _, r := range resumed {
			if app.JSON {
				err = errors.Join(err, app.encode(r))
				continue
			}
			app.printf("%s/%s goes on\n", r.Class, r.Service)
		}
		if len(resumed) == 0 && err == nil && !app.JSON {
			app.printf("nothing of %s was paused\n", c.Share)
		}
		return err
	})
}

// with calls f with the durables that the share names.
func (c share) with(ctx context.Context, app *App, f func(context.Context, jetstream.JetStream, []fleet.Durable) error) error {
	topology, err := app.fleet()
	if err != nil {
		return err
	}
	of, err := c.durables(app, topology)
	if err != nil {
		return usage(err)
	}
	err = app.talk(ctx, func(ctx context.Context, js jetstream.JetStream) error { return f(ctx, js, of) })
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return mark{err, errRefused}
	}
	return err
}

// durables are those of the class's stream and of RETRY, for each share that is meant.
func (c share) durables(app *App, f *streams.Fleet) ([]fleet.Durable, error) {
	first, second, both := strings.Cut(c.Share, "/")
	class, service := task.Class(first), second
	if !both {
		_, isClass := f.Class(task.Class(first))
		_, isService := f.Service(first)
		switch {
		case isClass && isService:
			return nil, fmt.Errorf("%s is a class and a service: say %s/%s for all services of the class, or %s/%s for all classes of the service",
				first, first, anything, anything, first)
		case isService:
			class, service = anything, first
		default:
			service = anything
		}
	}
	out := durablesOf(f, class, service)
	if out == nil {
		if both && durablesOf(f, task.Class(second), first) != nil {
			return nil, fmt.Errorf("%s: the class comes first: %s/%s", c.Share, second, first)
		}
		var classes []task.Class
		for _, class := range f.Classes {
			classes = append(classes, class.Name)
		}
		return nil, fmt.Errorf("%s: %s has the classes %s; and the services %s", c.Share, app.where(), list(classes), served(f))
	}
	return out, nil
}

const anything = "*"

func durablesOf(f *streams.Fleet, class task.Class, service string) (out []fleet.Durable) {
	for _, d := range f.Topology().Consumers {
		if (class == anything || d.Class == class) && (service == anything || d.Service == service) {
			out = append(out, fleet.Durable{Class: d.Class, Service: d.Service, Stream: d.Stream, Name: d.Config.Durable})
		}
	}
	return out
}

// pauses are the records of pauses, for explaining what lanes say.
type pauses struct {
	records []fleet.Record
	err     error          // why they could not be read
	alone   map[string]int // destinations that a service leaves alone; of lanes as text
	full    []capState     // resources that somebody waits for; of lanes as text
	limited map[string]int // keys whose tasks wait for their rate; of lanes as text
	ended   []ended        // isolated tasks that went over a limit; of lanes as text
}

// readPauses reads them when a lane is paused, which destinations are left alone and
// keys held back, and what became of isolated tasks.
func readPauses(ctx context.Context, app *App, js jetstream.JetStream, lanes []streams.Lane) pauses {
	ctx, cancel := app.limit(ctx)
	defer cancel()
	var p pauses
	if !app.JSON {
		p.alone, p.ended = leftAlone(ctx, js), endedAtLimits(ctx, js)
		p.full = fullCaps(ctx, js)
		p.limited = heldBack(ctx, js)
	}
	if slices.ContainsFunc(lanes, func(l streams.Lane) bool { return l.Paused }) {
		records, err := fleet.Records(ctx, js)
		p.records, p.err = records, patient(ctx, err)
	}
	return p
}

// of returns what explains the pause of a lane, with its end as the broker has it.
func (p pauses) of(l streams.Lane) fleet.Record {
	for _, r := range p.records {
		if r.Class == l.Class && r.Service == l.Service && r.Explains(l.PausedUntil) {
			return r
		}
	}
	return fleet.Record{Class: l.Class, Service: l.Service, Until: l.PausedUntil}
}

// note says of a paused lane until when, by whom and why.
func (p pauses) note(l streams.Lane) string {
	r := p.of(l)
	text := "paused until " + moment(r.Until)
	switch {
	case r.By != "":
		text += " by " + screen.Plain(r.By)
		if r.Reason != "" {
			text += ": " + screen.Plain(r.Reason)
		}
	case p.err != nil:
		text += "; why cannot be read: " + screen.Plain(p.err.Error())
	default:
		text += "; nobody has said why, it was not paused with `drover pause`"
	}
	if l.InFlight > 0 {
		text += fmt.Sprintf("; of %s in flight, one whose worker dies waits until then", screen.Some(l.InFlight, "task", "tasks"))
	}
	return text
}
