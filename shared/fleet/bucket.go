package fleet

import (
	"context"
	"errors"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// ErrTaken is returned by [TakeTurn] when another process has the turn.
var ErrTaken = errors.New("another process has the turn")

func bucket(js jetstream.JetStream) record.Bucket { return record.In(js, task.FleetBucket) }

// values yields what is under keys that match filter, in the order of writing. What
// cannot be read is an error in its place, and the rest follows.
func values[T any](ctx context.Context, js jetstream.JetStream, filter string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for e, err := range record.List[T](ctx, bucket(js), filter) {
			if !yield(e.Value, err) {
				return
			}
		}
	}
}
