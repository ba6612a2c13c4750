package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	presenceBytes  = 16 << 20    // 4,000 processes of 4 KiB each
	presenceMarker = time.Minute // how long a watcher that was away can still be told of an expiry
)

// presence is the bucket in which every process says that it is there. Its keys
// are written with a time to live of their own, so that one whose process died is
// gone without anybody's doing; the marker tells watchers.
func (f *Fleet) presence() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:         task.FleetBucket,
		Description:    "processes of the fleet",
		History:        1,
		MaxBytes:       presenceBytes,
		LimitMarkerTTL: presenceMarker,
		Storage:        jetstream.FileStorage,
		Replicas:       f.Replicas,
	}
}
