package doctor

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/task"
)

// readBreakers sees of which services a breaker is not closed, when tasks wait for one.
func (s *snapshot) readBreakers(ctx context.Context, js jetstream.JetStream) {
	waits := false
	for _, t := range s.timers.tasks {
		waits = waits || t.Reason == task.Circuit
	}
	if !waits {
		return
	}
	ctx, done := s.asker.limit(ctx, askLimit, "$JS.API.CONSUMER.CREATE.KV_"+task.BreakersBucket)
	defer done()
	open := map[string]bool{}
	for e, err := range circuit.List(ctx, js, "") {
		if err != nil {
			return // then what its tasks say is all that is known
		}
		open[e.Service] = open[e.Service] || e.State != breaker.Closed
	}
	s.open = open
}
