package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

// Task is one task as middleware sees it.
type Task struct {
	task.Info
	Body []byte // the arguments in msgpack, checked, decompressed; not to be changed

	args any // decoded, when that was necessary before
}

// Handler runs one task. Its error is the verdict: nil settles the task as done,
// [retry.Permanent] dead-letters it, [retry.After] puts it off, and any other
// error burns an attempt.
type Handler func(ctx context.Context, t *Task) error

// Middleware wraps the handler of every kind. The first one added is the outermost.
type Middleware func(next Handler) Handler

// HandlerOption configures one kind. It can only tighten what the class allows.
type HandlerOption interface{ applyHandler(*kind) error }

type handlerOption func(*kind) error

func (o handlerOption) applyHandler(k *kind) error { return o(k) }

// Timeout is the time limit of one run of this kind, when it is shorter than
// that of the class. One that no class of the worker allows is an error from Run.
func Timeout(d time.Duration) HandlerOption {
	return handlerOption(func(k *kind) error {
		if d <= 0 {
			return fmt.Errorf("timeout %v: want more than 0", d)
		}
		k.timeout = d
		return nil
	})
}

// Retry is the backoff of this kind. It may name at most as many attempts as the
// class; more is an error from Run. Zero fields mean those of the class.
func Retry(p retry.Policy) HandlerOption {
	return handlerOption(func(k *kind) error {
		k.retry = p
		return p.Validate()
	})
}

// kind is one registered handler.
type kind struct {
	name     string
	spanName string
	handler  Handler
	timeout  time.Duration // 0: the class's
	retry    retry.Policy  // zero fields: the class's
	args     any           // the zero value of its arguments

	isolation *isolation // nil: in the worker's own process
	breaking  *breaking  // nil: without breakers
	capping   *capping   // nil: without caps
	weight    int        // slots that a run takes; 0: one
	limiting  *limiting  // nil: without a rate limit
}

// Handle registers f for the kind of T. A mistake, such as a kind of another
// service, a nil f, or a kind registered twice, is returned by Run before it
// takes the first task. It must not be called after Run.
func Handle[T task.Args](w *Worker, f func(ctx context.Context, args T) error, opts ...HandlerOption) {
	var zero T
	k := &kind{name: zero.Kind(), spanName: "process " + zero.Kind(), args: zero}
	if f == nil {
		w.mistake(fmt.Errorf("handle %s: the handler is nil", k.name))
		return
	}
	k.handler = func(ctx context.Context, t *Task) error {
		if args, ok := t.args.(T); ok { // the destination was asked for
			return f(ctx, args)
		}
		var args T
		if err := task.Unmarshal(t.Body, &args); err != nil {
			return &undecodableError{err}
		}
		return f(ctx, args)
	}
	w.register(k, opts)
}

// undecodableError is a body that does not fit the handler's type: no attempt can
// mend that.
type undecodableError struct{ err error }

func (e *undecodableError) Error() string { return "decode arguments: " + e.err.Error() }
func (e *undecodableError) Unwrap() error { return e.err }

func (w *Worker) register(k *kind, opts []HandlerOption) {
	for _, o := range opts {
		if err := o.applyHandler(k); err != nil {
			w.mistake(fmt.Errorf("handle %s: %w", k.name, err))
		}
	}
	service, action, err := task.SplitKind(k.name)
	switch {
	case err != nil:
		w.mistake(fmt.Errorf("handle: %w", err))
	case service != w.service:
		w.mistake(fmt.Errorf("handle %s: this worker is of service %s, whose kinds start with %q", k.name, w.service, w.service+"."))
	case w.kinds[action] != nil:
		w.mistake(fmt.Errorf("handle %s: it has a handler already", k.name))
	default:
		w.kinds[action] = k
	}
}

// Use adds middleware around the handlers of all kinds. It must not be called
// after Run.
func (w *Worker) Use(mw ...Middleware) { w.middleware = append(w.middleware, mw...) }

func (w *Worker) mistake(err error) { w.mistakes = append(w.mistakes, err) }

// check returns all mistakes made so far, and contradictions between kinds and
// classes.
func (w *Worker) check() error {
	errs := w.mistakes
	if len(w.kinds) == 0 {
		errs = append(errs, errors.New("no handler is registered"))
	}
	for _, k := range w.kinds {
		if err := w.checkWeight(k); err != nil {
			errs = append(errs, err)
		}
		var limit time.Duration
		attempts := 0
		for _, c := range w.classes {
			limit, attempts = max(limit, c.TimeLimit), max(attempts, c.Retry.Attempts)
		}
		if k.timeout > limit {
			errs = append(errs, fmt.Errorf("handle %s: timeout %v is above the time limit of every class it is served in (%v)", k.name, k.timeout, limit))
		}
		if k.retry.Attempts > attempts {
			errs = append(errs, fmt.Errorf("handle %s: %d attempts are more than any class it is served in allows (%d)", k.name, k.retry.Attempts, attempts))
		}
	}
	return errors.Join(errs...)
}

// limit is the time limit of this kind in class c.
func (k *kind) limit(c *Class) time.Duration {
	if k.timeout > 0 {
		return min(k.timeout, c.TimeLimit)
	}
	return c.TimeLimit
}

// policy is the backoff of this kind in class c.
func (k *kind) policy(c *Class) retry.Policy {
	p := c.Retry
	if k.retry.Base > 0 {
		p.Base = k.retry.Base
		p.Cap = max(p.Cap, p.Base)
	}
	if k.retry.Cap > 0 {
		p.Cap = max(k.retry.Cap, p.Base)
	}
	if k.retry.Attempts > 0 {
		p.Attempts = min(k.retry.Attempts, p.Attempts)
	}
	return p
}
