package worker

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/telemetry"
)

// question is an extension that was sent and not answered yet.
type question struct {
	d    *delivery
	sent time.Time
}

// keep extends the lease of everything the lane holds, ends what lost its lease
// or outstayed its time, and looks after the pulls, until the lane is done.
func (l *lane) keep() {
	tick := time.NewTicker(min(max(l.ackWait/12, 20*time.Millisecond), pullPause))
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
		now := time.Now()
		// The monotonic clock stands still while a machine is suspended; the
		// broker's does not.
		slept := now.Round(0).Sub(last.Round(0)) - now.Sub(last)
		last = now
		l.tend(now, slept)
	}
}

func (l *lane) tend(now time.Time, slept time.Duration) {
	var extend, abandon []*delivery
	l.mu.Lock()
	for d := l.held.first(); d != nil; d = l.held.after(d) {
		switch {
		case !l.lapse(d, now):
		case slept > l.ackWait/2:
			l.lose(d, now)
		case now.Sub(d.extended) >= l.extendAfter(d):
			extend = append(extend, d)
		}
		if d.phase != phaseRunning || now.Sub(d.limit) <= l.w.grace {
			continue
		}
		if d.ctx.end(ErrTimeLimit) { // this process stood still when its timer was due: its grace begins now
			d.limit = now
			continue
		}
		d.phase = phaseAbandoned
		abandon = append(abandon, d)
	}
	for reply, q := range l.asked {
		if now.Sub(q.sent) > l.ackWait {
			delete(l.asked, reply)
		}
	}
	l.checkPulls(now)
	if l.isServed() {
		l.served = now
	}
	away := now.Sub(l.served) > awayLimit
	next := l.want(now)
	marks := l.marks(now)
	l.mu.Unlock()
	l.request(next, now)
	if away {
		l.w.move(now)
	}
	for _, m := range marks {
		l.ask(m)
	}
	for _, d := range extend {
		l.extend(d, now)
	}
	for _, d := range abandon {
		l.abandon(d)
	}
}

// leaseTime is how long after its last confirmation a lease is good for: less
// than ack-wait, so that this process stops before the broker hands the task on.
func (l *lane) leaseTime() time.Duration { return l.ackWait - l.ackWait/10 }

// extendAfter is how long after the last question the next one is due. One that
// is not answered may have gone to a leader that is paused or cut off: the next
// has to reach whoever is elected while the lease is good. l.mu is held.
func (l *lane) extendAfter(d *delivery) time.Duration {
	if d.extended.After(d.confirmed) {
		return l.ackWait / 12
	}
	return l.ackWait / 3
}

// extend asks the broker for another ack-wait. Only its answer extends the lease
// here, from the time of the question.
func (l *lane) extend(d *delivery, now time.Time) {
	l.mu.Lock()
	l.serial++
	reply := l.inbox + ".lease." + strconv.FormatUint(l.serial, 10)
	l.asked[reply] = question{d, now}
	d.extended = now
	l.mu.Unlock()
	if err := l.w.nc.PublishRequest(d.msg.Reply, reply, []byte("+WPI")); err != nil {
		l.mu.Lock()
		delete(l.asked, reply)
		d.extended = d.confirmed // not connected: again at the next tick
		l.mu.Unlock()
	}
}

// extended takes the broker's answer to extend.
func (l *lane) extended(m *nats.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q, ok := l.asked[m.Subject]
	if !ok {
		return
	}
	delete(l.asked, m.Subject)
	if m.Header.Get("Status") == "503" { // nobody answered: the consumer has no leader
		q.d.extended = q.d.confirmed
		return
	}
	if q.sent.After(q.d.confirmed) {
		q.d.confirmed = q.sent
	}
}

// lose gives up a delivery whose lease ran out: another worker may have it, and
// an acknowledgement from here would settle that one's. l.mu is held.
func (l *lane) lose(d *delivery, now time.Time) {
	d.lost = true
	l.w.metrics.leaseLost(l)
	if d.phase == phaseRunning {
		d.endRun(now, ErrLeaseLost)
	}
}

// holds reports whether this process still holds d's lease.
func (l *lane) holds(d *delivery) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lapse(d, now)
}

// lapse gives up d if its lease ran out before now, and reports whether it is
// still good. l.mu is held.
func (l *lane) lapse(d *delivery, now time.Time) bool {
	if !d.lost && now.Sub(d.confirmed) >= l.leaseTime() {
		l.lose(d, now)
	}
	return !d.lost
}

// abandon settles an attempt whose handler ignores its cancelled context. The
// slot stays with the handler: it is leaked until the handler returns.
func (l *lane) abandon(d *delivery) {
	l.mu.Lock()
	d.slot.leaked = true
	l.leaked++
	l.load.leaked += int(d.weight)
	l.wake() // a heavy task may wait for nothing else
	l.alive--
	l.checkIdle()
	l.running--
	l.mu.Unlock()
	l.w.log.WarnContext(d.run.ctx, "handler ignores its cancelled context: its slot is lost until it returns",
		slog.String(telemetry.TaskKind, d.run.kind.name), slog.String(telemetry.TaskID, d.task.ID))
	l.w.leak(1)
	l.settles.Go(func() {
		cause := context.Cause(d.run.ctx)
		l.settle(d, d.run.verdict(l, d, &abandonedError{cause}))
	})
}

// abandonedError is the failure of an abandoned attempt.
type abandonedError struct{ cause error }

func (e *abandonedError) Error() string {
	return ErrAbandoned.Error() + ": " + e.cause.Error()
}
func (e *abandonedError) Unwrap() []error { return []error{ErrAbandoned, e.cause} }

// returned takes a slot back from a handler that was abandoned and has returned.
func (l *lane) returned(s *slot) {
	l.mu.Lock()
	s.leaked = false
	l.leaked--
	l.load.leaked -= s.weight
	l.alive++
	l.mu.Unlock()
	l.w.leak(-1)
}
