package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/streams"
)

// death is a task that no consumer will deliver again.
type death struct {
	lane       streams.Consumer // that gave it up
	sequence   uint64           // in the lane's stream
	at         time.Time        // when the broker did; zero when nobody told us
	deliveries int              // that ended in no verdict
	reason     task.Reason
	text       string
}

// Outcomes of bury, which are labels of a metric.
const (
	copied  = "copied"  // it is in DEAD now, and not where it was
	settled = "settled" // a move of it was stored before; the original is deleted now
	gone    = "gone"    // there is nothing left to do
)

// bury moves a task to DEAD in the order that loses nothing: copy, see that the
// copy is stored, delete the original. Each step may be done twice:
//
//	before the copy       nothing has happened
//	copied, not deleted   the next try finds the letter, which has a later hop, and
//	                      deletes; within ten minutes the broker also drops a copy
//	                      with the same message id
//	deleted               the next try finds nothing
func (r *run) bury(ctx context.Context, d *death) (outcome string, err error) {
	m, err := stored.Get(ctx, r.js, d.lane.Stream, stored.Which{Sequence: d.sequence})
	if missing(err) {
		return gone, nil // acknowledged late, moved by its worker, or buried by another process
	}
	if err != nil {
		return "", err
	}
	// The stream may have been made anew, and the sequence be another task's.
	if !taken(d.lane, m.Subject) || !d.at.IsZero() && m.Time.After(d.at) {
		return gone, nil
	}
	st := stateOf(&m)
	moved, err := r.moved(ctx, &st)
	if err != nil {
		return "", err
	}
	outcome = settled
	if !moved {
		if err := r.store(ctx, d, &m, st); err != nil {
			return "", err
		}
		outcome = copied
		r.metrics.dead(ctx, d.reason, &st)
		if r.trouble.set(moving, nil) {
			r.log.InfoContext(ctx, "tasks that the broker gave up on are moved again")
		}
	}
	if afterCopy != nil {
		afterCopy()
	}
	if _, err := stored.Delete(ctx, r.js, d.lane.Stream, d.sequence); err != nil && !missing(err) {
		return "", err
	}
	r.log.DebugContext(ctx, "a task that the broker gave up on is moved", slog.String("outcome", outcome),
		slog.String(telemetry.TaskID, st.ID), slog.String(telemetry.TaskKind, st.Subject.Kind()),
		slog.String("stream", d.lane.Stream), slog.Uint64("sequence", d.sequence))
	return outcome, nil
}

// afterCopy is where a test ends the process.
var afterCopy func()

// moved reports whether the task goes on elsewhere: RETRY or DEAD has it with a
// later hop or generation than the message that was given up.
func (r *run) moved(ctx context.Context, st *task.State) (bool, error) {
	for _, at := range []struct{ stream, subject string }{
		{task.RetryStream, st.Subject.Retry(st.ID)},
		{task.DeadStream, st.Subject.Dead(st.ID)},
	} {
		m, err := stored.Get(ctx, r.js, at.stream, stored.Which{Last: at.subject})
		if missing(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		if other := stateOf(&m); other.Later(st) {
			return true, nil
		}
	}
	return false, nil
}

// store publishes the letter and returns nil once the broker has confirmed it. It
// is what the task's worker would have written.
func (r *run) store(ctx context.Context, d *death, m *stored.Message, st task.State) error {
	now := time.Now()
	st.Hop++
	st.Deaths += d.deliveries
	st.Reason = d.reason
	st.Fail(task.Failure{Attempt: st.Attempt + 1, At: now, Error: d.text})
	st.DiedAt = now
	msg := &nats.Msg{Subject: st.Subject.Dead(st.ID), Data: m.Data, Header: st.Header(m.Header)}
	msg.Header[task.HeaderMsgID] = []string{st.MoveID()}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	if _, err := r.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(task.DeadStream)); err != nil {
		return fmt.Errorf("store a dead letter: %w%s", err, full(err))
	}
	return nil
}

// full is what to do about a DEAD that refuses; "" for other errors.
func full(err error) string {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && (e.ErrorCode == codeStoreFailed || e.ErrorCode == codeNoResources) {
		return ": redrive or discard letters (drover dead ls), or give DEAD more room in the fleet file"
	}
	return ""
}

const (
	codeNoResources = 10023
	codeStoreFailed = 10077 // a limit of the stream, among others
)
