package doctor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/streams/backlog"
)

// laneState is one lane, looked at twice.
type laneState struct {
	want          streams.Consumer
	class         streams.Class
	first, second *jetstream.ConsumerInfo // nil when it could not be read
	err           error

	held    sample // the oldest that are handed out
	waiting sample // the oldest that were never handed out
}

// readLanes looks at every consumer, waits, looks again, and then at the tasks of
// those where there are any.
func (s *snapshot) readLanes(ctx context.Context, js jetstream.JetStream, interval time.Duration) {
	for _, c := range s.topology.Consumers {
		class, _ := s.fleet.Class(c.Class)
		s.lanes = append(s.lanes, &laneState{want: c, class: class})
	}
	look := func(to func(*laneState, *jetstream.ConsumerInfo)) {
		var wg sync.WaitGroup
		for _, l := range s.lanes {
			if l.err != nil {
				continue
			}
			wg.Go(func() {
				var info jetstream.ConsumerInfo
				if l.err = s.asker.api(ctx, "CONSUMER.INFO."+l.want.Stream+"."+l.want.Config.Durable, &info); l.err == nil {
					to(l, &info)
				}
			})
		}
		wg.Wait()
	}
	look(func(l *laneState, i *jetstream.ConsumerInfo) { l.first = i })
	again := time.NewTimer(interval)
	defer again.Stop()
	select {
	case <-again.C:
	case <-ctx.Done():
	}
	look(func(l *laneState, i *jetstream.ConsumerInfo) { l.second = i })
	var wg sync.WaitGroup
	for _, l := range s.lanes {
		if l.second == nil {
			continue
		}
		if l.second.NumAckPending > 0 {
			wg.Go(func() { l.held = s.heldBy(ctx, js, l) })
		}
		if l.depth() > 0 {
			wg.Go(func() {
				q := stored.Query{Stream: l.want.Stream, Subject: l.want.Config.FilterSubject, From: l.second.Delivered.Stream + 1, Limit: sampleOldest}
				l.waiting = s.read(ctx, js, q)
			})
		}
	}
	wg.Wait()
}

// heldBy samples what a lane has handed out: what is still there up to its last
// delivery.
func (s *snapshot) heldBy(ctx context.Context, js jetstream.JetStream, l *laneState) sample {
	out := s.read(ctx, js, stored.Query{Stream: l.want.Stream, Subject: l.want.Config.FilterSubject, Limit: sampleOldest})
	out.tasks = slices.DeleteFunc(out.tasks, func(t backlog.Task) bool { return t.Stored.Sequence > l.second.Delivered.Stream })
	out.total = uint64(l.second.NumAckPending)
	return out
}

// depth is how many tasks waited at both looks.
func (l *laneState) depth() uint64 {
	if l.second == nil {
		return 0
	}
	return min(l.first.NumPending, l.second.NumPending)
}

// moved is how many deliveries were made between the looks.
func (l *laneState) moved() uint64 {
	if l.second == nil {
		return 0
	}
	return slack(l.second.Delivered.Consumer, l.first.Delivered.Consumer)
}

// pulls are the open requests of workers, at the look that had more.
func (l *laneState) pulls() int {
	if l.second == nil {
		return 0
	}
	return max(l.first.NumWaiting, l.second.NumWaiting)
}

// wait is how long the first of those that wait has waited.
func (l *laneState) wait() time.Duration {
	if len(l.waiting.tasks) == 0 {
		return 0
	}
	return max(0, l.second.TimeStamp.Sub(l.waiting.tasks[0].Stored.Time))
}

// idle is how long ago the last delivery was, and false when there was none.
func (l *laneState) idle() (time.Duration, bool) {
	last := l.second.Delivered.Last
	if last == nil || last.IsZero() {
		return 0, false
	}
	return l.second.TimeStamp.Sub(*last), true
}

// late is how long tasks of a lane may wait before it is worth saying. Below a
// second the examination's own looks are too coarse.
func (l *laneState) late() time.Duration { return max(l.class.WaitObjective, time.Second) }

func (l *laneState) name() string   { return laneName(l.want) }
func (l *laneState) source() string { return "consumer " + l.want.Stream + "/" + l.want.Config.Durable }

func laneName(c streams.Consumer) string {
	if c.Retry {
		return string(c.Class) + "/" + c.Service + " retries"
	}
	return string(c.Class) + "/" + c.Service
}

// alive reports whether any worker of the service announces itself, or asks for
// tasks or gets some on whatever lane: a process whose slots of one class are all
// taken still asks for the others, and for retries.
func (s *snapshot) alive(service string) bool {
	return len(s.presence.of(service)) > 0 || slices.ContainsFunc(s.lanes, func(l *laneState) bool {
		return l.want.Service == service && (l.pulls() > 0 || l.moved() > 0)
	})
}
