package circuit

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

const keepFor = 10 * time.Minute // a closed record, so that a process that was away learns of it; and an open one beyond its end

func bucket(js jetstream.JetStream) record.Bucket { return record.In(js, task.BreakersBucket) }

func key(service, destination string) string { return record.Key(service+".", destination) }

// put writes r unless the sequence of what is there is another one than after, and
// returns its own.
func put(ctx context.Context, b record.Bucket, service string, r breaker.Record, after uint64) (uint64, error) {
	return b.Put(ctx, key(service, r.Destination), r, keepFor+max(0, time.Until(r.Until)), after)
}
