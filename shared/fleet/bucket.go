package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

// Errors of this package that callers branch on.
var (
	ErrNoBucket = errors.New("the broker has no bucket " + task.FleetBucket) // returned when the topology was not applied
	ErrDenied   = errors.New("the broker does not allow it")                 // returned when the credentials lack a permission
	ErrTaken    = errors.New("another process has the turn")                 // returned by TakeTurn
)

const (
	writeLimit = 5 * time.Second // of one write: a denied one is never answered
	markerTTL  = time.Minute     // how long a watcher that was away can still be told of a deletion
	leastTTL   = time.Second     // of a key, by the broker's rules
)

// bucket opens FLEET.
func bucket(ctx context.Context, js jetstream.JetStream) (jetstream.KeyValue, error) {
	const info = "$JS.API.STREAM.INFO.KV_" + task.FleetBucket
	var kv jetstream.KeyValue
	err := ask(ctx, js, info, func(ctx context.Context) (err error) {
		kv, err = js.KeyValue(ctx, task.FleetBucket)
		return err
	})
	return kv, err
}

// put writes v under key, where it stays for ttl. A key-value store of nats.go
// cannot do that for a key that exists, so it is published as the store would. A
// revision other than anyRevision must be the one that the key has.
func put(ctx context.Context, js jetstream.JetStream, key string, v any, ttl time.Duration, revision uint64) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	opts := []jetstream.PublishOpt{jetstream.WithMsgTTL(max(leastTTL, ttl.Round(time.Second)))}
	if revision != anyRevision {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(revision))
	}
	subject := subjectOf(js, key)
	return ask(ctx, js, subject, func(ctx context.Context) error {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}, opts...)
		return err
	})
}

const anyRevision = 0 // no key has it

// remove deletes a key. Its marker goes too, after a while.
func remove(ctx context.Context, js jetstream.JetStream, key string, opts ...jetstream.KVDeleteOpt) error {
	kv, err := bucket(ctx, js)
	if err != nil {
		return err
	}
	return ask(ctx, js, subjectOf(js, key), func(ctx context.Context) error {
		return kv.Purge(ctx, key, append(opts, jetstream.PurgeTTL(markerTTL))...)
	})
}

func subjectOf(js jetstream.JetStream, key string) string {
	subject := "$KV." + task.FleetBucket + "." + key
	if prefix := js.Options().APIPrefix; prefix != "" && prefix != jetstream.DefaultAPIPrefix {
		return prefix + subject // where nats.go puts it
	}
	return subject
}

// ask makes one request, whose subject is for the message when it is denied: then
// the broker says so on the connection, and never answers.
func ask(ctx context.Context, js jetstream.JetStream, subject string, f func(context.Context) error) error {
	before := js.Conn().LastError()
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	err := f(ctx)
	if err == nil {
		return nil
	}
	if d := broker.DeniedSince(js.Conn(), before); d != nil && strings.Contains(d.Subject, subject) {
		return fmt.Errorf("%w: publish to %s: grant it to these credentials", ErrDenied, subject)
	}
	if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		return fmt.Errorf("%w: make it with `drover streams apply`", ErrNoBucket)
	}
	return err
}

// entries returns what is under keys that match filter, in the order of writing.
// What cannot be read is an error in its place, and the rest follows.
func entries[T any](ctx context.Context, js jetstream.JetStream, filter string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		kv, err := bucket(ctx, js)
		if err != nil {
			yield(none, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var watch jetstream.KeyWatcher
		err = ask(ctx, js, "$JS.API.CONSUMER.CREATE.KV_"+task.FleetBucket, func(context.Context) (err error) {
			watch, err = kv.Watch(ctx, filter, jetstream.IgnoreDeletes()) // which ends with its context
			return err
		})
		if err != nil {
			yield(none, err)
			return
		}
		for e, err := range stored.Entries(ctx, watch) {
			if err != nil {
				yield(none, err)
				return
			}
			var v T
			if err = json.Unmarshal(e.Value(), &v); err != nil {
				err = fmt.Errorf("read %s of bucket %s: %w", e.Key(), task.FleetBucket, err)
			}
			if !yield(v, err) {
				return
			}
		}
	}
}
