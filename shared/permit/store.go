package permit

import (
	"context"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/semaphore"
	"github.com/droverhq/drover/shared/task"
)

const (
	prefix  = "cap."
	keepFor = time.Hour // a record after its last write: who holds permits writes sooner
)

func bucket(js jetstream.JetStream) record.Bucket { return record.In(js, task.LimitsBucket) }

func key(resource string) string { return record.Key(prefix, resource) }

// List returns the records of all resources that were used within the last hour.
// What cannot be read is an error in its place, and the rest follows. Processes that
// have died stand in it until somebody wants their permits. Its error wraps
// [record.ErrNoBucket] or [broker.ErrDenied].
func List(ctx context.Context, js jetstream.JetStream) iter.Seq2[semaphore.Record, error] {
	return func(yield func(semaphore.Record, error) bool) {
		for e, err := range record.List[semaphore.Record](ctx, bucket(js), prefix+"*") {
			if !yield(e.Value, err) {
				return
			}
		}
	}
}
