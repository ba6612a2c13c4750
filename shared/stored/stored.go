// Package stored reads messages as they are stored in a stream, and deletes them:
// no consumer is made, and nothing is taken or delayed.
//
// # Semantics
//
// [Read] and [Newest] use direct get, which any replica answers, one that is behind
// too: what was stored or deleted a moment ago may be missing or still there. They
// are for looking. [Get] and [Delete] ask the stream's leader: what changes
// something relies on them. nats.go has no batched direct get, and asks for the
// stream's info before each get, so the requests are made here.
//
// # Concurrency
//
// Functions are safe for concurrent use.
//
// # Errors
//
// No request takes longer than five seconds; the error of one without an answer
// wraps nats.ErrTimeout. Nothing is tried again.
package stored

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Message is one stored message.
type Message struct {
	Stream   string
	Sequence uint64
	Time     time.Time // when it was stored, by the broker's clock
	Subject  string
	Header   nats.Header // as it was published; empty when there is none, or Problem
	Data     []byte

	// Problem wraps task.ErrBadHeader when the headers do not parse; else it is nil.
	Problem error

	// Rest is how many messages that were asked for follow, as [Read] found it; else 0.
	Rest uint64
}

var (
	// ErrGone is returned when the stream has no such message, or not any more.
	ErrGone = errors.New("the stream has no such message")
	// ErrNoStream is returned when there is no such stream. By [Read] and [Newest] it
	// is also returned when the stream does not allow direct get, or nobody can answer
	// for the moment; it then wraps nats.ErrNoResponders.
	ErrNoStream = errors.New("the stream does not exist, or does not allow direct get: see `drover streams plan`")
)

var errNobody = fmt.Errorf("%w (%w)", ErrNoStream, nats.ErrNoResponders)

var errSilent = fmt.Errorf("the broker does not answer (%w)", nats.ErrTimeout)

const requestLimit = 5 * time.Second // as nats.go allows for a request

// why is err, or what ended ctx when that is the reason.
func why(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
