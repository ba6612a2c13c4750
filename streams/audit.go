package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const auditBytes = 128 << 20 // some 200,000 acts; the oldest go first

// audit keeps who did what to the fleet. Nobody can delete single entries, or purge
// it. A full one drops its oldest entries: one that refused would keep operators
// from acting when there is most to do.
func (f *Fleet) audit() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        task.AuditStream,
		Description: "what operators did",
		Subjects:    []string{"audit.>"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    auditBytes,
		Storage:     jetstream.FileStorage,
		Replicas:    f.Replicas,
		Duplicates:  Dedupe,
		AllowDirect: true,
		DenyDelete:  true,
		DenyPurge:   true,
	}
}
