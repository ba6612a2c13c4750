package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const limitsBytes = 16 << 20 // some 20,000 keys in use at once

// limits is the bucket in which the processes of the fleet share how much of each
// limited thing they use. Its keys have a time to live of their own.
func (f *Fleet) limits() jetstream.KeyValueConfig {
	return f.expiring(task.LimitsBucket, "how much of each limit is in use", limitsBytes)
}
