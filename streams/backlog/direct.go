package backlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Query says which messages of a stream to read, oldest first.
type Query struct {
	Stream  string
	Subject string // with wildcards; "" means all
	From    uint64 // the first sequence; 0 means the oldest
	Limit   int    // messages at most; 0 means one request, 256 at most
}

// Message is one message as it is stored.
type Message struct {
	Stream   string
	Sequence uint64
	StoredAt time.Time // by the broker's clock; zero when Problem is set
	Subject  string    // "" when Problem is set
	Header   nats.Header
	Data     []byte
	Problem  error // wraps task.ErrBadHeader when the headers do not parse; else nil
}

// Page is what Read found.
type Page struct {
	Messages []Message
	Rest     uint64 // how many more match after the last of them
}

// ErrNoStream is returned when a stream does not exist or does not allow direct
// get.
var ErrNoStream = errors.New("the stream does not exist, or does not allow direct get: see `drover streams plan`")

// Read reads messages by direct get, so that no consumer is made and nothing is
// disturbed. A replica may answer, so the newest messages may be missing. It
// returns what it has with the error when ctx ends, and [ErrNoStream].
func Read(ctx context.Context, js jetstream.JetStream, q Query) (Page, error) {
	var p Page
	from, limit := max(q.From, 1), q.Limit
	if limit <= 0 {
		limit = batchSize
	}
	for {
		rest, err := readBatch(ctx, js, q, from, min(limit-len(p.Messages), batchSize), &p.Messages)
		if err != nil {
			return p, fmt.Errorf("read stream %s: %w", q.Stream, err)
		}
		p.Rest = rest
		n := len(p.Messages)
		if rest == 0 || n == 0 || n >= limit {
			return p, nil
		}
		next := p.Messages[n-1].Sequence + 1
		if next <= from {
			return p, nil // a batch of nothing: the broker has counted what is gone by now
		}
		from = next
	}
}

const (
	batchSize  = 256
	batchBytes = 4 << 20
)

// Headers and states of the broker's batched direct get (ADR-31 of the NATS project).
const (
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerStored   = "Nats-Time-Stamp"
	headerPending  = "Nats-Num-Pending"
	headerLast     = "Nats-Last-Sequence"
	headerStatus   = "Status"
)

// readBatch appends the answer to one request to out, and returns how many more
// messages match.
func readBatch(ctx context.Context, js jetstream.JetStream, q Query, from uint64, n int, out *[]Message) (rest uint64, err error) {
	subject := q.Subject
	if subject == "" {
		subject = ">"
	}
	req, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": subject, "batch": n, "max_bytes": batchBytes})
	if err != nil {
		return 0, err
	}
	nc := js.Conn()
	inbox := nc.NewInbox()
	answers := make(chan *nats.Msg, n+1) // all there can be: the reader must not wait
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return 0, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	if err := nc.PublishRequest(apiPrefix(js)+"DIRECT.GET."+q.Stream, inbox, req); err != nil {
		return 0, err
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		// A stored message is told by its sequence, which the broker adds at the end of
		// the headers. All else in them anyone may have written, a status included.
		if len(m.Header[headerSequence]) > 0 {
			got, before, err := stored(m)
			if err != nil {
				return 0, err
			}
			if last := len(*out) - 1; last >= 0 && (*out)[last].Sequence == 0 {
				(*out)[last].Sequence = before
			}
			*out = append(*out, got)
			continue
		}
		switch status := m.Header.Get(headerStatus); status {
		case "404":
			return 0, nil
		case "503":
			return 0, ErrNoStream
		case "204":
			if last := len(*out) - 1; last >= 0 && (*out)[last].Sequence == 0 {
				(*out)[last].Sequence, _ = strconv.ParseUint(m.Header.Get(headerLast), 10, 64)
			}
			return strconv.ParseUint(m.Header.Get(headerPending), 10, 64)
		case "": // nats.go could not decode the headers, and drops them all; the next message says its sequence
			*out = append(*out, Message{Stream: q.Stream, Data: m.Data, Problem: fmt.Errorf("%w: the headers do not parse", task.ErrBadHeader)})
		default:
			return 0, fmt.Errorf("the broker refuses to read: %s %s", status, m.Header.Get("Description"))
		}
	}
}

// stored is the message that a direct get returned, and the sequence of the one
// before it in the batch.
func stored(m *nats.Msg) (Message, uint64, error) {
	out := Message{Stream: pop(m.Header, headerStream), Subject: pop(m.Header, headerSubject), Header: m.Header, Data: m.Data}
	var err error
	if out.Sequence, err = strconv.ParseUint(pop(m.Header, headerSequence), 10, 64); err != nil {
		return out, 0, fmt.Errorf("the broker's answer: %w", err)
	}
	if out.StoredAt, err = time.Parse(time.RFC3339Nano, pop(m.Header, headerStored)); err != nil {
		return out, 0, fmt.Errorf("the broker's answer: %w", err)
	}
	before, _ := strconv.ParseUint(pop(m.Header, headerLast), 10, 64)
	pop(m.Header, headerPending)
	return out, before, nil
}

// pop takes the last value of a header away: the broker appends its own to those
// that were stored.
func pop(h nats.Header, name string) string {
	vs := h[name]
	if len(vs) == 0 {
		return ""
	}
	v := vs[len(vs)-1]
	if vs = vs[:len(vs)-1]; len(vs) == 0 {
		delete(h, name)
	} else {
		h[name] = vs
	}
	return v
}

// apiPrefix is what the subjects of the JetStream API start with for js.
func apiPrefix(js jetstream.JetStream) string {
	o := js.Options()
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	return jetstream.DefaultAPIPrefix
}
