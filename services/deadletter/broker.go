package deadletter

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

const tryLimit = 5 * time.Second // of one request to the broker

// missing reports whether err says that there is no such message, or not even its
// stream.
func missing(err error) bool {
	return errors.Is(err, stored.ErrGone) || errors.Is(err, stored.ErrNoStream)
}

// stateOf is what m says of its task, as far as it can be read.
func stateOf(m *stored.Message) task.State {
	st, _ := task.ReadState(m.Subject, m.Header, task.Stored{Stream: m.Stream, Sequence: m.Sequence, Time: m.Time})
	return st
}

// scan hands the messages of filter to f, oldest first, from sequence from on, each
// as the leader has it: what changes something must not rely on a replica that is
// behind. It ends without an error where the stream ends or is missing, and when f
// returns false.
func scan(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64, f func(*stored.Message) bool) error {
	for {
		m, err := stored.Get(ctx, js, stream, stored.Which{Sequence: max(from, 1), Next: filter})
		if missing(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !f(&m) {
			return nil
		}
		from = m.Sequence + 1
	}
}
