package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Turn is the right of one process of a service to be replaced, while the others
// work on.
type Turn struct {
	js       jetstream.JetStream
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
// when it is another's; and wrapping [ErrNoBucket] or [ErrDenied].
//
// The turn is the holder's until [Turn.GiveBack], or for limit when it dies
// before: longer than it may need to drain.
func TakeTurn(ctx context.Context, js jetstream.JetStream, service, instance string, limit time.Duration) (*Turn, error) {
	t, err := takeTurn(ctx, js, service, instance, limit)
	if err != nil {
		return nil, fmt.Errorf("take the turn of %s: %w", service, err)
	}
	return t, nil
}

func takeTurn(ctx context.Context, js jetstream.JetStream, service, instance string, limit time.Duration) (*Turn, error) {
	if err := task.CheckToken(service); err != nil {
		return nil, err
	}
	kv, err := bucket(ctx, js)
	if err != nil {
		return nil, err
	}
	t := &Turn{js: js, key: "recycle." + service, holder: holder{instance, time.Now().UTC()}}
	value, err := json.Marshal(t.holder)
	if err != nil {
		return nil, err
	}
	err = ask(ctx, js, subjectOf(js, t.key), func(ctx context.Context) (err error) {
		t.revision, err = kv.Create(ctx, t.key, value, jetstream.KeyTTL(max(leastTTL, limit.Round(time.Second))))
		return err
	})
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return t, err
	}
	var has holder
	if e, err := kv.Get(ctx, t.key); err == nil && json.Unmarshal(e.Value(), &has) == nil {
		return nil, fmt.Errorf("%w: %s, since %s", ErrTaken, has.Instance, has.Since.Format(time.RFC3339))
	}
	return nil, ErrTaken // and it ends at this moment
}

// GiveBack ends the turn once handover is over, in which a fresh process can start
// before the next one drains; 0 ends it at once. It does nothing when the turn was
// lost meanwhile.
func (t *Turn) GiveBack(ctx context.Context, handover time.Duration) error {
	var err error
	if handover > 0 {
		err = put(ctx, t.js, t.key, t.holder, handover, t.revision)
	} else {
		err = remove(ctx, t.js, t.key, jetstream.LastRevision(t.revision))
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("give back the turn %s: %w", t.key, err)
	}
	return nil
}
