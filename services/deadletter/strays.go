package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

const straysPerLane = 100 // in one sweep

// bound says up to where a lane's consumer had no message in its hands.
type bound struct {
	created  time.Time // of the consumer: one that was made anew begins again
	sequence uint64
}

// strays finds tasks that the broker gave up on and whose advisory was lost: it
// is sent once, to whoever listens at that moment.
//
// A lane's stream keeps a task until it is acknowledged. So one that is still
// there and was delivered is either held by the consumer or given up. Up to the
// consumer's acknowledgement floor it holds none, and none at all that it
// delivered while nothing is unacknowledged. An acknowledged task leaves the
// stream a moment after it leaves the consumer's hands, so only what lay below the
// bound of the sweep before as well is a stray. That costs one request a lane,
// and one more for the oldest message, as long as there are none.
//
// The broker's floor can stay below a stray while the lane always has something
// unacknowledged; then it is found in the first sweep that sees the lane idle.
func (s *sweeper) strays(ctx context.Context) error {
	var errs []error
	for _, lane := range s.lanes {
		if err := s.straysOf(ctx, lane); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *sweeper) straysOf(ctx context.Context, lane streams.Consumer) error {
	info, err := s.laneInfo(ctx, lane)
	if err != nil {
		return err
	}
	id := lane.Stream + "/" + lane.Config.Durable
	before, now := s.seen[id], bound{created: info.Created, sequence: free(info)}
	s.seen[id] = now
	if !before.created.Equal(now.created) {
		return nil
	}
	limit := min(before.sequence, now.sequence) // it goes back when an operator resets the consumer
	var found []uint64
	for _, filter := range lane.Filters() {
		err = errors.Join(err, scan(ctx, s.js, lane.Stream, filter, 1, func(m *stored.Message) bool {
			if m.Sequence > limit || len(found) == straysPerLane {
				return false
			}
			found = append(found, m.Sequence)
			return true
		}))
	}
	var settledHere int
	for _, sequence := range found {
		deliveries := max(info.Config.MaxDeliver, 0)
		outcome, berr := s.bury(ctx, &death{
			lane: lane, sequence: sequence, deliveries: deliveries, reason: task.CrashLoop,
			text: fmt.Sprintf("the broker gave it up after %d deliveries that ended in no verdict, and nobody was told", deliveries),
		})
		if berr != nil {
			err = errors.Join(err, berr)
			break // what the broker refuses for one, it refuses for the next
		}
		if outcome != gone {
			settledHere++
		}
	}
	if settledHere > 0 {
		s.metrics.strays.Add(ctx, int64(settledHere))
		s.log.WarnContext(ctx, "tasks that the broker gave up on without a word are in DEAD now, unless they went on elsewhere",
			slog.String("lane", id), slog.Int("tasks", settledHere))
	}
	return err
}

// free is up to where the consumer has delivered everything and holds nothing.
func free(info *jetstream.ConsumerInfo) uint64 {
	if info.NumAckPending == 0 {
		return max(info.AckFloor.Stream, info.Delivered.Stream)
	}
	return info.AckFloor.Stream
}
