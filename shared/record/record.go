// Package record keeps small records in the key-value buckets of a fleet, which its
// processes share: read as they are, written by compare-and-set or over whatever is
// there, each with a time to live of its own.
//
// # Semantics
//
// A record is a JSON value. [Bucket.Get] may read from any replica, so it may be
// behind: then the [Bucket.Put] that follows ends with [ErrConflict], and whoever
// reads again soon finds what is there. A record that has expired, or was deleted,
// leaves a sequence behind, over which the next is written.
//
// That a record is there does not mean that its time is not over: a nats-server 2.15
// that is killed after it had been stopped in good order brings back records that
// expired or were deleted before, and never removes them (TestKilledBrokerBringsBack).
// Who acts on a record's being there has to see how old it is, or whether it is still
// renewed.
//
// Nothing waits for a connection: while there is none every call fails at once, so
// that nothing is written later than its caller believes.
//
// # Concurrency
//
// All here is safe for concurrent use.
//
// # Errors
//
// [ErrNoBucket] and [ErrConflict] are for callers that branch, and a missing
// permission is a [broker.DeniedError].
package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
)

// Errors of this package that callers branch on.
var (
	ErrNoBucket = errors.New("the broker has no bucket")              // returned when the topology was not applied, or the bucket has no leader
	ErrConflict = errors.New("the record is another one than before") // returned by Put when somebody else was first
)

const (
	askLimit = 2 * time.Second // of one request, when its context has no end of its own
	leastTTL = time.Second     // by the broker's rules

	markerTTL = time.Minute // how long a watcher that was away can still be told of a deletion
)

// Any is the sequence of whatever is there, or is not.
const Any = math.MaxUint64

// Bucket is one key-value bucket. Make one with [In].
type Bucket struct {
	js     jetstream.JetStream
	name   string
	stream string // behind it
}

// In returns the bucket of a name, whether there is one or not.
func In(js jetstream.JetStream, name string) Bucket {
	return Bucket{js: js, name: name, stream: "KV_" + name}
}

// Key is a key for a name that may hold anything, such as a URL: its hash, which
// nobody can read it from, behind prefix. Records carry their name.
func Key(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + hex.EncodeToString(sum[:16])
}

// Get reads the record of a key into what into points to, and returns its sequence,
// for Put. Without a record into stays as it is; the sequence is 0 unless there was
// one before.
func (b Bucket) Get(ctx context.Context, key string, into any) (seq uint64, err error) {
	where := broker.API(b.js, "DIRECT.GET."+b.stream+"."+b.stored(key))
	err = b.ask(ctx, where, func(ctx context.Context) error {
		m, err := b.js.Conn().RequestWithContext(ctx, where, nil)
		if err != nil {
			return err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "404":
			return nil
		default:
			return fmt.Errorf("the broker refuses to read: %s %s", status, m.Header.Get("Description"))
		}
		if seq, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
			return fmt.Errorf("the broker's answer: its sequence: %w", err)
		}
		if len(m.Data) == 0 { // the marker of an end
			return nil
		}
		return b.decode(key, m.Data, into)
	})
	return seq, err
}

func (b Bucket) decode(key string, data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s of bucket %s: %w: delete it with `nats kv del %[2]s %[1]s`", key, b.name, err)
	}
	return nil
}

// Put writes v under key, where it stays for ttl, at least 1 s, and returns its
// sequence. It returns [ErrConflict] when what is there has not the sequence after,
// which may be [Any].
func (b Bucket) Put(ctx context.Context, key string, v any, ttl time.Duration, after uint64) (seq uint64, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	// A key-value store of nats.go cannot set the time to live of a key that exists.
	opts := []jetstream.PublishOpt{jetstream.WithExpectStream(b.stream), jetstream.WithMsgTTL(max(leastTTL, ttl.Round(time.Second)))}
	if after != Any {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(after))
	}
	where := b.Subject(key)
	err = b.ask(ctx, where, func(ctx context.Context) error {
		ack, err := b.js.PublishMsg(ctx, &nats.Msg{Subject: where, Data: data}, opts...)
		if err == nil {
			seq = ack.Sequence
		}
		return conflict(err)
	})
	return seq, err
}

// Delete removes a key, if it is there, with its past. It returns [ErrConflict] when
// what is there has not the sequence after, which may be [Any].
func (b Bucket) Delete(ctx context.Context, key string, after uint64) error {
	kv, err := b.store(ctx)
	if err != nil {
		return err
	}
	opts := []jetstream.KVDeleteOpt{jetstream.PurgeTTL(markerTTL)}
	if after != Any {
		opts = append(opts, jetstream.LastRevision(after))
	}
	return b.ask(ctx, b.Subject(key), func(ctx context.Context) error { return conflict(kv.Purge(ctx, key, opts...)) })
}

// conflict is err, or that it was another record.
func conflict(err error) error {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return ErrConflict
	}
	return err
}

// Time asks the leader of the bucket what time it is.
func (b Bucket) Time(ctx context.Context) (at time.Time, err error) {
	err = b.ask(ctx, broker.API(b.js, "STREAM.INFO."+b.stream), func(ctx context.Context) error {
		st, err := b.js.Stream(ctx, b.stream)
		if err != nil {
			return err
		}
		if at = st.CachedInfo().TimeStamp; at.IsZero() {
			return errors.New("the broker does not say what time it is: it is too old")
		}
		return nil
	})
	return at, err
}

// store is the bucket as nats.go has it.
func (b Bucket) store(ctx context.Context) (kv jetstream.KeyValue, err error) {
	err = b.ask(ctx, broker.API(b.js, "STREAM.INFO."+b.stream), func(ctx context.Context) (err error) {
		kv, err = b.js.KeyValue(ctx, b.name)
		return err
	})
	return kv, err
}

// Watch watches the keys that match a filter, until ctx is done.
func (b Bucket) Watch(ctx context.Context, filter string, opts ...jetstream.WatchOpt) (w jetstream.KeyWatcher, err error) {
	kv, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	err = b.ask(ctx, broker.API(b.js, "CONSUMER.CREATE."+b.stream), func(context.Context) (err error) {
		w, err = kv.Watch(ctx, filter, opts...) // which ends with its context
		return err
	})
	return w, err
}

// Subject is where a key is published.
func (b Bucket) Subject(key string) string {
	if prefix := b.js.Options().APIPrefix; prefix != "" && prefix != jetstream.DefaultAPIPrefix {
		return prefix + b.stored(key) // where nats.go puts it
	}
	return b.stored(key)
}

// stored is the subject of a key in the stream, whatever the way there.
func (b Bucket) stored(key string) string { return "$KV." + b.name + "." + key }

// ask makes one request that f sends to subject, and says why it failed. When ctx
// has no end of its own, it has 2 s.
func (b Bucket) ask(ctx context.Context, subject string, f func(context.Context) error) error {
	if b.js.Conn().IsReconnecting() {
		return nats.ErrDisconnected // and not a buffer that is sent who knows when
	}
	err := broker.Ask(ctx, b.js.Conn(), subject, askLimit, f)
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w %s: make it with `drover streams apply`", ErrNoBucket, b.name)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w %s, or nobody leads it now: `drover doctor` says which, and `drover streams apply` makes it", ErrNoBucket, b.name)
	}
	return err
}
