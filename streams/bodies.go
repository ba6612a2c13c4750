package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// bodies is the object store of bodies too large for a message. An object has no
// time to live: its task may wait for as long as it takes.
func (f *Fleet) bodies() jetstream.ObjectStoreConfig {
	return jetstream.ObjectStoreConfig{
		Bucket:      task.BodiesBucket,
		Description: "bodies too large for a message",
		MaxBytes:    f.Bodies.MaxBytes,
		Storage:     jetstream.FileStorage,
		Replicas:    f.Replicas,
	}
}

// bucketStream is the stream behind an object store, as far as we set it.
func bucketStream(b jetstream.ObjectStoreConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        "OBJ_" + b.Bucket,
		Description: b.Description,
		Subjects:    []string{"$O." + b.Bucket + ".C.>", "$O." + b.Bucket + ".M.>"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    b.MaxBytes,
		MaxAge:      b.TTL,
		Storage:     b.Storage,
		Replicas:    b.Replicas,
		AllowDirect: true,
		AllowRollup: true,
	}
}
