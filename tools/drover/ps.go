package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type psCmd struct {
	Service string `placeholder:"NAME" help:"Only processes of this service."`
}

// Help is the long text of --help.
func (psCmd) Help() string {
	return `Every process of the fleet says every 10 s that it is there and what it does. One
that is killed is listed for up to half a minute more. A worker that was not started
through services/service works unseen.

    INSTANCE     the start of its name in traces and metrics; --json has all of it
    UP           since it started
    RUNNING      tasks that run, of the slots that it has, live and for retries
    SETTLED      tasks that it brought to a verdict
    STATE        ready, draining, or not ready: below the table is why

Examples:

    drover ps
    drover ps --service email
    drover ps --json`
}

func (c *psCmd) Run(ctx context.Context, app *App) error {
	f, err := app.fleet()
	if err != nil {
		return err
	}
	if _, ok := f.Service(c.Service); c.Service != "" && !ok {
		return usage(fmt.Errorf("--service %s: %s has %s", c.Service, app.where(), served(f)))
	}
	var all []fleet.Process
	err = app.talk(ctx, func(ctx context.Context, js jetstream.JetStream) (err error) {
		for p, perr := range fleet.Processes(ctx, js, c.Service) {
			if perr != nil { // one that cannot be read hides no other
				err = firstError(err, perr)
				continue
			}
			all = append(all, p)
		}
		return err
	})
	slices.SortFunc(all, func(a, b fleet.Process) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Started.Compare(b.Started), cmp.Compare(a.Instance, b.Instance))
	})
	if app.JSON {
		for _, p := range all {
			if err := app.encode(p); err != nil {
				return err
			}
		}
		return err
	}
	names := withoutTasks()
	for _, s := range f.Services {
		names = append(names, s.Name)
	}
	var absent []string
	for _, name := range names {
		wanted := c.Service == "" || c.Service == name
		if wanted && !slices.ContainsFunc(all, func(p fleet.Process) bool { return p.Service == name }) {
			absent = append(absent, name)
		}
	}
	if err == nil || len(all) > 0 {
		app.processes(all, absent)
	}
	return err
}

// processes writes a table of processes, and what in it wants somebody.
func (a *App) processes(all []fleet.Process, absent []string) {
	style := screen.StyleOf(a.Stdout)
	var notes []string
	t := screen.Table{Head: []string{"SERVICE", "INSTANCE", "VERSION", "HOST", ">PID", ">UP", ">RUNNING", ">SETTLED", "STATE", "BUSY WITH"}}
	for _, p := range all {
		running, slots, leaked := 0, 0, 0
		for _, l := range p.Lanes {
			running, slots, leaked = running+l.Running, slots+l.Slots, leaked+l.Leaked
		}
		name := p.Service + " " + short(p.Instance)
		state := style.Good("ready")
		switch {
		case p.Draining:
			state = style.Busy("draining")
		case p.NotReady != "":
			state = style.Odd("not ready")
			notes = append(notes, name+" is not ready: "+screen.Cut(headline(p.NotReady), reasonWidth))
		}
		if leaked > 0 {
			notes = append(notes, fmt.Sprintf("%s has lost %s to handlers that ignore their cancelled context", name, screen.Some(leaked, "slot", "slots")))
		}
		t.Add(p.Service, short(p.Instance), screen.Cut(screen.Plain(p.Version), versionWidth), screen.Plain(p.Host), strconv.Itoa(p.PID),
			screen.Span(time.Since(p.Started)), fmt.Sprintf("%d/%d", running, slots), screen.Count(p.Settled), state, busyWith(p.Busy))
	}
	for _, s := range absent {
		notes = append(notes, fmt.Sprintf("no process of %s says that it is there: start one %s", s, howToStart(s)))
	}
	if len(all) > 0 {
		a.table(&t, give{"BUSY WITH", 28}, give{"VERSION", 10}, give{"HOST", 12}, give{"VERSION", 0}, give{"PID", 0}, give{"HOST", 0}, give{"SETTLED", 0},
			give{"BUSY WITH", 12}, give{"UP", 0})
		if notes != nil {
			a.lines("")
		}
	}
	if notes != nil {
		a.lines(a.wrapped(notes...)...)
	}
}

const (
	reasonWidth   = 300 // of why one is not ready: --json has all of it
	versionWidth  = 24  // a pseudo-version is longer, and says no more to people
	instanceWidth = 8
	mostKinds     = 3
)

func short(instance string) string {
	return screen.Plain(instance[:min(len(instance), instanceWidth)])
}

// busyWith is what runs most, and how long the first of each kind has.
func busyWith(busy []fleet.Busy) string {
	var parts []string
	for i, b := range busy {
		if i == mostKinds {
			parts = append(parts, fmt.Sprintf("%d kinds more", len(busy)-mostKinds))
			break
		}
		text := screen.Plain(b.Kind)
		if b.Running > 1 {
			text += " ×" + screen.Count(b.Running)
		}
		parts = append(parts, text+" "+screen.Span(time.Duration(b.Longest*float64(time.Second))))
	}
	if parts == nil {
		return "-"
	}
	return strings.Join(parts, ", ")
}
