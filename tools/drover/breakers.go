package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type breakersCmd struct {
	Ls    breakersLsCmd    `cmd:"" default:"withargs" help:"List the destinations that are left alone. This is what \"drover breakers\" does alone."`
	Open  breakersOpenCmd  `cmd:"" help:"Have a service leave a destination alone for a while."`
	Close breakersCloseCmd `cmd:"" help:"Have a service call a destination again at once."`
}

// Help is the long text of --help.
func (breakersCmd) Help() string {
	return `A destination that fails is left alone by all processes of a service: its breaker is
open. Its tasks wait on timers with reason "circuit" and burn no attempt; the others
flow. At the end of that time a few calls probe it, and close the breaker or open it
again.

Examples:

    drover breakers
    drover breakers open webhook hooks.example.com --for 30m --why 'they asked us'
    drover breakers close webhook hooks.example.com`
}

type breakersLsCmd struct {
	Service string `placeholder:"NAME" help:"Only those of this service."`
	All     bool   `help:"Also those that were closed within the last 10 minutes."`
}

// Help is the long text of --help.
func (breakersLsCmd) Help() string {
	return `A destination that works has no breaker in this list. STATE is one of these:

    open         no call goes through. Once its time is over, the process with the next
                 call probes; without a call it is forgotten 10 minutes later
    half-open    a process makes a few calls, which close it or open it again
    closed       all calls go through; listed for 10 minutes, with --all

LEFT is until it may be probed, or until another process may; due, when that time has
come. BY is the operator who opened or closed it; - is the fleet itself.

Examples:

    drover breakers ls
    drover breakers ls --service webhook --all --json`
}

func (c *breakersLsCmd) Run(ctx context.Context, app *App) error {
	var all []circuit.Entry
	err := talkOf(ctx, app, c.Service, func(ctx context.Context, js jetstream.JetStream) (err error) {
		for e, eerr := range circuit.List(ctx, js, c.Service) {
			switch {
			case eerr != nil: // one that cannot be read hides no other
				err = firstError(err, eerr)
			case c.All || e.State != breaker.Closed:
				all = append(all, e)
			}
		}
		return err
	})
	slices.SortFunc(all, func(a, b circuit.Entry) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Destination, b.Destination))
	})
	return listing(app, all, err, func() *screen.Table { return breakerTable(all, time.Now()) }, "no breaker is open",
		give{"WHY", 32}, give{"SINCE", 0}, give{"BY", 12}, give{"DESTINATION", 24}, give{"BY", 0}, give{"WHY", 12}, give{"DESTINATION", 12})
}

func breakerTable(all []circuit.Entry, now time.Time) *screen.Table {
	t := &screen.Table{Head: []string{"SERVICE", "DESTINATION", "STATE", ">LEFT", "SINCE", "BY", "WHY"}}
	for _, e := range all {
		left := "-"
		switch {
		case e.Claimable(now):
			left = "due"
		case e.Until.After(now):
			left = screen.Span(e.Until.Sub(now).Round(time.Second))
		}
		t.Add(screen.Plain(e.Service), screen.Cut(screen.Plain(e.Destination), destinationWidth), string(e.State), left,
			e.At.Local().Format(time.DateTime), cmp.Or(screen.Plain(e.By), "-"), screen.Cut(cmp.Or(headline(e.Reason), "-"), whyWidth))
	}
	return t
}

const (
	destinationWidth = 48
	whyWidth         = 80
)

// oneBreaker names a breaker, and who wants something of it.
type oneBreaker struct {
	deed

	Service     string `arg:"" placeholder:"SERVICE" help:"The service that calls it."`
	Destination string `arg:"" placeholder:"DESTINATION" help:"As the list has it; for webhook the host of the URL."`
}

type breakersOpenCmd struct {
	oneBreaker

	For time.Duration `default:"1h" placeholder:"DURATION" help:"For how long, up to 24h. The default is ${default}."`
}

// Help is the long text of --help.
func (breakersOpenCmd) Help() string {
	return `All processes of the service know it within a second. What is being called is not
touched. At the end the destination is probed, and closes by itself if it works. It
replaces what is there, also a longer time. The audit trail keeps who did it.

Examples:

    drover breakers open webhook hooks.example.com --for 30m --why 'they asked us'`
}

