package doctor

import (
	"context"
	"errors"
	"fmt"
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

	parts []*laneState // of a fair class, a consumer each; none of any other
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
				l.waiting = s.readOf(ctx, js, l.want, l.second.Delivered.Stream+1)
			})
		}
	}
	wg.Wait()
	s.lanes = whole(s.lanes)
}

// readOf samples what a consumer takes, from a sequence on.
func (s *snapshot) readOf(ctx context.Context, js jetstream.JetStream, c streams.Consumer, from uint64) (out sample) {
	for _, filter := range c.Filters() {
		part := s.read(ctx, js, stored.Query{Stream: c.Stream, Subject: filter, From: from, Limit: sampleOldest})
		out.join(part)
		out.total += part.total
	}
	return out
}

// whole puts the consumers of a fair class together: workers take from them in turn,
// so what one of them says alone is not how the lane is.
func whole(lanes []*laneState) (out []*laneState) {
	for _, l := range lanes {
		last := len(out) - 1
		if last < 0 || laneName(out[last].want) != laneName(l.want) {
			out = append(out, l)
			continue
		}
		if out[last].parts == nil {
			sum := *out[last]
			sum.parts = []*laneState{out[last]}
			out[last] = &sum
		}
		out[last].add(l)
	}
	return out
}

// add counts one more consumer of a fair lane in. One that could not be read makes
// the lane one that could not.
func (l *laneState) add(p *laneState) {
	l.parts = append(l.parts, p)
	if l.second == nil || p.second == nil {
		l.err, l.second = errors.Join(l.err, p.err), nil
		return
	}
	l.first, l.second = sum(l.first, p.first), sum(l.second, p.second)
	l.held.join(p.held)
	l.held.total = uint64(l.second.NumAckPending)
	l.waiting.join(p.waiting)
	l.waiting.total += p.waiting.total
}

func sum(a, b *jetstream.ConsumerInfo) *jetstream.ConsumerInfo {
	out := *a
	out.NumPending += b.NumPending
	out.NumAckPending += b.NumAckPending
	out.NumRedelivered += b.NumRedelivered
	out.NumWaiting += b.NumWaiting
	out.Delivered.Consumer += b.Delivered.Consumer
	if last := b.Delivered.Last; last != nil && (out.Delivered.Last == nil || last.After(*out.Delivered.Last)) {
		out.Delivered.Last = last
	}
	if b.Paused && !out.Paused {
		out.Paused, out.PauseRemaining, out.Config.PauseUntil = true, b.PauseRemaining, b.Config.PauseUntil
	}
	return &out
}

// part is the first of its consumers of which ok is true, and nil when there is none.
func (l *laneState) part(ok func(*laneState) bool) *laneState {
	all := l.parts
	if all == nil {
		all = []*laneState{l}
	}
	if i := slices.IndexFunc(all, ok); i >= 0 {
		return all[i]
	}
	return nil
}

// heldBy samples what a lane has handed out: what is still there up to its last
// delivery.
func (s *snapshot) heldBy(ctx context.Context, js jetstream.JetStream, l *laneState) sample {
	out := s.readOf(ctx, js, l.want, 0)
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
	first := slices.MinFunc(l.waiting.tasks, func(a, b backlog.Task) int { return a.Stored.Time.Compare(b.Stored.Time) })
	return max(0, l.second.TimeStamp.Sub(first.Stored.Time))
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

func (l *laneState) name() string { return laneName(l.want) }
func (l *laneState) source() string {
	if n := len(l.parts); n > 0 {
		return fmt.Sprintf("%d consumers of %s, %s to %s", n, l.want.Stream, l.want.Config.Durable, l.parts[n-1].want.Config.Durable)
	}
	return "consumer " + l.want.Stream + "/" + l.want.Config.Durable
}

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
