package worker

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// taskContext is the context of one run of a handler. Its values, and what
// cancels it, are made when somebody first asks for them: most handlers of tiny
// tasks never do, and they are a third of the worker's cost of running one
// (BenchmarkDrain).
type taskContext struct {
	d        *delivery
	deadline time.Time // the slot's timer cancels it then; zero until the handler starts

	mu        sync.Mutex
	values    context.Context //nolint:containedctx // trace and task; nil until it is asked for
	made      context.Context //nolint:containedctx // what Done and Cause are about; nil until it is asked for
	cancel    context.CancelCauseFunc
	cause     error // it was cancelled before it was made
	cancelled bool
}

func (c *taskContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c *taskContext) Done() <-chan struct{} { return c.make().Done() }

func (c *taskContext) Err() error { return c.make().Err() }

// Value also answers the unexported key by which context.Cause and derived
// contexts find the one that can be cancelled.
func (c *taskContext) Value(key any) any {
	c.mu.Lock()
	values := c.carried()
	c.mu.Unlock()
	if v := values.Value(key); v != nil {
		return v
	}
	return c.make().Value(key)
}

// carried is the trace context of the message and the task. c.mu is held.
func (c *taskContext) carried() context.Context {
	if c.values == nil {
		c.values = task.NewContext(telemetry.Extract(context.Background(), c.d.msg.Header), &c.d.task.Info)
	}
	return c.values
}

func (c *taskContext) make() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = context.WithCancelCause(c.carried())
		if c.cancelled {
			c.cancel(c.cause)
		}
	}
	return c.made
}

// end cancels the context, and reports whether it was not cancelled before: the
// first cause stays.
func (c *taskContext) end(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancelled {
		return false
	}
	c.cancelled, c.cause = true, cause
	if c.made != nil {
		c.cancel(cause)
	}
	return true
}
