package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	breakersBytes  = 16 << 20    // some 20,000 destinations that are not well
	breakersMarker = time.Minute // how long a watcher that was away can still be told of an expiry
)

// breakers is the bucket in which the processes of a service share which
// destinations they leave alone. Its keys have a time to live of their own.
func (f *Fleet) breakers() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:         task.BreakersBucket,
		Description:    "destinations that are left alone",
		History:        1,
		MaxBytes:       breakersBytes,
		LimitMarkerTTL: breakersMarker,
		Storage:        jetstream.FileStorage,
		Replicas:       f.Replicas,
	}
}
