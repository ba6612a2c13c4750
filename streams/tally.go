package streams

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
)

// found is how many messages of a stream match a filter, and when the first of
// them was stored.
type found struct {
	count uint64
	first time.Time // zero when count is 0
}

// tally counts the messages from sequence from on that match filter. It reads one,
// with which the broker says how many follow: two messages of answer, whatever the
// count, where stream info would list every subject, and RETRY has one per task.
// Any replica may answer, so the figures may be behind by what it has yet to catch
// up.
func tally(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64) (found, error) {
	for m, err := range stored.Read(ctx, js, stored.Query{Stream: stream, Subject: filter, From: from, Limit: 1}) {
		if err != nil {
			return found{}, fmt.Errorf("count %s: %w", filter, err)
		}
		return found{count: 1 + m.Rest, first: m.Time}, nil
	}
	return found{}, nil
}
