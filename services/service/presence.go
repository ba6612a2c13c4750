package service

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/worker"
)

// doing is what the fleet is told of a process: what its worker says.
type doing struct {
	mu     sync.Mutex
	status func() worker.Status // nil until there is a worker
}

func (d *doing) ask(f func() worker.Status) {
	d.mu.Lock()
	d.status = f
	d.mu.Unlock()
}

// fill adds what the worker does to p.
func (d *doing) fill(p *fleet.Process) {
	d.mu.Lock()
	status := d.status
	d.mu.Unlock()
	if status == nil {
		return
	}
	s := status()
	p.Pool, p.Settled, p.Draining = string(s.Pool), s.Settled, p.Draining || s.Draining
	for _, l := range s.Lanes {
		p.Lanes = append(p.Lanes, fleet.Lane(l))
	}
	for _, b := range s.Busy {
		p.Busy = append(p.Busy, fleet.Busy{Kind: b.Kind, Running: b.Running, Longest: b.Longest.Seconds()})
	}
	if c := fleet.Confined(s.Confinement); c != (fleet.Confined{}) {
		p.Confined = &c
	}
	for _, i := range s.Isolated {
		p.Isolated = append(p.Isolated, fleet.Isolated(i))
	}
}

// announce keeps this process in the list of the fleet until end is called, which
// waits until it is taken from the list.
func (p *process) announce(ctx context.Context, d *doing, instance string) (end func()) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	started := time.Now().UTC()
	self := func() fleet.Process {
		out := fleet.Process{
			Service: p.service.Name, Instance: instance, Version: Version(), Host: host, PID: os.Getpid(), Started: started,
			Draining: asked(ctx),
		}
		if err := p.health.Ready(); err != nil {
			out.NotReady = err.Error()
		}
		d.fill(&out)
		return out
	}
	listed, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a drain is to be seen too
	changed := make(chan struct{}, 1)                                // one is as good as many
	var wg sync.WaitGroup
	wg.Go(func() { watchHealth(listed, p.health, changed) })
	wg.Go(func() {
		err := fleet.Announce(listed, p.js, fleet.Announcement{Self: self, Changed: changed, Trouble: func(err error) {
			if err != nil {
				p.log.WarnContext(ctx, "`drover ps` does not show this process, which works on", slog.Any("error", err))
			} else {
				p.log.InfoContext(ctx, "`drover ps` shows this process again")
			}
		}})
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			p.log.WarnContext(ctx, "`drover ps` shows this process for up to half a minute more", slog.Any("error", err))
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// watchHealth has the entry renewed when it would say something else about
// readiness.
func watchHealth(ctx context.Context, h *health, changed chan<- struct{}) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	text := func() string {
		if err := h.Ready(); err != nil {
			return err.Error()
		}
		return ""
	}
	last := text()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if now := text(); now != last {
			last = now
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

const (
	healthEvery = time.Second
	handover    = 3 * time.Second  // for a fresh process to start in
	afterDrain  = 30 * time.Second // what a worker allows itself beyond its drain limit, and more
)

// turn is this process's turn to be recycled.
type turn struct {
	js                jetstream.JetStream
	service, instance string
	limit             time.Duration

	mu  sync.Mutex
	has *fleet.Turn // nil: it has not
}

func (t *turn) take(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.has != nil {
		return nil
	}
	var err error
	t.has, err = fleet.TakeTurn(ctx, t.js, t.service, t.instance, t.limit)
	return err
}

// giveBack passes the turn on once a fresh process has had time to start.
func (t *turn) giveBack(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.has == nil {
		return nil
	}
	return t.has.GiveBack(context.WithoutCancel(ctx), handover)
}
