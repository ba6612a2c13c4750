package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
)

const (
	recordLimit = 10 * time.Second // for storing one entry, whatever the context says
	tryLimit    = 2 * time.Second  // for the answer to one try
	pause       = 250 * time.Millisecond
)

// Record stores e and returns it as it is stored. It returns within 10 s. The error
// wraps [ErrNotStored]: the act must not be done then. It also wraps [ErrNoStream],
// [ErrDenied] or [ErrEntry] where that is why.
func Record(ctx context.Context, js jetstream.JetStream, e Entry) (Entry, error) {
	e, err := e.complete()
	if err == nil {
		err = store(ctx, js, e)
	}
	if err != nil {
		return e, fmt.Errorf("record %s: %w: %w", e.Verb, ErrNotStored, err)
	}
	return e, nil
}

func store(ctx context.Context, js jetstream.JetStream, e Entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: "audit." + e.Verb, Data: data, Header: nats.Header{
		// The time tells the parts of one act apart; all tries of one entry have the same.
		task.HeaderMsgID: {fmt.Sprintf("%s:%s:%d", e.Act, e.Phase, e.Time.UnixNano())},
	}}
	ctx, cancel := context.WithTimeoutCause(ctx, recordLimit, errSilent)
	defer cancel()
	complaint := js.Conn().LastError()
	for {
		err := try(ctx, js, m)
		if err == nil {
			return nil
		}
		if broker.DeniedSince(js.Conn(), complaint) != nil {
			return fmt.Errorf("%w: publish to %s: grant it to these credentials", ErrDenied, m.Subject)
		}
		if !again(ctx, js, err) {
			if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
				return ErrNoStream
			}
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

var errSilent = errors.New("the broker does not answer")

func try(ctx context.Context, js jetstream.JetStream, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	ack, err := js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if err == nil && ack.Stream != task.AuditStream {
		return fmt.Errorf("it went to stream %s: the subjects audit.> belong to %s", ack.Stream, task.AuditStream)
	}
	return err
}

// noRoom are codes of the broker's API errors that waiting does not mend: limits of
// the account, of memory, of the disk, and of the stream.
var noRoom = []jetstream.ErrorCode{10002, 10023, 10028, 10047, 10077}

// again reports whether another try may fare better.
func again(ctx context.Context, js jetstream.JetStream, err error) bool {
	if ctx.Err() != nil || js.Conn().IsClosed() {
		return false
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return !slices.Contains(noRoom, api.ErrorCode) && (api.Code == 503 || api.Code == 408 || api.Code == 429)
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		// Nobody listens: either there is no stream, or its leader is being elected.
		ctx, cancel := context.WithTimeout(ctx, tryLimit)
		defer cancel()
		_, serr := js.Stream(ctx, task.AuditStream)
		return !errors.Is(serr, jetstream.ErrStreamNotFound)
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}
