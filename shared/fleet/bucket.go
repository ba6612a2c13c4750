package fleet

import (
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// ErrTaken is returned by [TakeTurn] when another process has the turn.
var ErrTaken = errors.New("another process has the turn")

func bucket(js jetstream.JetStream) record.Bucket { return record.In(js, task.FleetBucket) }
