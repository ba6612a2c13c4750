package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

// Breaker puts a circuit breaker before each destination of a kind. destination
// names it from the arguments, such as the host of a URL; "" means none, and such
// a task always runs. It is called for every task before its handler, and should be
// quick. All processes of the service share the breakers, as package circuit says,
// and so do its kinds: destinations that are not to be one need different names.
//
// While a breaker is open its tasks wait on a timer of RETRY with reason "circuit",
// burn no attempt, and come back spread over p.Spread after its end; a half-open one
// lets its probes through and has the others wait on. Waiting has no end of its own:
// a deadline of the task ends it.
//
// A failure of the destination is every error that makes the next attempt of the
// task, or its death after the last one: time limit and abandoned handler included.
// [BreakerFailure] can take some of them out. What says nothing about it: an error
// marked by [retry.Permanent], a panic, the death of a process, a lost lease, a
// drain. [retry.After] of a second or more opens the breaker for that long, at most
// 24 h, so that all its tasks wait as the destination asked.
func Breaker[T task.Args](p breaker.Policy, destination func(args T) string) HandlerOption {
	return handlerOption(func(k *kind) error {
		if destination == nil {
			return errors.New("breaker: it needs a function that names the destination")
		}
		if _, ok := k.args.(T); !ok {
			var zero T
			return fmt.Errorf("breaker: its function takes %T, the handler %T", zero, k.args)
		}
		if k.breaking == nil {
			k.breaking = &breaking{}
		}
		k.breaking.policy = p
		k.breaking.destination = func(t *Task) (name string, err error) {
			defer func() { // as invoke does; it is the task's fault
				if v := recover(); v != nil {
					err = &PanicError{Value: v}
				}
			}()
			var args T
			if err := task.Unmarshal(t.Body, &args); err != nil {
				return "", &undecodableError{err}
			}
			t.args = args
			return destination(args), nil
		}
		return p.Validate()
	})
}

// BreakerFailure says which errors of the handler are failures of its destination,
// of those that [Breaker] would take for one; the others say nothing about it. It
// does nothing without Breaker. The error of a task that ran in a child process is
// its text alone.
func BreakerFailure(is func(error) bool) HandlerOption {
	return handlerOption(func(k *kind) error {
		if k.breaking == nil {
			k.breaking = &breaking{}
		}
		k.breaking.failure = is
		return nil
	})
}

// breaking is what a kind says of breakers.
type breaking struct {
	policy      breaker.Policy
	destination func(*Task) (string, error) // nil: without breakers
	failure     func(error) bool            // nil: all
}

// startBreakers shares the breakers of this worker until end is called.
func (w *Worker) startBreakers() (end func(), err error) {
	wanted := false
	for _, k := range w.kinds {
		if k.breaking != nil && k.breaking.destination == nil {
			k.breaking = nil
		}
		wanted = wanted || k.breaking != nil
	}
	if !wanted {
		return func() {}, nil
	}
	if w.breakers, err = circuit.New(w.js, w.service, w.log, w.meter); err != nil {
		return nil, err
	}
	return beside(w.breakers.Run), nil
}

// enter asks the breaker of the task's destination whether it may run. It answers
// from memory.
func (l *lane) enter(d *delivery) (verdict, bool) {
	b := d.run.kind.breaking
	name, err := b.destination(&d.task)
	if err != nil {
		return d.run.verdict(l, d, err), false
	}
	if name == "" {
		return verdict{}, true
	}
	call, v := l.w.breakers.Enter(b.policy, name)
	if !v.Admitted {
		delay := v.From
		if v.Over > 0 {
			delay += rand.N(v.Over)
		}
		return verdict{outcome: again, reason: task.Circuit, delay: max(delay, time.Millisecond)}, false
	}
	d.run.call = &call
	return verdict{}, true
}

// left tells the breaker how the call went.
func (l *lane) left(d *delivery, v verdict) {
	call := *d.run.call
	d.run.call = nil
	if v.outcome == done { // asking for the cause of its end makes a context
		l.w.breakers.Done(call, breaker.Result{Outcome: breaker.Success})
		return
	}
	l.w.breakers.Done(call, d.run.kind.breaking.result(v, context.Cause(d.run.ctx)))
}

// result is what a verdict that is not done says of the destination.
func (b *breaking) result(v verdict, cause error) breaker.Result {
	if errors.Is(cause, ErrLeaseLost) || errors.Is(v.err, ErrLeaseLost) {
		return breaker.Result{}
	}
	if d, ok := retry.AsAfter(v.err); ok && v.reason == task.PutOff {
		return breaker.Result{Outcome: breaker.Asked, After: d, Why: v.err.Error()}
	}
	if _, ok := errors.AsType[*PanicError](v.err); ok || v.reason != task.Retried && v.reason != task.Failed {
		return breaker.Result{}
	}
	if b.failure != nil && !b.failure(v.err) {
		return breaker.Result{}
	}
	return breaker.Result{Outcome: breaker.Failure, Why: v.err.Error()}
}
