package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// run is one attempt at a delivery: its span, and what its handler needs.
type run struct {
	ctx     context.Context //nolint:containedctx // it is the handler's
	span    trace.Span
	kind    *kind          // nil when there is no handler for it
	invoked bool           // the handler ran and returned
	held    bool           // and the lease was good then
	ran     time.Duration  // in the handler
	call    *circuit.Call  // nil when no breaker asks how it went
	permit  *permit.Permit // nil when it needs none
	slot    *quota.Answer  // of its rate limit; nil when it has none
}

// verdict says how a delivery is settled, and why.
type verdict struct {
	outcome outcome
	reason  task.Reason   // of a move
	delay   time.Duration // of a move to RETRY's timers; 0 makes it due at once
	err     error         // nil when it is done
}

type outcome int

const (
	done       outcome = iota // acknowledge: the handler returned nil
	superseded                // acknowledge: an earlier delivery of this message was moved already
	again                     // move to RETRY
	dead                      // move to DEAD
	lost                      // nothing: the lease ran out, or the worker had to end
)

// verdicts are the names of outcomes in metrics and spans.
var verdicts = [...]string{done: "done", superseded: "superseded", again: "moved", dead: "dead", lost: "lost"}

const hopelessAfter = 10 // deliveries of one message after which even a child is not tried

// run takes one delivery to its end.
func (l *lane) run(s *slot, d *delivery) {
	st, bad := l.state(d)
	d.task.Info = task.Info{
		ID: st.ID, Class: st.Subject.Class, Tenant: st.Subject.Tenant,
		Attempt: st.Attempt, Generation: st.Generation, EnqueuedAt: st.EnqueuedAt, Deadline: st.Deadline,
	}
	l.begin(d, &st)
	handler, v := l.prepare(d, &st, bad)
	if handler == nil {
		d.run.permit.Release()
		l.settle(d, v)
		return
	}
	err, ours := l.handle(s, d, handler)
	d.run.permit.Release()
	if !ours { // it was settled without us
		l.returned(s)
		return
	}
	l.settle(d, d.run.verdict(l, d, err))
}

// begin starts the span of an attempt: a child of the publish span, or the root
// of the trace of a task that came without one, linked to the attempt before. A
// task whose publish was not sampled gets none.
func (l *lane) begin(d *delivery, st *task.State) {
	r := &d.run
	r.kind = l.w.kinds[st.Subject.Action]
	name := ""
	if r.kind != nil {
		name, d.task.Kind = r.kind.spanName, r.kind.name
	} else { // the action may be anything, and names of spans are to be few
		name, d.task.Kind = "process "+l.w.service, st.Subject.Kind()
	}
	d.ctx.d, r.ctx, r.span = d, &d.ctx, noSpan
	if telemetry.Unsampled(d.msg.Header) {
		return
	}
	ctx := telemetry.Extract(context.Background(), d.msg.Header)
	opts := spanOptions
	if st.Prev != "" {
		prev := telemetry.ParseTraceparent(st.Prev)
		if prev.IsValid() && !prev.Equal(trace.SpanContextFromContext(ctx)) { // Jaeger shows a parent that is also a link as a link
			opts = append(slices.Clip(opts), trace.WithLinks(trace.Link{SpanContext: prev}))
		}
	}
	ctx, r.span = l.w.tracer.Start(ctx, name, opts...) //nolint:spancheck // end ends it
	d.ctx.values = task.NewContext(ctx, &d.task.Info)  //nolint:fatcontext // d.ctx is new, and not under ctx
	if r.span.IsRecording() {
		r.span.SetAttributes(l.spanAttributes...)
		r.span.SetAttributes(
			attribute.String(telemetry.TaskID, st.ID),
			attribute.String(telemetry.TaskKind, st.Subject.Kind()),
			attribute.Int(telemetry.TaskAttempt, st.Attempt+1),
			attribute.Int(telemetry.TaskGeneration, st.Generation),
			attribute.Int(telemetry.TaskDeaths, d.deaths(st.Deaths)),
			attribute.String(telemetry.MessagingMessageID, st.ID),
			attribute.Int64(telemetry.MessagingSequence, int64(d.sequence)),
		)
		if st.Subject.Tenant != "" {
			r.span.SetAttributes(attribute.String(telemetry.TaskTenant, st.Subject.Tenant))
		}
	}
}

// Attributes are set on spans that are recorded only: on the others they would
// cost more than the rest of the span (BenchmarkDrain).
var spanOptions = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}

// noSpan records nothing.
var noSpan = trace.SpanFromContext(context.Background())

// end closes the span with what became of the delivery.
func (r *run) end(v verdict) {
	if r.span.IsRecording() {
		r.span.SetAttributes(attribute.String(telemetry.TaskVerdict, verdicts[v.outcome]))
		if v.reason != "" {
			r.span.SetAttributes(attribute.String(telemetry.TaskReason, string(v.reason)))
		}
		if v.err != nil {
			r.span.SetAttributes(attribute.String(telemetry.ErrorType, errorType(v)))
			r.span.SetStatus(codes.Error, v.err.Error())
		}
	}
	r.span.End()
}

