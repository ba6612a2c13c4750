package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
)

// found is how many messages of a stream match a filter, and when the first of
// them was stored.
type found struct {
	count uint64
	first time.Time // zero when count is 0
}

// Headers and status of the broker's batched direct get (ADR-31 of the NATS project).
const (
	headerStatus   = "Status"
	headerPending  = "Nats-Num-Pending"
	headerSequence = "Nats-Sequence"
	headerStored   = "Nats-Time-Stamp"
	statusEnd      = "204"
	statusNone     = "404"
	statusNobody   = "503" // no such stream, or its direct get is off
)

// tally counts the messages from sequence from on that match filter. It asks for
// a batch of one by direct get, because the end of a batch says how many follow:
// two messages of answer, whatever the count, where stream info would list every
// subject, and RETRY has one per task. Any replica may answer, so the figures may
// be behind by what it has yet to catch up.
func tally(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64) (found, error) {
	f, err := batch(ctx, js, stream, filter, max(from, 1))
	if err != nil {
		return found{}, fmt.Errorf("count %s in stream %s: %w", filter, stream, err)
	}
	return f, nil
}

func batch(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64) (found, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": filter, "batch": 1})
	if err != nil {
		return found{}, err
	}
	nc := js.Conn()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return found{}, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, and then it is gone
	if err := nc.PublishRequest(broker.API(js, "DIRECT.GET."+stream), inbox, req); err != nil {
		return found{}, err
	}
	var f found
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return found{}, err
		}
		// A stored message is told by its sequence, which the broker adds at the end of
		// the headers. All else in them anyone may have written, a status included.
		if len(msg.Header.Values(headerSequence)) > 0 {
			f.count++
			if f.first, err = time.Parse(time.RFC3339Nano, last(msg.Header, headerStored)); err != nil {
				return found{}, err
			}
			continue
		}
		switch status := msg.Header.Get(headerStatus); status {
		case statusEnd:
			n, err := strconv.ParseUint(msg.Header.Get(headerPending), 10, 64)
			f.count += n
			return f, err
		case statusNone:
			return found{}, nil
		case statusNobody:
			return found{}, nats.ErrNoResponders
		default:
			return found{}, fmt.Errorf("direct get: %s %s", status, msg.Header.Get("Description"))
		}
	}
}

const requestTimeout = 5 * time.Second // as nats.go allows for a request

func last(h nats.Header, name string) string {
	v := h.Values(name)
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}
