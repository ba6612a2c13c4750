package stored

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/task"
)

// Headers that the broker adds to what a direct get returns, and of its end.
const (
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerPending  = "Nats-Num-Pending"
	headerLast     = "Nats-Last-Sequence"
	headerStatus   = "Status"
)

// parse reads one answer to a direct get. The error wraps errEnd when it is the end
// of a batch, after which rest messages follow, or there is no such message.
//
// A stored message is told by its sequence, which the broker adds at the end of the
// headers. All else in them anyone may have written, a status included.
func parse(answer *nats.Msg, stream string) (m Message, rest uint64, err error) {
	h := answer.Header
	m = Message{Stream: stream, Header: h, Data: answer.Data}
	if len(h[headerSequence]) == 0 {
		switch status := h.Get(headerStatus); status {
		case "204", "404":
			rest, _ = strconv.ParseUint(h.Get(headerPending), 10, 64) // a 404 does not have it
			return m, rest, errEnd
		case "503":
			return m, 0, errNobody
		case "": // nats.go could not decode the headers, and drops them all
			m.Problem = fmt.Errorf("%w: the headers do not parse", task.ErrBadHeader)
			return m, 0, nil
		default:
			return m, 0, fmt.Errorf("the broker refuses to read: %s %s", status, h.Get("Description"))
		}
	}
	if m.Sequence, err = strconv.ParseUint(pop(h, headerSequence), 10, 64); err != nil {
		return m, 0, fmt.Errorf("the broker's answer: %w", err)
	}
	if m.Time, err = time.Parse(time.RFC3339Nano, pop(h, headerTime)); err != nil {
		return m, 0, fmt.Errorf("the broker's answer: %w", err)
	}
	m.Subject = pop(h, headerSubject)
	pop(h, headerStream)
	return m, 0, nil
}

var errEnd = errors.New("there is no more")

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
