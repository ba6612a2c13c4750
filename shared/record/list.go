package record

import (
	"context"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
)

// Entry is a record as it stands in a bucket.
type Entry[T any] struct {
	Key     string
	Value   T
	Written time.Time // by the broker's clock
}

// List yields the records whose keys match a filter, in the order of writing. What
// cannot be read is an error in its place, and the rest follows; an error without a
// key is the last.
func List[T any](ctx context.Context, b Bucket, filter string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := b.Watch(ctx, filter, jetstream.IgnoreDeletes())
		if err != nil {
			yield(Entry[T]{}, err)
			return
		}
		for e, err := range stored.Entries(ctx, w) {
			if err != nil {
				yield(Entry[T]{}, err)
				return
			}
			out := Entry[T]{Key: e.Key(), Written: e.Created()}
			if err = b.decode(e.Key(), e.Value(), &out.Value); err != nil {
				out.Value = *new(T)
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

// Decode reads what a watch brings.
func Decode[T any](b Bucket, e jetstream.KeyValueEntry) (v T, err error) {
	err = b.decode(e.Key(), e.Value(), &v)
	return v, err
}
