package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/semaphore"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type capsCmd struct {
	Service string `placeholder:"NAME" help:"Only resources that this service uses."`
}

// Help is the long text of --help.
func (capsCmd) Help() string {
	return `A kind with a cap runs only while no more than so many tasks use a resource, over all
processes and services. The others wait on timers with reason "cap" and burn no attempt.

    HELD       permits that processes have leased; each uses its own, or gives them up
               within seconds
    CAP        of them there may be; the smallest number that any process was built with
    WANTED     that all of them have use for
    SILENT     processes that did not renew their lease; what they hold is free once
               somebody else has waited for it for as long as the lease
    BY         services, and how many processes of each

A resource that nobody uses is not shown.

Examples:

    drover caps
    drover caps --service webhook --json`
}

// capState is a resource as --json writes it.
type capState struct {
	Resource string      `json:"resource"`
	Held     int         `json:"held"`
	Cap      int         `json:"cap"`
	Wanted   int         `json:"wanted"`
	Silent   int         `json:"silent"` // processes
	Holders  []capHolder `json:"holders"`
	At       time.Time   `json:"at"` // when it was read
}

// capHolder is a process that uses it.
type capHolder struct {
	Process string    `json:"process"`
	Service string    `json:"service"`
	Cap     int       `json:"cap"` // that it was built with
	Held    int       `json:"held"`
	Wanted  int       `json:"wanted"`        // those that it holds included
	Lease   float64   `json:"lease_seconds"` // after at
	Silent  bool      `json:"silent"`        // it has not renewed its lease for twice as long
	At      time.Time `json:"at"`            // when it wrote, by its own clock
}

func (c *capsCmd) Run(ctx context.Context, app *App) error {
	var all []capState
	err := talkOf(ctx, app, c.Service, func(ctx context.Context, js jetstream.JetStream) (err error) {
		all, err = capsOf(ctx, js)
		return err
	})
	all = slices.DeleteFunc(all, func(s capState) bool {
		return c.Service != "" && !slices.ContainsFunc(s.Holders, func(h capHolder) bool { return h.Service == c.Service })
	})
	return listing(app, all, err, func() *screen.Table { return capTable(screen.StyleOf(app.Stdout), all) }, "no resource with a cap is in use",
		give{"BY", 24}, give{"RESOURCE", 24}, give{"SILENT", 0}, give{"BY", 10}, give{"RESOURCE", 12}, give{"WANTED", 0})
}

// capsOf reads the resources that are in use, by name. What cannot be read is the
// error, and hides no other.
func capsOf(ctx context.Context, js jetstream.JetStream) (all []capState, err error) {
	now := time.Now().UTC()
	for r, rerr := range permit.List(ctx, js) {
		switch {
		case rerr != nil:
			err = firstError(err, rerr)
		case len(r.Holders) > 0:
			all = append(all, capOf(r, now))
		}
	}
	slices.SortFunc(all, func(a, b capState) int { return cmp.Compare(a.Resource, b.Resource) })
	return all, err
}

func capOf(r semaphore.Record, now time.Time) capState {
	s := capState{Resource: r.Resource, Held: r.Held(), Cap: r.Cap(), At: now}
	for _, h := range r.Holders {
		silent := now.Sub(h.At) > 2*h.Lease // the clocks of two machines are compared, so it is given as much again
		s.Wanted += h.Wanted
		if silent {
			s.Silent++
		}
		s.Holders = append(s.Holders, capHolder{h.Process, h.Service, h.Cap, h.Held, h.Wanted, h.Lease.Seconds(), silent, h.At})
	}
	return s
}

// short are the services of which a process wants more than it has, when all is in use.
func (s capState) short() (names []string) {
	if s.Held < s.Cap {
		return nil
	}
	for _, h := range s.Holders {
		if h.Wanted > h.Held && !h.Silent {
			names = append(names, h.Service)
		}
	}
	return names
}

// fullCaps are the resources that somebody waits for. It is a hint: what cannot be
// read is left out, and `drover caps` says why.
func fullCaps(ctx context.Context, js jetstream.JetStream) (out []capState) {
	all, _ := capsOf(ctx, js)
	for _, s := range all {
		if len(s.short()) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func capTable(style screen.Style, all []capState) *screen.Table {
	t := &screen.Table{Head: []string{"RESOURCE", ">HELD", ">CAP", ">WANTED", ">SILENT", "BY"}}
	for _, s := range all {
		n := map[string]int{}
		for _, h := range s.Holders {
			n[h.Service]++
		}
		var by []string
		for service, processes := range n {
			by = append(by, fmt.Sprintf("%s ×%d", screen.Plain(service), processes))
		}
		slices.Sort(by)
		t.Add(screen.Cut(screen.Plain(s.Resource), destinationWidth), quiet(style, s.Held), screen.Count(s.Cap),
			quiet(style, s.Wanted), quiet(style, s.Silent), strings.Join(by, ", "))
	}
	return t
}
