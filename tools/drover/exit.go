package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// Exit codes, as exitCodes explains them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnreachable = 5
	exitUnknown     = 6
	exitChanges     = 7
	exitFindings    = 8
	exitConfig      = 78 // of a service that "run" runs
	exitInterrupted = 130
)

// exitCodes is the help topic exit-codes. docs/commands.md has the same table.
const exitCodes = `Exit codes of drover:

    0    done
    1    failed, and the error says why; some of what was asked for may be done
    2    wrong usage: a flag, an argument, a body or a fleet file. Nothing was done
    3    not found: no such task, dead letter, group or breaker
    4    refused by the broker: the class is full, no stream takes the task, it is
         too large, or the credentials do not allow it. For "streams": a change
         that would lose tasks, and nothing was applied
    5    the broker cannot be reached, is too old, or does not answer in time
    6    unknown: the broker was lost before it said whether the task is stored.
         Enqueue again with the same --id, and it runs once
    7    "streams plan --check" only: apply would change something
    8    "doctor" only: something is wrong with the fleet, and the report says what
    75   "run" only: start a fresh process, this one is worn or too many handlers
         are stuck
    78   "run" only: wrong flags or environment of the service
    130  interrupted before it was done
`

// errUsage is wrapped by errors of flags, arguments and the files they name.
var errUsage = errors.New("usage")

// errNotFound is wrapped when what an argument names does not exist.
var errNotFound = errors.New("not found")

// errRefused is wrapped by refusals of the broker that no package has a name for.
var errRefused = errors.New("refused")

// errSilent is wrapped when the broker took longer than --timeout.
var errSilent = errors.New("the broker did not answer")

// errInterrupted is returned when a signal ended a verb before it was done.
var errInterrupted = errors.New("interrupted")

// mark is err with a sentinel for its exit code that does not show in the text.
type mark struct {
	error
	as error
}

func (m mark) Unwrap() []error { return []error{m.error, m.as} }

func usage(err error) error    { return mark{err, errUsage} }
func notFound(err error) error { return mark{err, errNotFound} }

// exitError ends the process with a code and says nothing: whoever returns it has
// told the operator all there is.
type exitError int

func (e exitError) Error() string { return "exit code " + strconv.Itoa(int(e)) }

// end tells the operator why a verb failed, and returns the exit code.
func (a *App) end(err error) int {
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if err != nil {
		_, _ = fmt.Fprintf(a.Stderr, "drover: %v\n", err)
	}
	if h, ok := errors.AsType[hinted](err); ok {
		_, _ = fmt.Fprintf(a.Stderr, "        %s\n", h.hint)
	}
	return codeOf(err)
}

// codeOf is the exit code that err stands for. The more telling one wins: a task
// that may be stored is unknown, whatever else is wrong.
func codeOf(err error) int {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	switch {
	case err == nil:
		return exitOK
	case is(client.ErrUnknown):
		return exitUnknown
	case is(errUsage, client.ErrOption, task.ErrBadSubject, task.ErrBadBody):
		return exitUsage
	case is(errNotFound):
		return exitNotFound
	case is(errRefused, client.ErrNoStream, client.ErrFull, client.ErrTooLarge, client.ErrDenied, streams.ErrRefused,
		record.ErrNoBucket, broker.ErrDenied, audit.ErrNoStream, audit.ErrDenied,
		nats.ErrAuthorization, nats.ErrPermissionViolation):
		return exitRefused
	case is(broker.ErrUnreachable, broker.ErrTooOld, broker.ErrNoJetStream, errSilent, context.DeadlineExceeded,
		nats.ErrConnectionClosed, nats.ErrNoServers, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrNoStreamResponse):
		return exitUnreachable
	case is(errInterrupted, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

// hinted is an error with a line for what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// patient says of an error that is only ctx's that the broker took too long.
func patient(ctx context.Context, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errSilent) || errors.Is(err, errSilent) {
		return err
	}
	return fmt.Errorf("%w: %w", err, context.Cause(ctx))
}
