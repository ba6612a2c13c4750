package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// tasks is the stream of one class. It lists a subject per service, so that a
// publish with a typo in class or service finds no stream and fails; a full class
// refuses what is new and keeps what it has. A fair class lists the two shapes of
// subject that one of its consumers takes, and stores each task with a tenant under
// its partition. No schedules and no rollup: with
// either, whoever may publish one task could erase the stream.
func (f *Fleet) tasks(c Class, serving []Service) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{
		Name:        c.Name.Stream(),
		Description: "tasks of class " + string(c.Name),
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    c.MaxBytes,
		MaxMsgSize:  MaxMessage,
		Storage:     jetstream.FileStorage,
		Replicas:    f.Replicas,
		Duplicates:  Dedupe,
		AllowDirect: true,
	}
	for _, s := range serving {
		if c.Fair() {
			cfg.Subjects = append(cfg.Subjects, task.FairSubjects(c.Name, s.Name)...)
		} else {
			cfg.Subjects = append(cfg.Subjects, task.Filter(c.Name, s.Name))
		}
	}
	if c.Fair() {
		from, to := task.PartitionTransform(c.Name, c.Partitions)
		cfg.SubjectTransform = &jetstream.SubjectTransformConfig{Source: from, Destination: to}
	}
	return cfg
}
