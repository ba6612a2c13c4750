package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/task"
)

// Cap lets tasks of this kind use a resource, such as "db:main", only while no more
// than n tasks use it: over all kinds with a cap of that name, all processes and all
// services of the fleet. Where they name different numbers, the smallest holds as long
// as its process uses or wants the resource, and the others log that. A kind may have
// caps of several resources; a task then takes a permit of each, or of none.
//
// A task for which there is no permit waits on a timer of RETRY with reason "cap",
// burns no attempt, and comes back after 0.25 s to 30 s, spread over about the time
// that those before it take. Waiting has no end of its own: a deadline of the task
// ends it. Tasks do not queue for permits in the order of their publishing.
//
// Permits are leased by the process. When its lease cannot be renewed in time, for
// 18 s, its handlers of this kind are cancelled with [ErrPermitLost], and their tasks
// put off without burning an attempt. A permit is back when the handler returns, also
// when it was abandoned before; that of a process that died, one lease (20 s) after
// another has looked for it. While permits cannot be leased the worker is not ready, and
// says why. Package permit says more, and what is not promised.
func Cap(resource string, n int) HandlerOption {
	return handlerOption(func(k *kind) error {
		c := permit.Cap{Resource: resource, Permits: n}
		if k.capping == nil {
			k.capping = &capping{}
		}
		if slices.Contains(k.capping.resources, resource) {
			return fmt.Errorf("cap of %s: given twice", resource)
		}
		k.capping.caps = append(k.capping.caps, c)
		k.capping.resources = append(k.capping.resources, resource)
		return c.Validate()
	})
}

// capping is the caps of a kind.
type capping struct {
	caps      []permit.Cap
	resources []string // their names
}

// startPermits leases permits for this worker until end is called.
func (w *Worker) startPermits() (end func(), err error) {
	c := permit.Config{Service: w.service, Lease: w.capLease, Log: w.log, Meter: w.meter}
	for _, k := range w.kinds {
		if k.capping == nil {
			continue
		}
		for _, limit := range k.capping.caps {
			if !slices.Contains(c.Caps, limit) { // two numbers for one resource are a mistake
				c.Caps = append(c.Caps, limit)
			}
		}
	}
	if c.Caps == nil {
		return func() {}, nil
	}
	for _, l := range w.lanes {
		c.Most += l.slots
	}
	if w.permits, err = permit.New(w.js, c); err != nil {
		return nil, err
	}
	return beside(w.permits.Run), nil
}

// capped takes the permits that a task needs, and returns its handler, which gives
// them back however it ends.
func (l *lane) capped(d *delivery, h Handler) (Handler, verdict) {
	p, delay := l.w.permits.Take(d.run.kind.capping.resources, func() { l.losePermit(d) })
	if p == nil {
		return nil, verdict{outcome: again, reason: task.Cap, delay: delay}
	}
	d.run.permit = p
	return func(ctx context.Context, t *Task) error {
		defer p.Release() // here for a handler that ends its goroutine
		if p.Lost() {     // before it began
			return ErrPermitLost
		}
		return h(ctx, t)
	}, verdict{}
}

// losePermit cancels the handler of d.
func (l *lane) losePermit(d *delivery) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.phase == phaseRunning {
		d.endRun(now, ErrPermitLost)
	}
}

// permitLostDelay is how long a task is put off that lost its permit: the process
// that has the permit now uses it for a while.
func permitLostDelay() time.Duration { return time.Second + rand.N(5*time.Second) }
