package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

const (
	tryLimit = 5 * time.Second // for the answer to one request
	tries    = 4               // of a request that may be repeated
	pause    = 500 * time.Millisecond
)

// repeat calls f until it succeeds, fails for good, or has had its tries. f gets
// the time of one request.
func repeat(ctx context.Context, f func(context.Context) error) error {
	for n := 1; ; n++ {
		tctx, cancel := context.WithTimeoutCause(ctx, tryLimit, errNoAnswer)
		err := f(tctx)
		if err != nil && tctx.Err() != nil && ctx.Err() == nil {
			err = errNoAnswer
		}
		cancel()
		if !again(ctx, n, err) {
			return err
		}
	}
}

// again waits after the nth try in a row that came to nothing, and reports whether
// there is to be another one. It does not wait when err says that none can help.
func again(ctx context.Context, n int, err error) bool {
	return n < tries && transient(err) && sleep(ctx, pause) == nil
}

var errNoAnswer = errors.New("the broker does not answer")

func transient(err error) bool {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return e.Code == 503 || e.Code == 408 || e.Code == 429
	}
	return errors.Is(err, errNoAnswer) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// noStream is err, and [ErrNoStream] when that is what package stored means.
func noStream(err error) error {
	if errors.Is(err, stored.ErrNoStream) {
		return ErrNoStream
	}
	return err
}

// At returns the letter with this sequence in DEAD, as the leader has it. It
// returns an error wrapping [ErrNotFound] or [ErrNoStream].
func At(ctx context.Context, js jetstream.JetStream, sequence uint64) (Letter, error) {
	var l Letter
	err := repeat(ctx, func(ctx context.Context) (err error) {
		l, err = ask(ctx, js, task.DeadStream, stored.Which{Sequence: sequence})
		return err
	})
	if err != nil {
		return Letter{}, fmt.Errorf("get dead letter %d: %w", sequence, err)
	}
	return l, nil
}

// ask gets one message of any stream from its leader. Where it is in a class's
// stream or in RETRY, State is what it says of the task, and the rest as of a letter.
func ask(ctx context.Context, js jetstream.JetStream, stream string, w stored.Which) (Letter, error) {
	m, err := stored.Get(ctx, js, stream, w)
	if errors.Is(err, stored.ErrGone) {
		return Letter{}, ErrNotFound
	}
	if err != nil {
		return Letter{}, noStream(err)
	}
	return newLetter(m), nil
}

// remove deletes the letter with this sequence, and reports whether it was there.
func remove(ctx context.Context, js jetstream.JetStream, sequence uint64) (was bool, err error) {
	err = repeat(ctx, func(ctx context.Context) (err error) {
		was, err = stored.Delete(ctx, js, task.DeadStream, sequence)
		return err
	})
	return was, noStream(err)
}
