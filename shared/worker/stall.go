package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

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

// watch is the watchdog of one source of a lane: a worker that lives, answers probes and
// does not consume is the failure that nobody sees. When the lane has room and
// nothing has come for a while, it asks the broker whether something should
// have. If so it pulls anew, then subscribes anew, and then has the worker say
// that it is not ready, and why; it goes on trying. That takes less than 30 s. A
// lane that is busy, or idle with nothing to do, costs at most one question
// every 10 s. It returns when ctx is done.
func (s *source) watch(ctx context.Context) {
	tick := time.NewTicker(stallEvery)
	defer tick.Stop()
	st := stall{since: time.Now()}
	st.look = st.since.Add(stallAfter)
	for {
		select {
		case <-tick.C:
			s.checkStall(ctx, &st, time.Now())
		case <-ctx.Done():
			return
		}
	}
}

func (s *source) checkStall(ctx context.Context, st *stall, now time.Time) {
	l := s.lane
	l.mu.Lock()
	taken, room, leaked := s.taken, l.slots-l.leaked-l.held.n, l.leaked
	l.mu.Unlock()
	switch {
	case leaked >= l.slots && s == l.sources[0]: // which says it for all of them
		st.leaked = true
		s.stalled(ctx, st, fmt.Errorf("all %d slots are lost to handlers that ignore their cancelled context", l.slots))
		return
	case taken != st.taken || room <= 0 || st.leaked: // it flows, is full, or has a slot back
		st.taken, st.leaked = taken, false
		s.flows(ctx, st, now)
		return
	case now.Before(st.look):
		return
	}
	ask, cancel := context.WithTimeout(ctx, stallAsk)
	consumer, err := l.w.js.Consumer(ask, l.stream, s.durable)
	cancel()
	st.look = now.Add(stallAfter)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		st.look = now.Add(stallSoon)
		s.stalled(ctx, st, fmt.Errorf("%w in %s: make it with `drover streams apply`", ErrNotBound, l.stream))
	case err != nil: // no leader, no connection: what pulls says so, and this proves nothing
	default:
		s.judge(ctx, st, consumer.CachedInfo(), now)
	}
}

// judge says whether a task should have come, and does something about it.
func (s *source) judge(ctx context.Context, st *stall, info *jetstream.ConsumerInfo, now time.Time) {
	l, limit := s.lane, info.Config.MaxAckPending
	l.mu.Lock()
	unanswered := l.trouble[s.pulling] // although the broker has just answered
	l.mu.Unlock()
	switch {
	case unanswered == nil && (info.Paused || info.NumPending == 0):
		s.flows(ctx, st, now)
		return
	case unanswered == nil && limit > 0 && info.NumAckPending >= limit:
		st.look = now.Add(stallSoon)
		s.stalled(ctx, st, fmt.Errorf("%d tasks wait, but %d are handed out and not settled, which is all that the consumer allows: "+
			"look for workers that hold tasks with `drover ps`, or give the service more processes in the fleet file and run `drover streams apply`",
			info.NumPending, info.NumAckPending))
		return
	}
	st.tried++
	st.look = now.Add(stallSoon)
	silence := now.Sub(st.since).Round(time.Second)
	switch st.tried {
	case 1:
		l.w.log.LogAttrs(ctx, slog.LevelDebug, "tasks should arrive and do not: pulling anew", s.about(slog.String("silent_for", silence.String()))...)
		s.pullAnew()
	case 2:
		l.w.log.LogAttrs(ctx, slog.LevelWarn, "tasks should arrive and do not: subscribing anew", s.about(slog.String("silent_for", silence.String()))...)
		s.rebind(ctx)
	default:
		if unanswered == nil {
			s.stalled(ctx, st, fmt.Errorf("%d tasks wait and none has arrived for %v, although it pulls and has subscribed anew: "+
				"restart the process, and look at the broker's log", info.NumPending, silence))
		} // else it is reported as trouble with pulling
		s.rebind(ctx)
		st.look = now.Add(stallAfter)
	}
	l.pull(time.Now())
}

// flows notes that nothing is missing.
func (s *source) flows(ctx context.Context, st *stall, now time.Time) {
	if l := s.lane; st.silent {
		st.silent = false
		l.report(s.consuming, nil)
		l.w.log.LogAttrs(ctx, slog.LevelInfo, "the lane takes tasks again", s.about(slog.String("after", now.Sub(st.since).Round(time.Second).String()))...)
	}
	st.since, st.look, st.tried = now, now.Add(stallAfter), 0
}

// stalled has the worker say that it is not ready.
func (s *source) stalled(ctx context.Context, st *stall, why error) {
	l := s.lane
	l.report(s.consuming, why)
	if !st.silent {
		st.silent = true
		l.w.log.LogAttrs(ctx, slog.LevelWarn, "the lane takes no tasks", s.about(slog.Any("error", why))...)
	}
}

// about names the lane in a log line.
func (s *source) about(more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{
		slog.String("consumer", s.durable),
		slog.String(telemetry.TaskClass, string(s.lane.class.Name)),
		slog.String(telemetry.TaskLane, string(s.lane.kind)),
	}, more...)
}

// pullAnew forgets the pulls that are outstanding. What they bring all the same
// is taken.
func (s *source) pullAnew() {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	for i := range s.pulls {
		s.pulls[i].left = 0
	}
}

// rebind subscribes anew for what the pulls bring. Nothing is lost or comes twice
// in between: the old subscription hands on what it has, and the broker hears of
// its end before it hears of the new one.
func (s *source) rebind(ctx context.Context) {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	for i := range s.pulls {
		p := &s.pulls[i]
		_ = p.sub.Drain()                     // dead already: then there is nothing to hand on
		if err := p.subscribe(); err != nil { // the connection is closed, which ends the process
			s.lane.w.log.LogAttrs(ctx, slog.LevelError, "cannot subscribe for tasks", s.about(slog.Any("error", err))...)
			continue
		}
		p.left = 0
	}
}
