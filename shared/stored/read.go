package stored

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
)

// Query says which messages of a stream to read.
type Query struct {
	Stream  string
	Subject string    // with wildcards; "" means all
	From    uint64    // the first sequence; 0 means the oldest
	Since   time.Time // stored then or later, when From is 0; zero means the oldest
	Limit   int       // messages at most; 0 means all
}

// Read yields the messages that q asks for, oldest first, in requests of 1024 and
// about 4 MiB at most, the next of which is made when the one before is used up.
// After an error it yields nothing more; the error wraps [ErrNoStream], or is why
// ctx ended. A message whose headers do not parse is asked of the leader, for
// nats.go then drops those that the broker adds too.
func Read(ctx context.Context, js jetstream.JetStream, q Query) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if err := read(ctx, js, q, yield); err != nil {
			yield(Message{}, fmt.Errorf("read stream %s: %w", q.Stream, err))
		}
	}
}

func read(ctx context.Context, js jetstream.JetStream, q Query, yield func(Message, error) bool) error {
	at := Which{Next: q.Subject, Since: q.Since} // where to go on
	if at.Next == "" {
		at.Next = ">"
	}
	if q.From > 0 || q.Since.IsZero() {
		at.Sequence, at.Since = max(q.From, 1), time.Time{}
	}
	for n := 0; ; {
		size := batchSize
		if q.Limit > 0 {
			size = min(size, q.Limit-n)
		}
		batch, err := fetch(ctx, js, q.Stream, at, size)
		if err != nil || len(batch) == 0 {
			return err
		}
		before := n
		for _, m := range batch {
			if m, err = whole(ctx, js, at, m); err != nil {
				return err
			}
			if m.Sequence < at.Sequence {
				continue // gone by now
			}
			if !yield(m, nil) {
				return nil
			}
			n++
			at.Sequence, at.Since = m.Sequence+1, time.Time{}
		}
		if n == before || n == q.Limit || batch[len(batch)-1].Rest == 0 {
			return nil
		}
	}
}

const (
	batchSize  = 1024 // the broker counts what is left for each batch
	batchBytes = 4 << 20
)

// whole is m, and as the leader has it when its headers do not parse. One that is
// gone meanwhile has no sequence, or that of the message that follows.
func whole(ctx context.Context, js jetstream.JetStream, at Which, m Message) (Message, error) {
	if m.Problem == nil {
		return m, nil
	}
	asked, err := Get(ctx, js, m.Stream, at)
	if errors.Is(err, ErrGone) {
		return Message{}, nil
	}
	asked.Rest = m.Rest
	return asked, err
}

// Newest returns the last message of a subject with wildcards, as any replica has
// it. It returns an error wrapping [ErrGone] or [ErrNoStream].
func Newest(ctx context.Context, js jetstream.JetStream, stream, subject string) (Message, error) {
	m, err := newest(ctx, js, stream, subject)
	if err != nil {
		return Message{}, fmt.Errorf("read the end of stream %s: %w", stream, err)
	}
	return m, nil
}

func newest(ctx context.Context, js jetstream.JetStream, stream, subject string) (Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestLimit, errSilent)
	defer cancel()
	body, err := json.Marshal(Which{Last: subject})
	if err != nil {
		return Message{}, err
	}
	answer, err := js.Conn().RequestWithContext(ctx, directGet(js, stream), body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return Message{}, errNobody
	case err != nil:
		return Message{}, why(ctx, err)
	}
	m, _, err := parse(answer, stream)
	if errors.Is(err, errEnd) {
		return Message{}, ErrGone
	}
	if m.Problem != nil {
		return Get(ctx, js, stream, Which{Last: subject})
	}
	return m, err
}

func directGet(js jetstream.JetStream, stream string) string {
	return broker.API(js, "DIRECT.GET."+stream)
}

// fetch returns the messages of one batch, of those whose headers do not parse only
// how many follow.
func fetch(ctx context.Context, js jetstream.JetStream, stream string, at Which, size int) ([]Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestLimit, errSilent)
	defer cancel()
	body, err := json.Marshal(request{Which: at, Batch: size, MaxBytes: batchBytes})
	if err != nil {
		return nil, err
	}
	nc := js.Conn()
	inbox := nc.NewInbox()
	answers := make(chan *nats.Msg, size+1) // all there can be: the reader must not wait
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, and then it is gone
	if err := nc.PublishRequest(directGet(js, stream), inbox, body); err != nil {
		return nil, err
	}
	var batch []Message
	for {
		var answer *nats.Msg
		select {
		case answer = <-answers:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		m, rest, err := parse(answer, stream)
		if errors.Is(err, errEnd) {
			for i := len(batch) - 1; i >= 0; i-- {
				if batch[i].Problem != nil || i == len(batch)-1 {
					batch[i].Rest = rest
				}
				rest = batch[i].Rest + 1
			}
			return batch, nil
		}
		if err != nil {
			return nil, err
		}
		if m.Problem == nil {
			m.Rest, _ = strconv.ParseUint(pop(m.Header, headerPending), 10, 64) // the broker wrote it
			pop(m.Header, headerLast)
		}
		batch = append(batch, m)
	}
}

// request is a direct get, as the broker wants it (ADR-31 of the NATS project).
type request struct {
	Which
	Batch    int `json:"batch,omitempty"`
	MaxBytes int `json:"max_bytes,omitempty"`
}
