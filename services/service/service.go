// Package service starts a service, the same way for all of them: it reads flags
// and environment, sets up logs, traces and metrics, connects to the broker,
// checks the topology, answers health probes, and drains on a signal. What is
// left for the service is to make its handlers and run a worker.
//
// # Semantics
//
// [Main] is the whole main function of a service's binary, and `drover run` goes
// through [Exec] with the same [Service], so there is one code path. It goes in
// this order: flags, fleet file, log, telemetry, admin port, broker, topology,
// [Service.Run]. The admin port comes early so that probes see a process that
// waits for its broker as live and not ready.
//
// SIGTERM and SIGINT end the context of Run, upon which its worker drains; then
// telemetry is flushed and the connection closed. A second signal ends the
// process at once, and the broker gives its tasks to others. A broker connection
// that is closed for good ends the process with an error, for its supervisor to
// start a fresh one. A worker that wants to be recycled takes the turn of its
// service, drains, and ends the process for the same.
//
// While [Service.Run] runs, the process is in the list of the fleet's processes
// that `drover ps` shows. That it cannot be put there is a warning, once, and
// stops nothing.
//
// A process that the worker has started for one task (see [worker.IsChild]) goes
// the same way without an admin port, a check of the topology and a handling of
// signals: its parent ends it.
//
// # Process state
//
// A process runs one service: Run sets the default of slog and the globals of
// OpenTelemetry, for libraries that know no others.
//
// # Errors
//
// Errors that wrap [ErrUsage] are about flags, environment or the files they
// name: starting the process again changes nothing.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/worker"
)

// Service is one service of the fleet, as its own binary and `drover run` start
// it. Name and Run are required.
type Service struct {
	Name  string // as in the fleet file
	Help  string // one sentence that says what it does
	Admin string // default of --admin, HOST:PORT; "" means no admin port

	// NoTasks is for a service that works no tasks. It is not in the fleet file,
	// is given no classes, and its Run runs no worker; what it needs of the broker
	// is known to [streams.Check] by its name.
	NoTasks bool

	// Config is a pointer to a struct that kong can read: its fields become
	// flags and environment variables beside the common ones. nil means none.
	Config any

	// Check is called once Config is filled in and before anything is started.
	// Its error is one of usage. nil means nothing is to be checked.
	Check func() error

	// Run makes the handlers and a worker, and has [Env.Run] run it until ctx is done.
	// Without tasks it does whatever the service is for until ctx is done.
	Run func(ctx context.Context, env *Env) error

	// Usage is how the service is invoked, for its help; "" means Name.
	Usage string
}

// ErrUsage is wrapped by errors about flags, environment variables, and the files
// that they name.
var ErrUsage = errors.New("wrong usage")

// Exit codes of a service's process.
const (
	exitDrained     = 0  // asked to end, and every delivery is settled
	exitError       = 1  // it ended by itself; the error says why
	exitUnreachable = 5  // there is no broker that it can work with; the drover command has the same
	exitRestart     = 75 // EX_TEMPFAIL: it is worn, or too many handlers are stuck: start a fresh process
	exitUsage       = 78 // EX_CONFIG: starting it again changes nothing; not 2, with which Go ends a crash
)

// Main runs s with the arguments of this process, and exits with one of the codes
// that its help lists. It does not return.
func Main(s Service) {
	os.Exit(Exec(context.Background(), s, os.Args[1:], os.Stdout, os.Stderr))
}

// Exec runs s as Run does, tells the operator on stderr why it ended if it ended
// with an error, and returns the exit code: 0 drained, 1 error, 5 without a
// broker, 75 to be started again at once, 78 wrong flags or environment.
func Exec(ctx context.Context, s Service, args []string, stdout, stderr io.Writer) int {
	err := Run(ctx, s, args, stdout, stderr)
	switch {
	case err == nil:
		return exitDrained
	case errors.Is(err, ErrUsage):
		_, _ = fmt.Fprintf(stderr, "%s: %v\nRun \"%s --help\" for all flags.\n", s.Name, err, s.usage())
		return exitUsage
	case errors.Is(err, worker.ErrRecycle):
		slog.InfoContext(ctx, "service wants a fresh process", slog.String("reason", err.Error()))
		return exitRestart
	case errors.Is(err, worker.ErrLeaked):
		slog.ErrorContext(ctx, "service wants a fresh process", slog.Any("error", err))
		return exitRestart
	}
	slog.ErrorContext(ctx, "service ended with an error", slog.Any("error", err))
	if errors.Is(err, broker.ErrUnreachable) || errors.Is(err, broker.ErrTooOld) || errors.Is(err, broker.ErrNoJetStream) {
		return exitUnreachable
	}
	return exitError
}

func (s Service) usage() string {
	if s.Usage != "" {
		return s.Usage
	}
	return s.Name
}
