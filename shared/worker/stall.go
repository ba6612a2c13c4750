package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/telemetry"
)

const (
	stallEvery = time.Second      // between two looks at what arrived, which cost the broker nothing
	stallAfter = 10 * time.Second // without a task until the broker is asked why, and between two such questions
	stallSoon  = 3 * time.Second  // after a measure until its effect is looked at: longer than a pull that nobody answers
	stallAsk   = 4 * time.Second  // for the broker to say how the consumer is
)

const consuming = "take tasks" // in trouble

// stall is what the watchdog of one lane remembers. Only its goroutine uses it.
type stall struct {
	taken  int64     // deliveries that had come when it was last looked at
	since  time.Time // when that changed, or when there was reason not to expect any
	look   time.Time // when to ask the broker next
	tried  int       // measures since then
	silent bool      // the lane is reported
	leaked bool      // because all its slots are lost
}

// watch is the watchdog of the lane: a worker that lives, answers probes and
// does not consume is the failure that nobody sees. When the lane has room and
// nothing has come for a while, it asks the broker whether something should
// have. If so it pulls anew, then subscribes anew, and then has the worker say
// that it is not ready, and why; it goes on trying. That takes less than 30 s. A
// lane that is busy, or idle with nothing to do, costs at most one question
// every 10 s. It returns when ctx is done.
func (l *lane) watch(ctx context.Context) {
	tick := time.NewTicker(stallEvery)
	defer tick.Stop()
	s := stall{since: time.Now()}
	s.look = s.since.Add(stallAfter)
	for {
		select {
		case <-tick.C:
			l.checkStall(ctx, &s, time.Now())
		case <-ctx.Done():
			return
		}
	}
}

func (l *lane) checkStall(ctx context.Context, s *stall, now time.Time) {
	l.mu.Lock()
	taken, room, leaked := l.ended()+int64(l.held.n), l.slots-l.leaked-l.held.n, l.leaked
	l.mu.Unlock()
	switch {
	case leaked >= l.slots:
		s.leaked = true
		l.stalled(ctx, s, fmt.Errorf("all %d slots are lost to handlers that ignore their cancelled context", l.slots))
		return
	case taken != s.taken || room <= 0 || s.leaked: // it flows, is full, or has a slot back
		s.taken, s.leaked = taken, false
		l.flows(ctx, s, now)
		return
	case now.Before(s.look):
		return
	}
	ask, cancel := context.WithTimeout(ctx, stallAsk)
	consumer, err := l.w.js.Consumer(ask, l.stream, l.durable)
	cancel()
	s.look = now.Add(stallAfter)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		s.look = now.Add(stallSoon)
		l.stalled(ctx, s, fmt.Errorf("%w in %s: make it with `drover streams apply`", ErrNotBound, l.stream))
	case err != nil: // no leader, no connection: what pulls says so, and this proves nothing
	default:
		l.judge(ctx, s, consumer.CachedInfo(), now)
	}
}

// judge says whether a task should have come, and does something about it.
func (l *lane) judge(ctx context.Context, s *stall, info *jetstream.ConsumerInfo, now time.Time) {
	limit := info.Config.MaxAckPending
	l.mu.Lock()
	unanswered := l.trouble[pulling] // although the broker has just answered
	l.mu.Unlock()
	switch {
	case unanswered == nil && (info.Paused || info.NumPending == 0):
		l.flows(ctx, s, now)
		return
	case unanswered == nil && limit > 0 && info.NumAckPending >= limit:
		s.look = now.Add(stallSoon)
		l.stalled(ctx, s, fmt.Errorf("%d tasks wait, but %d are handed out and not settled, which is all that the consumer allows: "+
			"look for workers that hold tasks with `drover ps`, or give the service more processes in the fleet file and run `drover streams apply`",
			info.NumPending, info.NumAckPending))
		return
	}
	s.tried++
	s.look = now.Add(stallSoon)
	silence := now.Sub(s.since).Round(time.Second)
	switch s.tried {
	case 1:
		l.w.log.LogAttrs(ctx, slog.LevelDebug, "tasks should arrive and do not: pulling anew", l.about(slog.String("silent_for", silence.String()))...)
		l.pullAnew()
	case 2:
		l.w.log.LogAttrs(ctx, slog.LevelWarn, "tasks should arrive and do not: subscribing anew", l.about(slog.String("silent_for", silence.String()))...)
		l.rebind(ctx)
	default:
		if unanswered == nil {
			l.stalled(ctx, s, fmt.Errorf("%d tasks wait and none has arrived for %v, although it pulls and has subscribed anew: "+
				"restart the process, and look at the broker's log", info.NumPending, silence))
		} // else it is reported as trouble with pulling
		l.rebind(ctx)
		s.look = now.Add(stallAfter)
	}
	l.pull(time.Now())
}

// flows notes that nothing is missing.
func (l *lane) flows(ctx context.Context, s *stall, now time.Time) {
	if s.silent {
		s.silent = false
		l.report(consuming, nil)
		l.w.log.LogAttrs(ctx, slog.LevelInfo, "the lane takes tasks again", l.about(slog.String("after", now.Sub(s.since).Round(time.Second).String()))...)
	}
	s.since, s.look, s.tried = now, now.Add(stallAfter), 0
}

// stalled has the worker say that it is not ready.
func (l *lane) stalled(ctx context.Context, s *stall, why error) {
	l.report(consuming, why)
	if !s.silent {
		s.silent = true
		l.w.log.LogAttrs(ctx, slog.LevelWarn, "the lane takes no tasks", l.about(slog.Any("error", why))...)
	}
}

// about names the lane in a log line.
func (l *lane) about(more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{
		slog.String("consumer", l.durable),
		slog.String(telemetry.TaskClass, string(l.class.Name)),
		slog.String(telemetry.TaskLane, string(l.kind)),
	}, more...)
}

// pullAnew forgets the pulls that are outstanding. What they bring all the same
// is taken.
func (l *lane) pullAnew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.pulls {
		l.pulls[i].left = 0
	}
}

// rebind subscribes anew for what the pulls bring. Nothing is lost or comes twice
// in between: the old subscription hands on what it has, and the broker hears of
// its end before it hears of the new one.
func (l *lane) rebind(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.pulls {
		p := &l.pulls[i]
		_ = p.sub.Drain() // dead already: then there is nothing to hand on
		sub, err := l.w.nc.Subscribe(p.inbox+"*", func(m *nats.Msg) { l.arrive(p, m) })
		if err == nil {
			err = sub.SetPendingLimits(-1, -1)
		}
		if err != nil { // the connection is closed, which ends the process
			l.w.log.LogAttrs(ctx, slog.LevelError, "cannot subscribe for tasks", l.about(slog.Any("error", err))...)
			continue
		}
		p.sub, p.left = sub, 0
	}
}
