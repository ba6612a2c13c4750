package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type lanesCmd struct {
	Service []string      `placeholder:"NAME" help:"Only the lanes of this service; may be repeated."`
	Class   []task.Class  `placeholder:"CLASS" help:"Only the lanes of this class; may be repeated."`
	Watch   bool          `short:"w" help:"Go on until interrupted."`
	Every   time.Duration `default:"1s" help:"How often to look, with --watch."`
}

// Help is the long text of --help.
func (lanesCmd) Help() string {
	return `A lane is one service's share of one class, or of the retries of that class.

    DEPTH        tasks that wait for a worker
    OLDEST       how long the first of them has waited
    IN FLIGHT    tasks that workers hold
    AGAIN        of those, how many were handed out more than once
    PULLS        requests of workers for more; 0 means that none is free, or none runs
    TIMERS       retries that are not yet due
    DEAD         dead letters of the service in the class

What is paused is named below the table, with its end, who paused it and why. A task
in flight whose worker dies during a pause waits until its end. So are the kinds whose
isolated tasks went over a limit, as the processes that run now have counted them.

Examples:

    drover lanes
    drover lanes --service email --class urgent --class default
    drover lanes --watch --every 5s
    drover lanes --json`
}

// laneState are the keys of lanes --json, one object for each lane.
type laneState struct {
	Class       task.Class `json:"class"`
	Service     string     `json:"service"`
	Lane        string     `json:"lane"`                // "live" or "retry"
	Depth       uint64     `json:"depth"`               // wait for a worker
	Oldest      float64    `json:"oldest_seconds"`      // since the first of them was stored; 0 for none
	InFlight    int        `json:"in_flight"`           // held by workers
	HeldOldest  float64    `json:"lane_oldest_seconds"` // of the first in the lane, waiting or held
	Redelivered int        `json:"redelivered"`         // of in_flight, handed out more than once
	Pulls       int        `json:"pulls"`               // open requests of workers
	Timers      uint64     `json:"timers"`              // in a retry lane: not yet due
	Dead        uint64     `json:"dead"`                // in a live lane: dead letters
	Paused      bool       `json:"paused"`
	PausedUntil time.Time  `json:"paused_until,omitzero"`
	PausedBy    string     `json:"paused_by,omitempty"`
	PauseReason string     `json:"pause_reason,omitempty"`
	At          time.Time  `json:"at"` // when it was read
}

const leastEvery = 10 * time.Millisecond // the broker has other work

// Validate is called by kong.
func (c *lanesCmd) Validate() error {
	if c.Every < leastEvery {
		return fmt.Errorf("--every %v: want %v or more", c.Every, leastEvery)
	}
	return nil
}

func (c *lanesCmd) Run(ctx context.Context, app *App) error {
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	if err := c.check(app, fleet); err != nil {
		return usage(err)
	}
	js, done, err := app.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	if !c.Watch {
		lanes, err := c.read(ctx, app, js, fleet)
		return firstError(c.show(app, fleet, lanes, readPauses(ctx, app, js, lanes)), err)
	}
	return c.watch(ctx, app, js, fleet)
}

func (c *lanesCmd) check(app *App, fleet *streams.Fleet) error {
	for _, s := range c.Service {
		if _, ok := fleet.Service(s); !ok {
			return fmt.Errorf("--service %s: %s has %s", s, app.where(), served(fleet))
		}
	}
	for _, name := range c.Class {
		if _, ok := fleet.Class(name); !ok {
			names := make([]task.Class, len(fleet.Classes))
			for i, class := range fleet.Classes {
				names[i] = class.Name
			}
			return fmt.Errorf("--class %s: %s has %s", name, app.where(), list(names))
		}
	}
	return nil
}

