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

// alerts is the stream behind the key-value bucket ALERTS: which kinds of death
// people were told of, and which process of the deadletter service leads. It is
// no loss when the oldest goes: its next death is told again.
func (f *Fleet) alerts() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              "KV_" + task.AlertsBucket,
		Description:       "which kinds of death people were told of",
		Subjects:          []string{"$KV." + task.AlertsBucket + ".>"},
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		MaxBytes:          alertsBytes,
		MaxAge:            alertsAge,
		MaxMsgsPerSubject: 1,
		Storage:           jetstream.FileStorage,
		Replicas:          f.Replicas,
		AllowDirect:       true,
		AllowRollup:       true, // as clients of a bucket expect
	}
}
