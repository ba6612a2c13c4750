package deadletter

import (
	"context"
	"log/slog"
	"time"
)

const (
	tellFirst = time.Second // after an alert that did not arrive
	tellMost  = time.Minute
	tellLast  = 5 * time.Second // for an alert that is on its way when the service has to end
)

// tell tells one channel what it does not know, until ctx is done: a new kind of
// death once its deaths were counted for a moment, a known one with more deaths
// once in an interval. A channel that fails is tried again, later each time, for
// as long as there is something to tell; the others do not wait for it. What is
// to be told is read from the groups each time, so there is no queue that grows.
func (a *alerter) tell(ctx context.Context, c channel) {
	tick := max(min(a.config.Gather/5, time.Second), 10*time.Millisecond)
	wait, failing := tellFirst, false
	for sleep(ctx, tick) {
		g, alert := a.due(c.name(), time.Now())
		if g == nil {
			continue
		}
		err := a.send(ctx, c, alert)
		if err == nil {
			a.wasTold(g, c.name(), alert)
			a.metrics.sent.Add(ctx, 1, label("channel", c.name()))
			if failing {
				a.log.InfoContext(ctx, "alerts arrive again", slog.String("channel", c.name()))
			}
			wait, failing = tellFirst, false
			continue
		}
		a.metrics.failed.Add(ctx, 1, label("channel", c.name()))
		if !failing {
			a.log.WarnContext(ctx, "an alert did not arrive; it is tried again until it does", slog.String("channel", c.name()), slog.Any("error", err))
		}
		failing = true
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, tellMost)
	}
}

// send gives an alert that is on its way a moment to arrive when the service has
// to end: one that was given up half-way would come twice.
func (a *alerter) send(ctx context.Context, c channel, alert *Alert) error {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		sleep(sending, tellLast)
		cancel()
	})
	defer stop()
	return c.send(sending, alert)
}

// due returns the group that the channel has to be told of first, and what to say;
// nil when there is none.
func (a *alerter) due(channel string, now time.Time) (*group, *Alert) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var first *group
	for _, g := range a.groups {
		t := g.Told[channel]
		switch {
		case g.Count <= t.Count:
			continue
		case t.At.IsZero() && now.Sub(g.seen) < a.config.Gather:
			continue
		case !t.At.IsZero() && now.Sub(t.At) < a.config.Interval:
			continue
		}
		if first == nil || g.First.Before(first.First) {
			first = g
		}
	}
	if first == nil {
		return nil, nil
	}
	return first, first.alert(first.Told[channel])
}

func (a *alerter) wasTold(g *group, channel string, alert *Alert) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.Told == nil {
		g.Told = map[string]told{}
	}
	g.Told[channel] = told{At: time.Now(), Count: alert.Count}
	g.dirty = true
}