// prepare decides what can be decided without running the handler. It returns
// the handler, with the body in d.task, or a nil handler and the verdict.
func (l *lane) prepare(d *delivery, st *task.State, bad error) (Handler, verdict) {
	bury := func(reason task.Reason, err error) (Handler, verdict) {
		return nil, verdict{outcome: dead, reason: reason, err: err}
	}
	if d.delivered > 1 {
		l.w.metrics.death(l, &d.run)
		if moved, ok := l.movedBefore(d, st); moved || !ok {
			return nil, verdict{outcome: superseded} // when not ok, the lease is lost and settle does nothing
		}
	}
	k := d.run.kind
	switch {
	case l.draining.Load():
		return nil, verdict{outcome: again, reason: task.GaveBack}
	case bad != nil:
		return bury(task.Undecodable, bad)
	case k == nil:
		return bury(task.UnknownKind, fmt.Errorf("service %s has no handler for %s: deploy one that does, then redrive", l.w.service, d.task.Kind))
	case d.delivered > hopelessAfter:
		return bury(task.CrashLoop, fmt.Errorf("%d deliveries of one message ended in no verdict", d.delivered-1))
	case !st.Deadline.IsZero() && !time.Now().Before(st.Deadline):
		return bury(task.Expired, fmt.Errorf("its deadline %s had passed before it could start", st.Deadline.Format(time.RFC3339)))
	}
	handler := k.handler
	deaths := d.deaths(st.Deaths)
	suspect := deaths >= l.class.suspectFrom()
	if suspect && l.kind == liveLane {
		return nil, verdict{outcome: again, reason: task.Suspect, err: &deathError{deaths: deaths, how: "its worker died or hung"}}
	}
	if suspect && st.Deaths >= l.class.suspectFrom() {
		deaths = st.Deaths // since then it ran alone: deaths of the parent were not its fault
	}
	if suspect || k.isolation != nil {
		handler = l.inChild(d, deaths)
	}
	var err error
	d.task.Body, err = l.body(d, st)
	switch {
	case errors.Is(err, bodies.ErrNotFound) && d.delivered == 1:
		// Done elsewhere, if a leader that was one no more handed it out to here: then it
		// does not come back. Else it does, an ack-wait later.
		return nil, verdict{outcome: lost}
	case errors.Is(err, task.ErrBadBody):
		return bury(task.Undecodable, err)
	case err != nil:
		return nil, verdict{outcome: lost} // BODIES could not be asked for as long as the lease lasted
	}
	if k.breaking != nil {
		if v, ok := l.enter(d); !ok {
			return nil, v
		}
	}
	if k.capping != nil {
		var v verdict
		if handler, v = l.capped(d, handler); handler == nil {
			return nil, v
		}
	}
	if k.limiting != nil {
		if v, ok := l.admit(d, st); !ok {
			return nil, v
		}
	}
	return handler, verdict{}
}

// body returns the arguments in msgpack: fetched, decompressed and checked, so
// that decoding them cannot exhaust the process.
func (l *lane) body(d *delivery, st *task.State) ([]byte, error) {
	body := d.msg.Data
	if st.Ref != "" {
		var err error
		if body, err = l.fetch(d, st.Ref); err != nil {
			return nil, err
		}
	}
	if st.Encoding == task.EncodingZstd {
		var err error
		if body, err = task.Decompress(body, 0); err != nil {
			return nil, err
		}
	}
	return body, task.Check(body, task.Limits{})
}

// fetch returns a body that was too large for a message. It waits for BODIES as
// settle waits for RETRY: that it does not answer is no fault of the task.
func (l *lane) fetch(d *delivery, ref string) (body []byte, err error) {
	if !l.insist(d, "fetch a body from "+task.BodiesBucket, fetchLimit, func(ctx context.Context) error {
		body, err = bodies.Get(ctx, l.w.js, ref)
		if errors.Is(err, bodies.ErrNotFound) {
			err = fmt.Errorf("%w: %s: %w", task.ErrBadBody, task.HeaderRef, err)
		}
		if errors.Is(err, task.ErrBadBody) {
			return nil // an answer, and a final one
		}
		return err
	}) {
		return nil, ErrLeaseLost
	}
	return body, err
}

