package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	alertsAge   = 30 * 24 * time.Hour // of a kind of death that nothing died of since: then it is new again
	alertsBytes = 16 << 20            // some 10,000 kinds of death
)

// alerts is the bucket that says which kinds of death people were told of, and
// which process of the deadletter service leads.
func (f *Fleet) alerts() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      task.AlertsBucket,
		Description: "which kinds of death people were told of",
		History:     1,
		TTL:         alertsAge,
		MaxBytes:    alertsBytes,
		Storage:     jetstream.FileStorage,
		Replicas:    f.Replicas,
	}
}
