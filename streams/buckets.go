package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// bucketObject is how plans and errors name a bucket of either sort.
func bucketObject(name string) string { return "bucket " + name }

const markerTTL = time.Minute // how long a watcher that was away can still be told of an expiry

// expiring is a bucket whose keys have a time to live of their own.
func (f *Fleet) expiring(name, description string, maxBytes int64) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:         name,
		Description:    description,
		History:        1,
		MaxBytes:       maxBytes,
		LimitMarkerTTL: markerTTL,
		Storage:        jetstream.FileStorage,
		Replicas:       f.Replicas,
	}
}

// keyValueStream is the stream behind a key-value bucket, as far as we set it.
// It has to agree with what jetstream.CreateKeyValue makes of b: a test holds that
// nothing differs once a bucket is made.
func keyValueStream(b jetstream.KeyValueConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                   "KV_" + b.Bucket,
		Description:            b.Description,
		Subjects:               []string{"$KV." + b.Bucket + ".>"},
		Retention:              jetstream.LimitsPolicy,
		Discard:                jetstream.DiscardNew,
		MaxMsgsPerSubject:      int64(max(b.History, 1)),
		MaxBytes:               b.MaxBytes,
		MaxMsgSize:             b.MaxValueSize,
		MaxAge:                 b.TTL,
		Storage:                b.Storage,
		Replicas:               b.Replicas,
		AllowDirect:            true,
		AllowRollup:            true,
		AllowMsgTTL:            b.LimitMarkerTTL > 0,
		SubjectDeleteMarkerTTL: b.LimitMarkerTTL,
		DenyDelete:             true,
	}
}
