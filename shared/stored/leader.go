package stored

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
)

// Which names one message: by its sequence, as the last of a subject, or as the
// next of a subject. The zero value names none.
type Which struct {
	Sequence uint64    `json:"seq,omitempty"`
	Last     string    `json:"last_by_subj,omitempty"` // subject with wildcards; alone
	Next     string    `json:"next_by_subj,omitempty"` // subject with wildcards; the first from Sequence or Since on
	Since    time.Time `json:"start_time,omitzero"`    // stored then or later; without Sequence
}

// Get returns one message as the leader of the stream has it. It returns an error
// wrapping [ErrGone] or [ErrNoStream].
func Get(ctx context.Context, js jetstream.JetStream, stream string, w Which) (Message, error) {
	m, err := get(ctx, js, stream, w)
	if err != nil {
		return Message{}, fmt.Errorf("read %s of stream %s: %w", w, stream, err)
	}
	return m, nil
}

func (w Which) String() string {
	switch {
	case w.Last != "":
		return "the last " + w.Last
	case w.Next != "":
		return "the next " + w.Next
	}
	return fmt.Sprintf("message %d", w.Sequence)
}

func get(ctx context.Context, js jetstream.JetStream, stream string, w Which) (Message, error) {
	var resp struct {
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := call(ctx, js, "STREAM.MSG.GET."+stream, w, &resp); err != nil {
		return Message{}, err
	}
	got := resp.Message
	if got == nil {
		return Message{}, errors.New("the broker answered without a message")
	}
	m := Message{Stream: stream, Sequence: got.Sequence, Time: got.Time, Subject: got.Subject, Data: got.Data}
	if len(got.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(got.Header)
		if m.Header = h; err != nil {
			m.Header, m.Problem = nil, fmt.Errorf("%w: %w", task.ErrBadHeader, err)
		}
	}
	return m, nil
}

// Delete removes one message, without overwriting it on the disk, and reports
// whether it was there. It returns an error wrapping [ErrNoStream].
func Delete(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64) (was bool, err error) {
	req := map[string]any{"seq": sequence, "no_erase": true}
	var resp struct{}
	err = call(ctx, js, "STREAM.MSG.DELETE."+stream, req, &resp)
	if err == nil {
		return true, nil
	}
	// A message that is gone has no error code of its own here.
	if _, gone := get(ctx, js, stream, Which{Sequence: sequence}); errors.Is(gone, ErrGone) {
		return false, nil
	}
	return false, fmt.Errorf("delete message %d of stream %s: %w", sequence, stream, err)
}

// call makes one request to the leader of a stream.
func call(ctx context.Context, js jetstream.JetStream, function string, req, resp any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestLimit, errSilent)
	defer cancel()
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	m, err := js.Conn().RequestWithContext(ctx, broker.API(js, function), body)
	if err != nil {
		return why(ctx, err)
	}
	err = broker.DecodeAPI(m.Data, resp)
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch e.ErrorCode {
		case jetstream.JSErrCodeMessageNotFound:
			return ErrGone
		case jetstream.JSErrCodeStreamNotFound:
			return ErrNoStream
		}
	}
	return err
}
