package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	limitsBytes  = 16 << 20    // some 20,000 keys in use at once
	limitsMarker = time.Minute // how long a watcher that was away can still be told of an expiry
)

// limits is the bucket in which the processes of the fleet share how much of each
// limited thing they use. Its keys have a time to live of their own.
func (f *Fleet) limits() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:         task.LimitsBucket,
		Description:    "how much of each limit is in use",
		History:        1,
		MaxBytes:       limitsBytes,
		LimitMarkerTTL: limitsMarker,
		Storage:        jetstream.FileStorage,
		Replicas:       f.Replicas,
	}
}
