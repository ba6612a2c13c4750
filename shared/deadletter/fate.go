package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

// Fate is where a redriven task is, as far as the streams say. No result has to be
// kept for it.
type Fate int

// What can have become of a redriven task.
const (
	Waiting  Fate = iota // in its class's stream: not started, or running
	Delayed              // in RETRY without a failed attempt: given back, or put off
	Retrying             // in RETRY: its first attempt has failed
	Died                 // in DEAD again
	Gone                 // in none of these: done, or cancelled by hand
)

func (f Fate) String() string {
	return [...]string{"waiting", "delayed", "retrying", "died again", "gone"}[f]
}

// Failed reports whether the task has failed again.
func (f Fate) Failed() bool { return f == Retrying || f == Died }

// FateOf says where the generation is that l was redriven as, with what receipt, and
// the last error that it had. It asks the leaders of the streams in the order in
// which a task moves, and a move is stored before the task leaves: so a task that is
// still there is not missed. Only while its timer fires it may seem to be gone for a
// moment: ask twice.
func FateOf(ctx context.Context, js jetstream.JetStream, l Letter, rc client.Receipt) (Fate, string, error) {
	m, stream, err := successor(ctx, js, &l, rc)
	switch {
	case errors.Is(err, ErrNotFound):
		return Gone, "", nil
	case err != nil:
		return Waiting, "", fmt.Errorf("look after %s: %w", l.name(), err)
	case stream == task.DeadStream:
		return Died, m.LastError(), nil
	case stream == task.RetryStream && m.Attempt > 0:
		return Retrying, m.LastError(), nil
	case stream == task.RetryStream:
		return Delayed, m.LastError(), nil
	}
	return Waiting, "", nil
}

// successor returns the generation that l was redriven as, and the stream that has
// it now. It returns [ErrNotFound] when none has.
func successor(ctx context.Context, js jetstream.JetStream, l *Letter, rc client.Receipt) (m Letter, stream string, err error) {
	for _, place := range []struct {
		stream string
		which  stored.Which
	}{
		{rc.Stream, stored.Which{Sequence: rc.Sequence}},
		{task.RetryStream, stored.Which{Last: l.Subject.Retry(l.ID)}},
		{task.DeadStream, stored.Which{Last: l.Subject.Dead(l.ID)}},
	} {
		err := repeat(ctx, func(ctx context.Context) (err error) {
			m, err = ask(ctx, js, place.stream, place.which)
			return err
		})
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrNoStream):
		case err != nil:
			return Letter{}, "", err
		case m.ID == l.ID && m.Generation == l.Generation+1:
			return m, place.stream, nil
		}
	}
	return Letter{}, "", ErrNotFound
}
