package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// dead keeps dead letters until someone redrives or discards them. Reading takes
// nothing from it and nothing trims it: a full one refuses, and the worker then holds
// on to the delivery. It has no limit on the size of a message, because a dead
// letter is the task with its history, and so larger than the task was.
func (f *Fleet) dead() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        task.DeadStream,
		Description: "dead letters",
		Subjects:    []string{"dead.>"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    f.Dead.MaxBytes,
		Storage:     jetstream.FileStorage,
		Replicas:    f.Replicas,
		Duplicates:  Dedupe,
		AllowDirect: true,
	}
}

// deadFilter matches the dead letters of one service in one class.
func deadFilter(c task.Class, service string) string {
	return "dead." + string(c) + "." + service + ".>"
}
