package stored

import (
	"cmp"
	"context"
	"errors"
	"iter"

	"github.com/nats-io/nats.go/jetstream"
)

// Entries yields what a new watch of a bucket finds there, and not what comes
// afterwards; then it stops the watch. After an error it yields nothing more; the
// error is why ctx ended, or that the watch did, as with its connection.
func Entries(ctx context.Context, w jetstream.KeyWatcher) iter.Seq2[jetstream.KeyValueEntry, error] {
	return func(yield func(jetstream.KeyValueEntry, error) bool) {
		defer func() { _ = w.Stop() }() // the connection is closed: then so is this
		for {
			select {
			case e, ok := <-w.Updates():
				switch {
				case !ok:
					yield(nil, cmp.Or(context.Cause(ctx), errWatch))
					return
				case e == nil: // it comes after the last one
					return
				case !yield(e, nil):
					return
				}
			case <-ctx.Done():
				yield(nil, context.Cause(ctx))
				return
			}
		}
	}
}

var errWatch = errors.New("the watch ended before all was read")