// read returns the lanes that the flags ask for. When some could not be read it
// returns the others with the error.
func (c *lanesCmd) read(ctx context.Context, app *App, js jetstream.JetStream, fleet *streams.Fleet) ([]streams.Lane, error) {
	ctx, cancel := app.limit(ctx)
	defer cancel()
	lanes, err := streams.Lanes(ctx, js, fleet)
	if len(lanes) == 0 && (errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound)) {
		return nil, mark{errors.New("read lanes: the broker has no lane of this fleet: make them with `drover streams apply`"), errRefused}
	}
	return slices.DeleteFunc(lanes, func(l streams.Lane) bool {
		return len(c.Service) > 0 && !slices.Contains(c.Service, l.Service) ||
			len(c.Class) > 0 && !slices.Contains(c.Class, l.Class)
	}), patient(ctx, err)
}

func (c *lanesCmd) watch(ctx context.Context, app *App, js jetstream.JetStream, fleet *streams.Fleet) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	write := func(lines []string) { app.lines(append(lines, "")...) }
	if f, ok := app.Stdout.(*os.File); ok && screen.IsTerminal(f) {
		live := screen.NewLive(f)
		defer live.Close()
		write = live.Paint
	}
	ticks := time.NewTicker(c.Every)
	defer ticks.Stop()
	for {
		lanes, err := c.read(ctx, app, js, fleet)
		if ctx.Err() != nil {
			return nil // it was watched for as long as somebody wanted to
		}
		held := readPauses(ctx, app, js, lanes)
		switch {
		case !app.JSON:
			lines := append([]string{time.Now().Format(time.TimeOnly) + "  every " + c.Every.String() + ", ctrl-C ends", ""}, c.lines(app, fleet, lanes, held)...)
			if err != nil {
				lines = append(lines, app.wrapped(strings.Split(err.Error(), "\n")...)...)
			}
			write(lines)
		case err != nil: // an election, a restart: look again
			_, _ = fmt.Fprintf(app.Stderr, "drover: %v\n", err)
		default:
			if err := encodeLanes(app, lanes, held); err != nil {
				return err
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *lanesCmd) show(app *App, fleet *streams.Fleet, lanes []streams.Lane, held pauses) error {
	if app.JSON {
		return encodeLanes(app, lanes, held)
	}
	if len(lanes) > 0 {
		app.lines(c.lines(app, fleet, lanes, held)...)
	}
	return nil
}

func encodeLanes(app *App, lanes []streams.Lane, held pauses) error {
	now := time.Now().UTC()
	for _, l := range lanes {
		if err := app.encode(stateOf(l, held, now)); err != nil {
			return err
		}
	}
	return nil
}

// lines is the table, and what in it wants somebody.
func (c *lanesCmd) lines(app *App, fleet *streams.Fleet, lanes []streams.Lane, held pauses) []string {
	style := screen.StyleOf(app.Stdout)
	t := screen.Table{Head: []string{"CLASS", "SERVICE", "LANE", ">DEPTH", ">OLDEST", ">IN FLIGHT", ">AGAIN", ">PULLS", ">TIMERS", ">DEAD"}}
	for _, l := range lanes {
		class, _ := fleet.Class(l.Class)
		oldest, timers, dead := screen.Span(l.WaitingAge), "", quiet(style, l.Dead)
		if late(class, l) {
			oldest = style.Odd(oldest)
		}
		if l.Dead > 0 {
			dead = style.Bad(dead)
		}
		if l.Retry {
			timers, dead = quiet(style, l.Waiting), ""
		}
		t.Add(string(l.Class), l.Service, laneName(l), quiet(style, l.Depth), oldest, quiet(style, l.InFlight),
			quiet(style, l.Redelivered), quiet(style, l.Pulls), timers, dead)
	}
	lines, _ := app.fit(&t, give{"AGAIN", 0}, give{"PULLS", 0}, give{"TIMERS", 0}, give{"OLDEST", 0})
	if n := notes(fleet, lanes, held); len(n) > 0 {
		lines = append(append(lines, ""), app.wrapped(n...)...)
	}
	return lines
}

// quiet is n, and dim when it is nothing.
func quiet[N ~int | ~uint64](style screen.Style, n N) string {
	if n == 0 {
		return style.Dim("0")
	}
	return screen.Count(n)
}

// late reports whether a live lane waits longer than its class is meant to.
func late(class streams.Class, l streams.Lane) bool {
	return !l.Retry && class.WaitObjective > 0 && l.WaitingAge > class.WaitObjective
}

func stateOf(l streams.Lane, held pauses, at time.Time) laneState {
	s := laneState{
		Class: l.Class, Service: l.Service, Lane: laneName(l),
		Depth: l.Depth, Oldest: l.WaitingAge.Seconds(), InFlight: l.InFlight, HeldOldest: l.OldestAge.Seconds(),
		Redelivered: l.Redelivered, Pulls: l.Pulls, Timers: l.Waiting, Dead: l.Dead, Paused: l.Paused, At: at,
	}
	if l.Paused {
		r := held.of(l)
		s.PausedUntil, s.PausedBy, s.PauseReason = r.Until, r.By, r.Reason
	}
	return s
}

func laneName(l streams.Lane) string {
	if l.Retry {
		return "retry"
	}
	return "live"
}

// notes say what in the table wants somebody, and what to do.
func notes(fleet *streams.Fleet, lanes []streams.Lane, held pauses) []string {
	var out []string
	say := func(l streams.Lane, format string, args ...any) {
		out = append(out, fmt.Sprintf("%s/%s %s: ", l.Class, l.Service, laneName(l))+fmt.Sprintf(format, args...))
	}
	dead := map[string]uint64{}
	for i, l := range lanes {
		class, _ := fleet.Class(l.Class)
		dead[l.Service] += l.Dead
		switch {
		case i > 0 && together(lanes[i-1], l): // its live lane has said so
		case i+1 < len(lanes) && together(l, lanes[i+1]):
			l.InFlight += lanes[i+1].InFlight
			out = append(out, fmt.Sprintf("%s/%s: %s", l.Class, l.Service, held.note(l)))
		case l.Paused:
			say(l, "%s", held.note(l))
		case l.Depth > 0 && l.Pulls == 0 && l.InFlight == 0:
			say(l, "nobody takes these tasks: start a worker %s", howToStart(l.Service))
		case late(class, l):
			say(l, "waits longer than the %v that class %s is for: start more workers", class.WaitObjective, l.Class)
		}
	}
	for _, s := range fleet.Services {
		shown := slices.ContainsFunc(lanes, func(l streams.Lane) bool { return l.Service == s.Name })
		if n := held.alone[s.Name]; n > 0 && shown {
			out = append(out, fmt.Sprintf("%s leaves %s alone: `drover breakers ls` shows it", s.Name, screen.Some(n, "destination", "destinations")))
		}
		for _, c := range held.full {
			if slices.Contains(c.short(), s.Name) && shown {
				out = append(out, fmt.Sprintf("%s waits for %s, of which %d of %d are in use: `drover caps` shows who uses it", s.Name, screen.Plain(c.Resource), c.Held, c.Cap))
			}
		}
		for _, e := range held.ended {
			if e.service == s.Name && shown {
				out = append(out, e.note())
			}
		}
		if n := held.limited[s.Name]; n > 0 && shown {
			out = append(out, fmt.Sprintf("%s holds back %s at the rate limit: `drover limits` shows it", s.Name, screen.Some(n, "key", "keys")))
		}
		if n := dead[s.Name]; n > 0 {
			out = append(out, fmt.Sprintf("%s of %s died: `drover dead ls --service %s`", screen.Some(n, "task", "tasks"), s.Name, s.Name))
		}
	}
	return out
}

// together reports whether two lanes are the live one and the retries of one
// share, in one pause.
func together(live, retries streams.Lane) bool {
	return live.Paused && retries.Paused && live.PausedUntil.Equal(retries.PausedUntil) &&
		!live.Retry && retries.Retry && live.Class == retries.Class && live.Service == retries.Service
}

// firstError returns the first of errs that is not nil.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
