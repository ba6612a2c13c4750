package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Lane is the state of one service's share of one class, or of the retries of
// that class. Of a fair class it is that of all partitions together.
type Lane struct {
	Class   task.Class
	Service string
	Retry   bool // of due retries

	Depth       uint64 // never delivered, and due
	InFlight    int    // delivered and not yet settled
	Redelivered int    // of InFlight, those delivered more than once
	Pulls       int    // requests of workers for more: 0 with Depth means that none is free, or none is there
	Paused      bool   // a consumer hands nothing out; a task whose holder dies waits as well

	PausedUntil time.Time // when the last one goes on by itself; zero unless Paused

	WaitingAge time.Duration // of the oldest in Depth, since it was stored; 0 when Depth is 0
	OldestAge  time.Duration // of the oldest in the lane, delivered or not; 0 when there is none

	Waiting uint64 // in a Retry lane: timers that are not yet due
	Dead    uint64 // in a live lane: dead letters of the service in the class
}

// Lanes returns the state of every lane of the fleet, the live lane of each class
// and service before the one of its retries. Depth to Paused are the word of the
// consumer's leader; ages and counts of RETRY and DEAD may come from a replica,
// and no two figures are from one instant. Lanes that could not be read are left
// out, and the error names them.
func Lanes(ctx context.Context, js jetstream.JetStream, fleet *Fleet) ([]Lane, error) {
	fleet, err := fleet.ready()
	if err != nil {
		return nil, fmt.Errorf("read lanes: %w", err)
	}
	lanes := byLane(fleet.Topology().Consumers)
	out := make([]Lane, len(lanes))
	errs := make([]error, len(lanes))
	var wg sync.WaitGroup
	for i, of := range lanes {
		wg.Go(func() { out[i], errs[i] = readLane(ctx, js, of) })
	}
	wg.Wait()
	read := out[:0]
	for i, l := range out {
		if errs[i] == nil {
			read = append(read, l)
		}
	}
	return read, errors.Join(errs...)
}

// byLane groups consumers by the lane that they are, or are part of.
func byLane(consumers []Consumer) (out [][]Consumer) {
	for i, c := range consumers {
		if i > 0 && c.Class == consumers[i-1].Class && c.Service == consumers[i-1].Service && c.Retry == consumers[i-1].Retry {
			out[len(out)-1] = append(out[len(out)-1], c)
			continue
		}
		out = append(out, []Consumer{c})
	}
	return out
}

// readLane sums up the consumers of one lane.
func readLane(ctx context.Context, js jetstream.JetStream, of []Consumer) (Lane, error) {
	l := Lane{Class: of[0].Class, Service: of[0].Service, Retry: of[0].Retry}
	parts := make([]Lane, len(of))
	errs := make([]error, len(of))
	var wg sync.WaitGroup
	for i, c := range of {
		wg.Go(func() { parts[i], errs[i] = readConsumer(ctx, js, c) })
	}
	other, stream, filter := &l.Dead, task.DeadStream, deadFilter(l.Class, l.Service)
	if l.Retry {
		other, stream, filter = &l.Waiting, task.RetryStream, waitFilter(l.Class, l.Service)
	}
	f, err := tally(ctx, js, stream, filter, 0)
	*other = f.count
	wg.Wait()
	for _, p := range parts {
		l.Depth, l.InFlight, l.Redelivered, l.Pulls = l.Depth+p.Depth, l.InFlight+p.InFlight, l.Redelivered+p.Redelivered, l.Pulls+p.Pulls
		l.WaitingAge, l.OldestAge = max(l.WaitingAge, p.WaitingAge), max(l.OldestAge, p.OldestAge)
		l.Paused = l.Paused || p.Paused
		if p.PausedUntil.After(l.PausedUntil) {
			l.PausedUntil = p.PausedUntil
		}
	}
	return l, errors.Join(append(errs, err)...)
}

// readConsumer is what one consumer says, and how old its tasks are.
func readConsumer(ctx context.Context, js jetstream.JetStream, c Consumer) (Lane, error) {
	consumer, err := js.Consumer(ctx, c.Stream, c.Config.Durable)
	if err != nil {
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			err = fmt.Errorf("%w: run `drover streams apply`", err)
		}
		return Lane{}, fmt.Errorf("read lane %s/%s: %w", c.Stream, c.Config.Durable, err)
	}
	info := consumer.CachedInfo()
	l := Lane{
		Depth: info.NumPending, InFlight: info.NumAckPending, Redelivered: info.NumRedelivered,
		Pulls: info.NumWaiting, Paused: info.Paused,
	}
	if l.Paused && info.Config.PauseUntil != nil {
		l.PausedUntil = info.Config.PauseUntil.UTC()
	}
	now := info.TimeStamp // by the broker's clock, as the times that messages were stored
	if now.IsZero() {
		now = time.Now()
	}
	for _, filter := range c.Filters() {
		all, err := tally(ctx, js, c.Stream, filter, 0)
		if err != nil {
			return Lane{}, err
		}
		l.OldestAge = max(l.OldestAge, all.age(now))
		if l.Depth == 0 {
			continue
		}
		// A consumer goes forward through its stream, so what it never delivered comes
		// after what it delivered last.
		rest, err := tally(ctx, js, c.Stream, filter, info.Delivered.Stream+1)
		if err != nil {
			return Lane{}, err
		}
		l.WaitingAge = max(l.WaitingAge, rest.age(now))
	}
	return l, nil
}

// age is how long before now the first was stored, and 0 when nothing was found.
func (f found) age(now time.Time) time.Duration {
	if f.first.IsZero() {
		return 0
	}
	return max(0, now.Sub(f.first))
}
