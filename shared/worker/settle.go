package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

const (
	tryLimit   = 5 * time.Second        // of one request to the broker
	fetchLimit = 30 * time.Second       // of one try to read a body
	ackLimit   = 2 * time.Second        // of a confirmed acknowledgement
	retryFirst = 100 * time.Millisecond // between tries at what the broker refuses
	retryMost  = 5 * time.Second
)

// settle ends a delivery: this is the one place where a message is acknowledged.
// It is called once for each, by whoever moved it to phaseSettling.
//
//	done, superseded   acknowledge
//	again              store in RETRY, then acknowledge
//	dead               store in DEAD, then acknowledge
//	lease lost         nothing: it is another worker's now
//
// While the broker refuses, settle keeps the delivery, its lease and its slot,
// and tries again: the handler does not run twice for that, and nothing is
// dropped to make room.
func (l *lane) settle(d *delivery, v verdict) {
	l.w.metrics.ran(l, &d.run)
	if d.run.call != nil {
		l.left(d, v)
	}
	ref := d.msg.Header[task.HeaderRef]
	if v.outcome == done && d.run.held && len(ref) == 0 { // as most deliveries end
		d.run.end(v)
		l.acks <- d
		return
	}
	settled, heard := false, false
	if l.holds(d) {
		switch v.outcome {
		case done:
			settled, heard = l.ackHeard(d)
		case superseded:
			settled = l.ack(d)
		case again, dead:
			settled = l.move(d, v)
		case lost:
		}
	}
	if !settled {
		v.outcome = lost
	}
	d.run.end(v)
	l.release(v.outcome, d)
	if heard {
		l.forget(d.task.Kind, ref[0])
	}
}

// release counts how deliveries ended, frees what they held, and pulls the next.
func (l *lane) release(as outcome, of ...*delivery) {
	now := time.Now()
	l.mu.Lock()
	for _, d := range of {
		l.byKind[d.run.kind].settled[as].Add(1)
		l.held.remove(d)
		l.load.held -= int(d.weight)
		if d.run.invoked {
			l.pace.add(d.run.ran)
		}
	}
	next := l.want(now)
	l.mu.Unlock()
	l.request(next, now)
}

// acknowledge sends the acknowledgements of tasks that are done, one after the
// other in one goroutine: the connection has one lock, held while it writes to
// the network, and slots that queue for it would stand still. It lets those that
// are about to be done go first, and sends what it has in the order of the stream:
// the broker removes the first message of a block at once, and rewrites blocks
// that lose others (BenchmarkDrain).
func (l *lane) acknowledge() {
	batch := make([]*delivery, 0, ackBatch)
	for {
		select {
		case d := <-l.acks:
			batch = append(batch, d)
		case <-l.acked:
			if len(l.acks) == 0 {
				return
			}
		}
		runtime.Gosched()
		for len(l.acks) > 0 && len(batch) < ackBatch {
			batch = append(batch, <-l.acks)
		}
		slices.SortFunc(batch, func(a, b *delivery) int { return cmp.Compare(a.sequence, b.sequence) })
		sent := batch[:0]
		for _, d := range batch {
			if l.w.nc.Publish(d.msg.Reply, nil) == nil {
				sent = append(sent, d)
				continue
			}
			l.settles.Go(func() { // not connected: this may take a while
				if l.ack(d) {
					l.release(done, d)
				} else {
					l.release(lost, d)
				}
			})
		}
		l.release(done, sent...)
		batch = batch[:0]
	}
}

const ackBatch = 64 // acknowledgements between two looks at the lane's lock

// ack acknowledges without waiting for an answer: one that is lost makes the
// task run again, which at-least-once allows, and an answer would halve the rate.
func (l *lane) ack(d *delivery) bool {
	return l.insist(d, "acknowledge a task", tryLimit, func(context.Context) error { return l.w.nc.Publish(d.msg.Reply, nil) })
}

// ackHeard acknowledges a task whose body is in BODIES. heard is false when the
// broker may not have it for good: the body has to stay then, because a task that
// comes back without its body is dead-lettered although it was done. Only an answer
// to the first try counts. A leader that is cut off from the others answers the
// second one from what it remembers of the first, which it could not store.
func (l *lane) ackHeard(d *delivery) (settled, heard bool) {
	tries := 0
	settled = l.insist(d, "acknowledge a task", tryLimit, func(ctx context.Context) error {
		tries++
		_, err := l.w.nc.RequestWithContext(ctx, d.msg.Reply, nil)
		return err
	})
	return settled, settled && tries == 1
}

