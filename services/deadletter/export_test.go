package deadletter

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
)

// AfterCopy has f called between the copy of a task and the deletion of its
// original, for a process that is to end there.
func AfterCopy(f func()) { afterCopy = f }

// MaxNew is how many kinds of death are told apart in one interval.
const MaxNew = maxNew

// Rearm sets a timer again as the sweep does, when it is the message with this
// sequence.
func Rearm(ctx context.Context, js jetstream.JetStream, msg *nats.Msg, sequence uint64) (bool, error) {
	s := &sweeper{run: &run{js: js}}
	return s.rearm(ctx, &stored.Message{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Sequence: sequence})
}
