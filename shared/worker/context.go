package worker

import (
	"context"
	"sync"
	"time"
)

// taskContext is the context of one run of a handler. What cancels it is made
// when the handler first asks for it: most handlers of tiny tasks never do, and
// it is a quarter of the worker's cost of running one (BenchmarkDrain).
type taskContext struct {
	values   context.Context //nolint:containedctx // it is one
	deadline time.Time       // the slot's timer cancels it then

	mu        sync.Mutex
	made      context.Context //nolint:containedctx // what Done and Cause are about; nil until it is asked for
	cancel    context.CancelCauseFunc
	cause     error // it was cancelled before it was made
	cancelled bool
}

func (c *taskContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *taskContext) Done() <-chan struct{} { return c.make().Done() }

func (c *taskContext) Err() error { return c.make().Err() }

// Value also answers the unexported key by which context.Cause and derived
// contexts find the one that can be cancelled.
func (c *taskContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.make().Value(key)
}

func (c *taskContext) make() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = context.WithCancelCause(c.values)
		if c.cancelled {
			c.cancel(c.cause)
		}
	}
	return c.made
}

// end cancels the context; the first cause stays.
func (c *taskContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancelled {
		return
	}
	c.cancelled, c.cause = true, cause
	if c.made != nil {
		c.cancel(cause)
	}
}