// move publishes the task to where it goes on, sees that it is stored, and only
// then acknowledges the original.
func (l *lane) move(d *delivery, v verdict) bool {
	msg := l.moved(d, v, time.Now())
	stream := task.RetryStream
	if v.outcome == dead {
		stream = task.DeadStream
	}
	span := noSpan
	if d.run.span.IsRecording() {
		_, span = l.w.tracer.Start(d.run.ctx, moveSpans[v.outcome]+d.task.Kind, trace.WithSpanKind(trace.SpanKindProducer))
		defer span.End()
		span.SetAttributes(
			attribute.String(telemetry.MessagingSystem, "nats"),
			attribute.String(telemetry.MessagingDestination, stream),
			attribute.String(telemetry.TaskID, d.task.ID),
			attribute.String(telemetry.TaskKind, d.task.Kind),
			attribute.String(telemetry.TaskClass, string(l.class.Name)),
			attribute.String(telemetry.TaskReason, string(v.reason)),
			attribute.Float64("task.delay", v.delay.Seconds()),
		)
	}
	stored := l.insist(d, "move a task to "+stream, tryLimit, func(ctx context.Context) error {
		ctx, release := l.w.unlessRefused(ctx, msg.Subject)
		defer release()
		_, err := l.w.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(stream))
		return broker.Why(ctx, err)
	})
	if !stored {
		span.SetStatus(codes.Error, "not stored")
		return false
	}
	l.w.metrics.moved(l, &d.run, v)
	l.tell(d, v)
	l.confirm(d)
	return true
}

// tell logs a move: a death as an error, a failed attempt as a warning, and what waits
// without an attempt for who debugs.
func (l *lane) tell(d *delivery, v verdict) {
	level, text := slog.LevelDebug, "task waits"
	switch {
	case v.outcome == dead:
		level, text = slog.LevelError, "task is dead"
	case v.reason == task.Retried || v.reason == task.Suspect:
		level, text = slog.LevelWarn, "attempt failed: the task runs again"
	}
	if !l.w.log.Enabled(d.run.ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String(telemetry.TaskKind, d.task.Kind), slog.String(telemetry.TaskID, d.task.ID),
		slog.String(telemetry.TaskClass, string(l.class.Name)), slog.Int(telemetry.TaskAttempt, d.task.Attempt+1),
		slog.String(telemetry.TaskReason, string(v.reason)),
	}
	if v.delay > 0 {
		attrs = append(attrs, slog.Duration("delay", v.delay))
	}
	if v.err != nil {
		attrs = append(attrs, slog.Any("error", v.err))
	}
	l.w.log.LogAttrs(d.run.ctx, level, text, attrs...) //nolint:sloglint // it is one of three
}

var moveSpans = map[outcome]string{again: "retry ", dead: "dead "}

// moved is the message that carries the task on. Its id is derived from the
// delivered message alone, so that two moves of one message are one.
func (l *lane) moved(d *delivery, v verdict, now time.Time) *nats.Msg {
	st, _ := l.state(d) // as far as it can be read
	st.Hop++
	st.Deaths = d.deaths(st.Deaths)
	st.Reason = v.reason
	here := telemetry.Traceparent(trace.SpanContextFromContext(d.run.ctx))
	failed := task.Failure{Attempt: st.Attempt + 1, At: now, Trace: here}
	if v.err != nil {
		failed.Error = v.err.Error()
	}
	switch v.reason {
	case task.Retried, task.Failed, task.Permanent:
		st.Attempt++
		st.Fail(failed)
		st.Prev = here
	case task.Suspect:
		if death, ok := errors.AsType[*deathError](v.err); ok {
			st.Deaths = death.deaths
		}
		// It has to die alone once before it is condemned: deaths in company
		// may have been a neighbour's fault.
		st.Deaths = min(st.Deaths, l.class.MaxDeliver-1)
		st.Fail(failed)
		st.Prev = here
	case task.PutOff, task.Circuit, task.Cap, task.Limited:
		st.Prev = here
	case task.GaveBack:
	default:
		if death, ok := errors.AsType[*deathError](v.err); ok {
			st.Deaths = death.deaths
		}
		st.Fail(failed)
		st.Prev = here
	}
	st.Wait(v.reason, now)
	msg := &nats.Msg{Data: d.msg.Data}
	if v.outcome == dead {
		st.DiedAt = now
		msg.Subject = st.Subject.Dead(st.ID)
	} else {
		msg.Subject = st.Subject.RetryReady(st.ID)
	}
	msg.Header = st.Header(d.msg.Header)
	msg.Header[nats.MsgIdHdr] = []string{st.MoveID()}
	if telemetry.Carrier(msg.Header).Get("traceparent") == "" && here != "" {
		telemetry.Carrier(msg.Header).Set("traceparent", here) // a raw task's first attempt is its root
	}
	if v.outcome == again && v.delay > 0 {
		msg.Header[task.HeaderSchedule] = []string{"@at " + now.Add(v.delay).UTC().Format(time.RFC3339Nano)}
		msg.Header[task.HeaderScheduleTarget] = []string{msg.Subject}
		msg.Subject = st.Subject.RetryWait(st.ID)
	}
	return msg
}

