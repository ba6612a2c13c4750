package fleet

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

func bucket(js jetstream.JetStream) record.Bucket { return record.In(js, task.FleetBucket) }