// Validate is called by kong.
func (c *breakersOpenCmd) Validate() error {
	if c.For < time.Second || c.For > circuit.MaxOpen {
		return fmt.Errorf("--for %v: want 1s to %v", c.For, circuit.MaxOpen)
	}
	return nil
}

func (c *breakersOpenCmd) Run(ctx context.Context, app *App) error {
	return c.act(ctx, app, circuit.Open, circuit.Order{For: c.For}, func(e circuit.Entry) string { return "is left alone until " + moment(e.Until) })
}

type breakersCloseCmd struct{ oneBreaker }

// Help is the long text of --help.
func (breakersCloseCmd) Help() string {
	return `Calls go through again at once, without probes. Tasks that wait already come back at
the times they were given, spread over a window. When the destination still fails,
the breaker opens again.

Examples:

    drover breakers close webhook hooks.example.com --why 'they are back'`
}

func (c *breakersCloseCmd) Run(ctx context.Context, app *App) error {
	return c.act(ctx, app, closeListed, circuit.Order{}, func(circuit.Entry) string { return "is called again" })
}

// closeListed closes a breaker that there is a record of. Without one calls go
// through already, and the name is most likely another.
func closeListed(ctx context.Context, js jetstream.JetStream, o circuit.Order) (circuit.Entry, error) {
	var names []string
	var unread error
	for e, err := range circuit.List(ctx, js, o.Service) {
		switch {
		case err != nil: // it may be the one
			unread = firstError(unread, err)
		case e.Destination == o.Destination:
			return circuit.Close(ctx, js, o)
		case e.State != breaker.Closed:
			names = append(names, screen.Plain(e.Destination))
		}
	}
	if unread != nil {
		return circuit.Entry{}, unread
	}
	return circuit.Entry{}, notFound(fmt.Errorf("%s has no breaker of %s: %s", o.Service, screen.Plain(o.Destination), openOnes(names)))
}

const breakersNamed = 5 // in an error; drover breakers lists all

func openOnes(names []string) string {
	slices.Sort(names)
	more := ""
	if n := len(names) - breakersNamed; n > 0 {
		names, more = names[:breakersNamed], fmt.Sprintf(" and %d more", n)
	}
	switch len(names) {
	case 0:
		return "none of its breakers is open"
	case 1:
		return "the one that is open is of " + names[0]
	}
	return "those that are open are of " + strings.Join(names, ", ") + more
}

func (c oneBreaker) act(
	ctx context.Context, app *App, do func(context.Context, jetstream.JetStream, circuit.Order) (circuit.Entry, error),
	o circuit.Order, told func(circuit.Entry) string,
) error {
	o.Service, o.Destination, o.Reason, o.By = c.Service, c.Destination, c.Why, c.As
	var e circuit.Entry
	err := talkOf(ctx, app, c.Service, func(ctx context.Context, js jetstream.JetStream) (err error) {
		e, err = do(ctx, js, o)
		return err
	})
	if err != nil {
		return err
	}
	if app.JSON {
		return app.encode(e)
	}
	app.printf("%s of %s %s\n", screen.Plain(e.Destination), e.Service, told(e))
	return nil
}

// talkOf is talk about a service, which the fleet must have; "" is any.
func talkOf(ctx context.Context, app *App, service string, f func(context.Context, jetstream.JetStream) error) error {
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	if _, ok := fleet.Service(service); !ok && service != "" {
		return usage(fmt.Errorf("%s: %s has the services %s", service, app.where(), served(fleet)))
	}
	return app.talk(ctx, f)
}

// leftAlone counts the destinations that each service leaves alone. It is a hint:
// what cannot be read is not counted, and `drover breakers ls` says why.
func leftAlone(ctx context.Context, js jetstream.JetStream) map[string]int {
	out := map[string]int{}
	for e, err := range circuit.List(ctx, js, "") {
		if err == nil && e.State != breaker.Closed {
			out[e.Service]++
		}
	}
	return out
}
