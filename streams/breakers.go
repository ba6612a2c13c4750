package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const breakersBytes = 16 << 20 // some 20,000 destinations that are not well

// breakers is the bucket in which the processes of a service share which
// destinations they leave alone. Its keys have a time to live of their own.
func (f *Fleet) breakers() jetstream.KeyValueConfig {
	return f.expiring(task.BreakersBucket, "destinations that are left alone", breakersBytes)
}
