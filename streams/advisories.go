package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	advisoryAge   = 7 * 24 * time.Hour
	advisoryBytes = 64 << 20 // some 100,000 advisories; the oldest go first
)

// advisories keeps what the broker says when it gives a task up, so that a death
// that no worker could report is still seen.
func (f *Fleet) advisories() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        task.AdvisoryStream,
		Description: "tasks that the broker gave up on",
		Subjects: []string{
			"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
			"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
		},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      advisoryAge,
		MaxBytes:    advisoryBytes,
		Storage:     jetstream.FileStorage,
		Replicas:    f.Replicas,
		Duplicates:  Dedupe,
		AllowDirect: true,
	}
}
