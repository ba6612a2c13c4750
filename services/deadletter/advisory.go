package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// advisory is what the broker says when it gives a message up (the types
// max_deliver and terminated of its advisories).
type advisory struct {
	Type       string    `json:"type"`
	Time       time.Time `json:"timestamp"`
	Stream     string    `json:"stream"`
	Consumer   string    `json:"consumer"`
	Sequence   uint64    `json:"stream_seq"`
	Deliveries int       `json:"deliveries"`
	Reason     string    `json:"reason"` // of one that was terminated
}

const (
	typeTerminated = "io.nats.jetstream.advisory.v1.terminated"

	advisoryFetch = 16 // at once: what waits here must not wait for longer than the ack-wait
	advisoryWait  = time.Second
	retryFirst    = time.Second // of an advisory that could not be handled
	retryMost     = time.Minute
)

func (r *run) advisories(ctx context.Context) (jetstream.Consumer, error) {
	c, err := r.js.Consumer(ctx, task.AdvisoryStream, consumerName)
	if err != nil {
		return nil, fmt.Errorf("open consumer %s/%s: %w: run `drover streams apply`", task.AdvisoryStream, consumerName, err)
	}
	return c, nil
}

// handleAdvisories handles what is in ADVISORIES until ctx is done. Processes
// share the durable, so each advisory is handled by one of them; one that dies
// with it leaves it to another when the ack-wait is over.
func (r *run) handleAdvisories(ctx context.Context, c jetstream.Consumer) {
	for ctx.Err() == nil {
		batch, err := c.Fetch(advisoryFetch, jetstream.FetchMaxWait(advisoryWait))
		if err == nil {
			for msg := range batch.Messages() {
				if ctx.Err() == nil { // what stays is delivered again
					r.handle(ctx, msg)
				}
			}
			err = batch.Error()
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			err = fmt.Errorf("read advisories: %w", err)
		}
		if r.trouble.set("read advisories", err); err != nil {
			sleep(ctx, retryFirst)
		}
		if time.Since(r.refused) > 2*retryMost {
			r.trouble.set(moving, nil)
		}
	}
}

// moving names the part of the work that handle does. Another process may get the
// advisories that failed here, so trouble with it ends by itself too.
const moving = "move what the broker gave up on"

// handle handles one advisory, and acknowledges it when that is done. What the
// broker refuses, a full DEAD above all, is tried again for as long as it takes,
// later each time; meanwhile the service is not ready and says why.
func (r *run) handle(ctx context.Context, msg jetstream.Msg) {
	var a advisory
	if err := json.Unmarshal(msg.Data(), &a); err != nil {
		r.log.WarnContext(ctx, "an advisory cannot be read and is left out", slog.Any("error", err), slog.String("subject", msg.Subject()))
		r.metrics.advisory(ctx, "unreadable")
		r.settle(ctx, msg.Ack())
		return
	}
	outcome, err := r.resolve(ctx, &a)
	switch {
	case err == nil:
		r.metrics.advisory(ctx, outcome)
		r.settle(ctx, msg.Ack())
		return
	case ctx.Err() != nil:
		return
	}
	r.refused = time.Now()
	err = fmt.Errorf("%s, %s %d: %w", moving, a.Stream, a.Sequence, err)
	if r.trouble.set(moving, err) {
		r.log.WarnContext(ctx, "a task that the broker gave up on cannot be moved; it stays where it is, and is tried again", slog.Any("error", err))
	}
	r.metrics.advisory(ctx, "refused")
	wait := retryFirst
	if meta, err := msg.Metadata(); err == nil {
		wait = min(retryFirst<<min(meta.NumDelivered-1, 10), retryMost)
	}
	r.settle(ctx, msg.NakWithDelay(wait))
}

// settle notes that an acknowledgement could not be sent: the advisory comes
// again, and is found done.
func (r *run) settle(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		r.log.DebugContext(ctx, "an advisory could not be acknowledged", slog.Any("error", err))
	}
}

// resolve does what an advisory asks for.
func (r *run) resolve(ctx context.Context, a *advisory) (string, error) {
	lane, ok, err := r.lane(ctx, a.Stream, a.Consumer)
	if err != nil {
		return "", err
	}
	if !ok {
		return "foreign", nil // of another application in this account, or a lane that is no more
	}
	d := &death{
		lane: lane, sequence: a.Sequence, at: a.Time,
		deliveries: a.Deliveries, reason: task.CrashLoop,
		text: fmt.Sprintf("the broker gave it up after %d deliveries that ended in no verdict", a.Deliveries),
	}
	if a.Type == typeTerminated {
		d.deliveries, d.reason, d.text = 0, task.Permanent, "its worker terminated it: "+a.Reason
	}
	outcome, err := r.bury(ctx, d)
	if outcome == gone && a.Type == typeTerminated && a.Reason != reasonLimits && a.Reason != reasonDeleted {
		r.log.WarnContext(ctx, "a worker terminated a task, which deletes it without a dead letter: workers are to move it to DEAD instead",
			slog.String("stream", a.Stream), slog.String("consumer", a.Consumer), slog.Uint64("sequence", a.Sequence), slog.String("reason", a.Reason))
		return "lost", nil
	}
	return outcome, err
}

// Reasons of the broker's own in an advisory of a terminated message: it was
// deleted while a worker held it, by a limit or by a person.
const (
	reasonLimits  = "Message deleted by stream limits"
	reasonDeleted = "Unacknowledged message was deleted"
)

// lane is the lane that this consumer is, and whether it is one. On a work-queue
// every consumer is a lane, also one that this process's fleet file does not have:
// a file that is out of date must not make a task disappear.
func (r *run) lane(ctx context.Context, stream, consumer string) (_ streams.Consumer, ok bool, _ error) {
	for _, c := range r.lanes {
		if c.Stream == stream && c.Config.Durable == consumer {
			return c, true, nil
		}
	}
	if stream != task.RetryStream && !strings.HasPrefix(stream, tasksPrefix) {
		return streams.Consumer{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	c, err := r.js.Consumer(ctx, stream, consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return streams.Consumer{}, false, nil
	case err != nil:
		return streams.Consumer{}, false, fmt.Errorf("read consumer %s/%s: %w", stream, consumer, err)
	}
	out := streams.Consumer{Stream: stream, Config: c.CachedInfo().Config, Retry: stream == task.RetryStream}
	filters := out.Filters()
	if len(filters) == 0 {
		return streams.Consumer{}, false, nil
	}
	part := strings.Split(strings.TrimPrefix(filters[len(filters)-1], "retry."), ".") // tasks or ready, class, service, and more
	if len(part) < 4 {
		return streams.Consumer{}, false, nil
	}
	out.Class, out.Service = task.Class(part[1]), part[2]
	return out, true, nil
}

const tasksPrefix = "TASKS_" // of every class's stream

// taken reports whether the consumer of a lane takes this subject.
func taken(lane streams.Consumer, subject string) bool {
	return slices.ContainsFunc(lane.Filters(), func(filter string) bool { return subjectMatches(filter, subject) })
}

func subjectMatches(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		switch {
		case i >= len(s):
			return false
		case token == ">":
			return true
		case token != "*" && token != s[i]:
			return false
		}
	}
	return len(f) == len(s)
}
