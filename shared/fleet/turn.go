package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// ErrTaken is returned by [TakeTurn] when another process has the turn.
var ErrTaken = errors.New("another process has the turn")

// Turn is the right of one process of a service to be replaced, while the others
// work on.
type Turn struct {
	bucket   record.Bucket
	key      string
	holder   holder
	revision uint64
}

// holder is the value of the key.
type holder struct {
	Instance string    `json:"instance"`
	Since    time.Time `json:"since"`
}

// TakeTurn takes the turn of a service for one of its processes. It returns an
// error wrapping [ErrTaken] that names the process that has it, and takes nothing,
// when it is another's; and wrapping [record.ErrNoBucket] or [broker.ErrDenied].
//
// The turn is the holder's until [Turn.GiveBack], or for limit when it dies
// before: longer than it may need to drain. One that was taken three limits ago, by
// the clocks of both, and is there all the same is nobody's (see package record).
func TakeTurn(ctx context.Context, js jetstream.JetStream, service, instance string, limit time.Duration) (*Turn, error) {
	t, err := takeTurn(ctx, js, service, instance, limit)
	if err != nil {
		return nil, fmt.Errorf("take the turn of %s: %w", service, err)
	}
	return t, nil
}

const ghostTurn = 3 // limits; two are a turn and its handover at most

func takeTurn(ctx context.Context, js jetstream.JetStream, service, instance string, limit time.Duration) (*Turn, error) {
	if err := task.CheckToken(service); err != nil {
		return nil, err
	}
	t := &Turn{bucket: bucket(js), key: "recycle." + service, holder: holder{instance, time.Now().UTC()}}
	var has holder
	last, err := t.bucket.Get(ctx, t.key, &has)
	if err != nil {
		return nil, err
	}
	if has != (holder{}) && time.Since(has.Since) < ghostTurn*limit {
		return nil, fmt.Errorf("%w: %s, since %s", ErrTaken, has.Instance, has.Since.Format(time.RFC3339))
	}
	t.revision, err = t.bucket.Put(ctx, t.key, t.holder, limit, last)
	if errors.Is(err, record.ErrConflict) {
		return nil, ErrTaken // at this moment
	}
	return t, err
}

// GiveBack ends the turn once handover is over, in which a fresh process can start
// before the next one drains; 0 ends it at once. It does nothing when the turn was
// lost meanwhile.
func (t *Turn) GiveBack(ctx context.Context, handover time.Duration) error {
	var err error
	if handover > 0 {
		_, err = t.bucket.Put(ctx, t.key, t.holder, handover, t.revision)
	} else {
		err = t.bucket.Delete(ctx, t.key, t.revision)
	}
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return fmt.Errorf("give back the turn %s: %w", t.key, err)
	}
	return nil
}
