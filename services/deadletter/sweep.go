package deadletter

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/streams"
)

const sweepLimit = 5 * time.Minute // of one sweep; what is left is for the next

// sweeper is what the leader looks for, and what it saw the last time.
type sweeper struct {
	*run

	seen    map[string]bound // by lane
	timer   uint64           // sequence in RETRY where the next look at timers begins
	suspect map[string]body  // bodies that nothing referred to at the last look
	named   int              // orphans, when the log said so last
}

// sweep looks for what nobody sees, until ctx is done.
func (r *run) sweep(ctx context.Context) {
	s := &sweeper{run: r, seen: map[string]bound{}}
	var bodies time.Time
	for ctx.Err() == nil {
		s.part(ctx, "strays", s.strays)
		s.part(ctx, "timers", s.timers)
		if time.Since(bodies) >= s.config.OrphanSweep {
			bodies = time.Now()
			s.part(ctx, "orphans", s.orphans)
		}
		sleep(ctx, s.config.Sweep)
	}
}

// part does one part of a sweep. What fails is done again at the next one.
func (s *sweeper) part(ctx context.Context, name string, f func(context.Context) error) {
	tctx, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	err := f(tctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("sweep for %s: %w", name, err)
		s.metrics.sweepFails.Add(ctx, 1, label("sweep", name))
	}
	if news := s.trouble.set("sweep for "+name, err); news && err != nil {
		s.log.WarnContext(ctx, "a sweep failed; it is tried again", slog.Any("error", err))
	}
}

// laneInfo is what the leader of a lane's consumer says.
func (s *sweeper) laneInfo(ctx context.Context, lane streams.Consumer) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	c, err := s.js.Consumer(ctx, lane.Stream, lane.Config.Durable)
	if err != nil {
		return nil, fmt.Errorf("read consumer %s/%s: %w", lane.Stream, lane.Config.Durable, err)
	}
	return c.CachedInfo(), nil
}
