package permit

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/semaphore"
	"github.com/droverhq/drover/shared/task"
)

// List returns the records of all resources that were used within the last hour.
// What cannot be read is an error in its place, and the rest follows. Processes that
// have died stand in it until somebody wants their permits. Its error wraps
// [ErrNoBucket] or [ErrDenied].
func List(ctx context.Context, js jetstream.JetStream) iter.Seq2[semaphore.Record, error] {
	return func(yield func(semaphore.Record, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := open(ctx, store{js}, prefix+"*")
		if err != nil {
			yield(semaphore.Record{}, err)
			return
		}
		defer func() { _ = w.Stop() }() // the connection is closed: then so is this
		for {
			select {
			case e, ok := <-w.Updates():
				if !ok || e == nil { // nil comes after the last one
					return
				}
				if e.Operation() != jetstream.KeyValuePut || len(e.Value()) == 0 {
					continue
				}
				var r semaphore.Record
				if err := json.Unmarshal(e.Value(), &r); err != nil {
					err = fmt.Errorf("read %s of bucket %s: %w", e.Key(), task.LimitsBucket, err)
					if !yield(r, err) {
						return
					}
					continue
				}
				if !yield(r, nil) {
					return
				}
			case <-ctx.Done():
				yield(semaphore.Record{}, context.Cause(ctx))
				return
			}
		}
	}
}

// open watches keys of the bucket until ctx is done.
func open(ctx context.Context, s store, filter string) (w jetstream.KeyWatcher, err error) {
	var kv jetstream.KeyValue
	err = s.ask(ctx, "$JS.API.STREAM.INFO."+stream, func(ctx context.Context) (err error) {
		kv, err = s.js.KeyValue(ctx, task.LimitsBucket)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.ask(ctx, "$JS.API.CONSUMER.CREATE."+stream, func(context.Context) (err error) {
		w, err = kv.Watch(ctx, filter) // which ends with its context
		return err
	})
	return w, err
}
