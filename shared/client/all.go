package client

import (
	"context"
	"fmt"

	"github.com/droverhq/drover/shared/task"
)

// Outcome is what became of one task of a [PublishAll].
type Outcome struct {
	Receipt       // its ID is set once the task was built, also when Err is not nil
	Err     error // as from [Client.Publish]; nil when the broker has the task
}

// PublishAll publishes many tasks without waiting for each answer, and returns one
// outcome per task in their order. It is not atomic, and promises nothing about
// the order in which tasks are stored. The error, when any task failed, says how
// many, and wraps the first one's; the outcomes say which, so that they alone are
// published again: under their ids where the outcome wraps [ErrUnknown].
//
// At most 1,024 tasks or 8 MiB of bodies are unanswered at any time. Options apply
// to each task; [ID] is an error wrapping [ErrOption], because it would give all
// tasks one id. With a bad option nothing is published and there are no outcomes.
func PublishAll[A task.Args](ctx context.Context, c *Client, tasks []A, opts ...PublishOption) ([]Outcome, error) {
	o, err := c.newOrder(opts)
	if err == nil && o.id != "" {
		err = fmt.Errorf("%w: one id for %d tasks: publish them one by one", ErrOption, len(tasks))
	}
	if err != nil {
		return nil, fmt.Errorf("publish %d tasks: %w", len(tasks), err)
	}
	out, err := c.publishAll(ctx, len(tasks), func(i int) task.Args { return tasks[i] }, &o)
	if err != nil {
		return out, fmt.Errorf("publish %d tasks: %w", len(tasks), err)
	}
	return out, nil
}
