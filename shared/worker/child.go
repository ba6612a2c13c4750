package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// childEnv tells a process that it was started for one task.
const childEnv = "DROVER_CHILD"

// IsChild reports whether this process was started to run one task alone: a
// suspect, or one of an isolated kind (see [Isolated]). Such a process is the same
// binary with the same arguments: it should connect and build its worker as
// always, and not listen on ports, supervise, or start anything else. It is false
// again once Run has begun, so that what a handler starts is not taken for a child.
func IsChild() bool { return os.Getenv(childEnv) != "" }

// assignment is what the parent writes to the child's standard input. The input
// stays open for as long as the parent lives.
type assignment struct {
	Info  task.Info
	Body  []byte
	Trace nats.Header // trace context and baggage
	Limit time.Duration

	Memory int64 // bytes to which the child caps itself; 0: it does not

	// What the child ends and removes if the parent dies; "" for none.
	Temp, Mark, Cgroup string
}

// recall follows the assignment when the parent wants the task back.
type recall struct {
	Draining bool // else its time is up
}

// answer is what the child writes to file descriptor 3, twice: when it begins
// the task, and when it has completed it.
type answer struct {
	Begun     bool // without it the task is not to blame for the child's end
	Completed bool
	Failed    bool   // with Error
	Error     string // may be empty
	Verdict   string // "", "permanent", "after" or "undecodable"
	After     time.Duration
}

const (
	maxAnswer = 64 << 10 // bytes
	maxError  = 4 << 10  // bytes of an error's text in it, six times as many in JSON at worst
)

// inChild returns a handler that runs the task in a process of its own: this
// binary, started again for that one task. Whatever the task does to its process,
// the neighbours go on. A child that ends without an answer is a death; that of an
// isolated kind is a failed attempt, because it harmed nobody.
func (l *lane) inChild(d *delivery, deaths int) Handler {
	return func(ctx context.Context, t *Task) error {
		k := d.run.kind
		deadline, _ := ctx.Deadline()
		as := assignment{Info: t.Info, Body: t.Body, Limit: time.Until(deadline), Trace: nats.Header{}}
		telemetry.Inject(ctx, as.Trace)
		var c *child
		if k.isolation != nil {
			c = k.isolation.spare.take()
		}
		var a answer
		if c != nil {
			a = l.runIn(ctx, c, as)
		}
		if c == nil || !a.Begun && context.Cause(ctx) == nil { // a spare that ended while it waited is not the task's end
			var err error
			if c, err = startChild(k.isolation, l.w.cgroups, l.w.grace); err != nil {
				return fmt.Errorf("run task in a child: %w", err)
			}
			a = l.runIn(ctx, c, as)
		}
		cause := context.Cause(ctx)
		switch {
		case a.Completed:
			return a.verdict()
		case k.isolation != nil && (cause == nil || errors.Is(cause, ErrTimeLimit)):
			end := c.end(a.Begun)
			k.isolation.ends.count(end.reason)
			return end
		case cause != nil:
			return fmt.Errorf("child was killed: %w", cause)
		case !a.Begun:
			return fmt.Errorf("run task in a child: it ended before it began the task: %s", c.how())
		}
		return &deathError{deaths: deaths + 1, how: "the child that ran it alone died: " + c.how()}
	}
}

// runIn has the child run the task, to its end.
func (l *lane) runIn(ctx context.Context, c *child, as assignment) answer {
	a := c.run(ctx, as)
	if left := c.close(); left != nil {
		l.w.log.WarnContext(ctx, "an isolated task has left something behind: remove it", slog.Any("error", left))
	}
	return a
}

// verdict is what the handler returned in the child.
func (a *answer) verdict() error {
	if !a.Failed {
		return nil
	}
	err := errors.New(a.Error)
	switch a.Verdict {
	case "permanent":
		return retry.Permanent(err)
	case "after":
		return retry.After(a.After, err)
	case "undecodable":
		return &undecodableError{err}
	}
	return err
}
