package quota

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
)

// Entry is one rate limit in the bucket.
type Entry struct {
	Service string
	Record
}

// List returns the rate limits that were used within the last half minute or have
// tasks in line, of one service or, when that is "", of all. What cannot be read is
// an error in its place, and the rest follows. Its error wraps [ErrNoBucket] or
// [ErrDenied].
func List(ctx context.Context, js jetstream.JetStream, service string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if service == "" {
			service = "*"
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := open(ctx, store{js}, prefix+service+".*")
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer func() { _ = w.Stop() }() // the connection is closed: then so is this
		for {
			select {
			case e, ok := <-w.Updates():
				if !ok || e == nil { // nil comes after the last one
					return
				}
				if e.Operation() != jetstream.KeyValuePut {
					continue
				}
				var r Record
				if err := json.Unmarshal(e.Value(), &r); err != nil {
					err = fmt.Errorf("read %s of %s: %w", e.Key(), task.LimitsBucket, err)
					if !yield(Entry{}, err) {
						return
					}
					continue
				}
				of, _, _ := strings.Cut(strings.TrimPrefix(e.Key(), prefix), ".")
				if !yield(Entry{of, r}, nil) {
					return
				}
			case <-ctx.Done():
				yield(Entry{}, context.Cause(ctx))
				return
			}
		}
	}
}

// open watches keys of the bucket until ctx is done.
func open(ctx context.Context, s store, filter string) (w jetstream.KeyWatcher, err error) {
	var kv jetstream.KeyValue
	err = s.ask(ctx, broker.API(s.js, "STREAM.INFO."+stream), func(ctx context.Context) (err error) {
		kv, err = s.js.KeyValue(ctx, task.LimitsBucket)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.ask(ctx, broker.API(s.js, "CONSUMER.CREATE."+stream), func(context.Context) (err error) {
		w, err = kv.Watch(ctx, filter) // which ends with its context
		return err
	})
	return w, err
}