// handle runs the handler under the task's time limit. ours is false when the
// handler ignored its cancelled context for so long that it was abandoned.
func (l *lane) handle(s *slot, d *delivery, h Handler) (err error, ours bool) { //nolint:revive // the error is the handler's, not handle's
	r := &d.run
	limit := r.kind.limit(l.class)
	start := time.Now()
	end := start.Add(limit)
	d.ctx.deadline = end
	defer d.ctx.end(context.Canceled)

	l.mu.Lock()
	switch { // what has changed while it was prepared, or on its way
	case !l.lapse(d, start):
		err = ErrLeaseLost
	case l.draining.Load():
		d.ctx.end(ErrDraining)
		err = ErrDraining
	case r.slot != nil && r.slot.Late(start):
		err = errLate
	}
	if err != nil {
		l.mu.Unlock()
		return err, true
	}
	d.phase, d.slot, d.limit = phaseRunning, s, end
	s.arm(d, end)
	l.running++
	l.mu.Unlock()
	l.w.metrics.started(l, r, start, d)

	err = invoke(r.ctx, h, &d.task)

	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.phase == phaseAbandoned {
		return nil, false
	}
	r.invoked, r.ran, d.phase = true, now.Sub(start), phaseSettling
	l.running--
	r.held = l.lapse(d, now)
	return err, true
}

// arm has the slot's one timer go off no later than end, the time limit of d. A
// timer that is set for earlier is left alone and looks again when it goes off,
// because setting it for each task costs more (BenchmarkDrain). lane.mu is held.
func (s *slot) arm(d *delivery, end time.Time) {
	s.current = d
	if s.timer != nil && !end.Before(s.fires) {
		return
	}
	s.fires = end
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(end), s.timeUp)
		return
	}
	s.timer.Reset(time.Until(end))
}

func (s *slot) timeUp() {
	now := time.Now()
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	d := s.current
	if d.phase == phaseRunning && now.Before(d.limit) { // it was set for an earlier one
		s.fires = d.limit
		s.timer.Reset(d.limit.Sub(now))
		return
	}
	s.fires = now.Add(never)
	if d.phase == phaseRunning {
		d.endRun(now, ErrTimeLimit)
	}
}

const never = 1000 * time.Hour // a timer that is not set: later than any time limit

// PanicError is the failure of a handler that panicked.
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // of the goroutine that panicked
}

// Error returns the value and the stack: it is what a dead letter keeps.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

func invoke(ctx context.Context, h Handler, t *Task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return h(ctx, t)
}

// verdict turns what the handler returned into how its delivery is settled.
func (r *run) verdict(l *lane, d *delivery, err error) verdict {
	if err == nil {
		return verdict{outcome: done}
	}
	if errors.Is(err, errLate) {
		return verdict{outcome: again, reason: task.Limited, delay: lateDelay}
	}
	cause := context.Cause(r.ctx)
	if errors.Is(cause, ErrTimeLimit) && !errors.Is(err, ErrTimeLimit) {
		err = fmt.Errorf("%w (%v): %w", ErrTimeLimit, r.kind.limit(l.class), err)
	}
	if errors.Is(cause, ErrDraining) {
		return verdict{outcome: again, reason: task.GaveBack, err: err}
	}
	if errors.Is(cause, ErrPermitLost) || errors.Is(err, ErrPermitLost) {
		return verdict{outcome: again, reason: task.Cap, delay: permitLostDelay(), err: err}
	}
	if death, ok := errors.AsType[*deathError](err); ok {
		l.w.metrics.death(l, r)
		if death.deaths >= l.class.MaxDeliver {
			return verdict{outcome: dead, reason: task.CrashLoop, err: err}
		}
		return verdict{outcome: again, reason: task.Suspect, err: err}
	}
	if _, ok := errors.AsType[*undecodableError](err); ok {
		return verdict{outcome: dead, reason: task.Undecodable, err: err}
	}
	if retry.IsPermanent(err) {
		return verdict{outcome: dead, reason: task.Permanent, err: err}
	}
	if delay, ok := retry.AsAfter(err); ok {
		return verdict{outcome: again, reason: task.PutOff, delay: delay, err: err}
	}
	policy, failed := r.kind.policy(l.class), d.task.Attempt+1
	if policy.Spent(failed) {
		return verdict{outcome: dead, reason: task.Failed, err: err}
	}
	return verdict{outcome: again, reason: task.Retried, delay: policy.Delay(failed), err: err}
}

// deathError is the failure of a task whose process died under it.
type deathError struct {
	deaths int // this one included
	how    string
}

func (e *deathError) Error() string {
	return fmt.Sprintf("death %d: %s", e.deaths, e.how)
}

// errorType is the closed set of values of error.type.
func errorType(v verdict) string {
	if end, ok := errors.AsType[*endError](v.err); ok {
		return string(end.reason)
	}
	switch {
	case errors.Is(v.err, ErrAbandoned):
		return "abandoned"
	case errors.Is(v.err, ErrTimeLimit):
		return "time_limit"
	case errors.Is(v.err, ErrLeaseLost):
		return "lease_lost"
	case errors.Is(v.err, ErrPermitLost):
		return "permit_lost"
	case v.outcome == dead && v.reason != task.Failed:
		return string(v.reason)
	}
	if _, ok := errors.AsType[*PanicError](v.err); ok {
		return "panic"
	}
	return "_OTHER" // as semconv has it
}
