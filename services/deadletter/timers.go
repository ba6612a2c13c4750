package deadletter

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

const (
	timersPerSweep  = 5000 // looked at; the next sweep goes on behind them
	rearmedPerSweep = 500
)

// timers sets overdue timers in RETRY again. nats-server 2.15.2 forgets one whose
// firing it had to refuse once, for want of room, until its next restart; storing
// the timer again wakes it.
//
// The timer is replaced only if it is still the one that was read, so one that
// fires meanwhile is not brought back to life. Its time stays, which is over: it
// fires at once.
func (s *sweeper) timers(ctx context.Context) error {
	now := time.Now()
	var overdue []*stored.Message
	looked, last := 0, uint64(0)
	err := scan(ctx, s.js, task.RetryStream, timersFilter, s.timer, func(m *stored.Message) bool {
		looked++
		last = m.Sequence
		// One that was stored just now has not had the time to fire.
		if at, ok := due(m.Header); ok && now.Sub(at) > s.config.Overdue && now.Sub(m.Time) > s.config.Overdue {
			overdue = append(overdue, m)
		}
		return looked < timersPerSweep && len(overdue) < rearmedPerSweep
	})
	if err != nil {
		return err
	}
	s.timer = last + 1
	if looked < timersPerSweep && len(overdue) < rearmedPerSweep {
		s.timer = 1 // that was the end
	}
	rearmed := 0
	for _, m := range overdue {
		ok, err := s.rearm(ctx, m)
		if err != nil {
			return err
		}
		if ok {
			rearmed++
		}
	}
	if rearmed > 0 {
		s.metrics.rearmed.Add(ctx, int64(rearmed))
		s.log.WarnContext(ctx, "timers that the broker did not fire are set again: see whether its storage was full", slog.Int("timers", rearmed))
	}
	return nil
}

const timersFilter = "retry.wait.>"

// due is when a timer has to fire; not ok for anything but a timer that fires once.
func due(h nats.Header) (at time.Time, ok bool) {
	text, ok := strings.CutPrefix(h.Get(task.HeaderSchedule), "@at ")
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(text))
	return at, err == nil
}

// rearm stores a timer again if it is still there as it was read.
func (s *sweeper) rearm(ctx context.Context, m *stored.Message) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	h := maps.Clone(m.Header)
	maps.DeleteFunc(h, func(name string, _ []string) bool {
		// The broker knows the id, and would drop the timer as a duplicate.
		return name == task.HeaderMsgID || name == jetstream.MsgRollup || strings.HasPrefix(name, "Nats-Expected-")
	})
	_, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Header: h, Data: m.Data},
		jetstream.WithExpectStream(task.RetryStream), jetstream.WithExpectLastSequencePerSubject(m.Sequence))
	switch {
	case conflict(err):
		return false, nil // it has fired, or was replaced
	case err != nil:
		return false, fmt.Errorf("set the timer %s again: %w", m.Subject, err)
	}
	return true, nil
}