// confirm acknowledges a moved original and sees that the broker heard it: a
// second life of the original would fork the task. When it gives up, because the
// lease is lost, the worker that gets the original finds the move.
func (l *lane) confirm(d *delivery) {
	l.insist(d, "acknowledge a moved task", ackLimit, func(ctx context.Context) error {
		_, err := l.w.nc.RequestWithContext(ctx, d.msg.Reply, nil)
		return err
	})
}

// insist tries until f succeeds, the lease is lost, or the worker has to end. It
// reports whether f succeeded. Meanwhile the worker is not ready, and says why.
func (l *lane) insist(d *delivery, doing string, limit time.Duration, f func(context.Context) error) bool {
	wait := retryFirst
	troubled := false
	for {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		err := f(ctx)
		cancel()
		if err == nil {
			if troubled {
				l.report(doing, nil)
				l.w.log.InfoContext(d.run.ctx, "the broker accepts again", slog.String("doing", doing))
			}
			return true
		}
		if !troubled {
			troubled = true
			l.w.log.WarnContext(d.run.ctx, "the broker refuses: the task keeps its slot until it accepts",
				slog.String("doing", doing), slog.Any("error", err),
				slog.String(telemetry.TaskID, d.task.ID), slog.String(telemetry.TaskKind, d.task.Kind))
		}
		l.report(doing, err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.w.giveUp:
			timer.Stop()
			return false
		}
		if !l.holds(d) {
			l.report(doing, nil)
			return false
		}
		wait = min(2*wait, retryMost)
	}
}

// movedBefore reports whether an earlier delivery of this message was moved, and
// its worker died before it could acknowledge. It asks the leaders: a follower
// may not know yet. ok is false when they could not be asked while the lease lasted.
func (l *lane) movedBefore(d *delivery, st *task.State) (moved, ok bool) {
	ok = l.insist(d, "look for an earlier move", tryLimit, func(ctx context.Context) error {
		for _, at := range []struct{ stream, subject string }{
			{task.RetryStream, st.Subject.Retry(st.ID)},
			{task.DeadStream, st.Subject.Dead(st.ID)},
		} {
			other, err := l.last(ctx, at.stream, at.subject)
			if err != nil {
				return err
			}
			if other != nil && other.Later(st) {
				moved = true
			}
		}
		return nil
	})
	return moved, ok
}

// last returns the state of the last message of a subject, as the leader of its
// stream has it, and nil when there is none.
func (l *lane) last(ctx context.Context, stream, subject string) (*task.State, error) {
	ctx, release := l.w.unlessRefused(ctx, broker.API(l.w.js, "STREAM.MSG.GET."+stream))
	defer release()
	m, err := stored.Get(ctx, l.w.js, stream, stored.Which{Last: subject})
	if errors.Is(err, stored.ErrGone) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, broker.Why(ctx, err)
	}
	st, _ := task.ReadState(m.Subject, m.Header, task.Stored{Stream: stream, Sequence: m.Sequence, Time: m.Time}) // hop and generation are read in any case
	return &st, nil
}

// forget removes the body of a finished task from the object store. What it
// cannot remove is an orphan there, and harms nobody.
func (l *lane) forget(kind, ref string) {
	ctx, cancel := context.WithTimeout(context.Background(), tryLimit)
	defer cancel()
	if err := bodies.RemoveOf(ctx, l.w.js, kind, ref); err != nil {
		l.w.log.WarnContext(ctx, "the body of a finished task stays in the object store", slog.String("ref", ref), slog.Any("error", err))
	}
}
