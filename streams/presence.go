package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const presenceBytes = 16 << 20 // 4,000 processes of 4 KiB each

// presence is the bucket in which every process says that it is there. Its keys
// are written with a time to live of their own, so that one whose process died is
// gone without anybody's doing; the marker tells watchers.
func (f *Fleet) presence() jetstream.KeyValueConfig {
	return f.expiring(task.FleetBucket, "processes of the fleet", presenceBytes)
}
