package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	retryWait  = "retry.wait.>"  // timers; no consumer may take these
	retryReady = "retry.ready.>" // where they fire to
)

// retry is where failed attempts wait on broker timers and become due. A stream
// with schedules cannot refuse what is new when it is full, it would drop the
// oldest: so it has no limit of its own, and account storage bounds it.
func (f *Fleet) retry() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              task.RetryStream,
		Description:       "retries: timers and what is due",
		Subjects:          []string{retryWait, retryReady},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          f.Replicas,
		Duplicates:        Dedupe,
		AllowDirect:       true,
		AllowMsgSchedules: true,
		AllowRollup:       true, // schedules bring it, so only services may publish here
	}
}

// waitFilter matches the timers of one service's retries in one class.
func waitFilter(c task.Class, service string) string {
	return "retry.wait." + string(c) + "." + service + ".>"
}
