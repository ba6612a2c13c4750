package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// childEnv tells a process that it was started for one task.
const childEnv = "DROVER_CHILD"

// IsChild reports whether this process was started to run one suspect task
// alone. Such a process is the same binary with the same arguments: it should
// connect and build its worker as always, and not listen on ports, supervise, or
// start anything else. It is false again once Run has begun, so that what a
// handler starts is not taken for a child.
func IsChild() bool { return os.Getenv(childEnv) != "" }

// assignment is what the parent writes to the child's standard input. The input
// stays open for as long as the parent lives.
type assignment struct {
	Info  task.Info
	Body  []byte
	Trace nats.Header // trace context and baggage
	Limit time.Duration
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

// inChild returns a handler that runs the task in a process of its own: this
// binary, started again for that one task. Whatever the task does to its process,
// the neighbours go on. A child that ends without an answer is a death.
func (l *lane) inChild(d *delivery, deaths int) Handler {
	return func(ctx context.Context, t *Task) error {
		limit := d.run.kind.limit(l.class)
		as := assignment{Info: t.Info, Body: t.Body, Limit: limit, Trace: nats.Header{}}
		telemetry.Inject(ctx, as.Trace)
		a, how, err := runChild(ctx, as)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("child was killed: %w", context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("run task in a child: %w", err)
		case !a.Begun:
			return fmt.Errorf("run task in a child: it ended before it began the task: %s", how)
		case !a.Completed:
			return &deathError{deaths: deaths + 1, how: "the child that ran it alone died: " + how}
		case !a.Failed:
			return nil
		}
		err = errors.New(a.Error)
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
}

// runChild starts the child, hands it the assignment, and waits for its answer
// and its end. how is how it ended. The child and all it started are killed when
// ctx is done.
func runChild(ctx context.Context, as assignment) (a answer, how string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return answer{}, "", err
	}
	in, err := json.Marshal(&as)
	if err != nil {
		return answer{}, "", err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		return answer{}, "", err
	}
	defer func() { _ = out.Close() }() // read to its end, or the child is dead
	cmd := exec.CommandContext(ctx, exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{childOut} // file descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = tryLimit
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	_ = childOut.Close() // the child has its own
	if err != nil {
		return answer{}, "", err
	}
	if _, err := stdin.Write(in); err == nil { // or it died before it read: Wait tells
		for dec := json.NewDecoder(io.LimitReader(out, maxAnswer)); !a.Completed; {
			var said answer
			if err := dec.Decode(&said); err != nil {
				break // it died
			}
			a = said
		}
	}
	_ = stdin.Close()
	werr := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	if werr == nil {
		return a, "exit status 0 without an answer", nil
	}
	return a, werr.Error(), nil
}

const (
	maxAnswer = 64 << 10 // bytes
	maxError  = 4 << 10  // bytes of an error's text in it, six times as many in JSON at worst
)

// runOne is Run in a child: one task, read from standard input.
func (w *Worker) runOne(ctx context.Context) error {
	if err := os.Unsetenv(childEnv); err != nil { // not for what the handler starts
		return fmt.Errorf("run one task: %w", err)
	}
	syscall.CloseOnExec(3) // or what the handler starts would hold the parent up
	out := os.NewFile(3, "answer")
	var as assignment
	dec := json.NewDecoder(os.Stdin)
	if err := dec.Decode(&as); err != nil {
		return fmt.Errorf("run one task: read the assignment: %w", err)
	}
	_, action, _ := strings.Cut(as.Info.Kind, ".")
	k := w.kinds[action]
	if k == nil {
		return fmt.Errorf("run one task: no handler for %s", as.Info.Kind)
	}
	ctx, cancel := context.WithCancelCause(task.NewContext(telemetry.Extract(ctx, as.Trace), &as.Info))
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, as.Limit, ErrTimeLimit)
	defer stop()
	orphaned := make(chan struct{})
	go func() { // ends with the process: the input stays open while the parent lives
		_, _ = io.Copy(io.Discard, dec.Buffered())
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(orphaned)
		cancel(ErrLeaseLost)
		time.AfterFunc(w.grace, func() { os.Exit(1) }) // a handler that ignores it must not outlive the lease
	}()
	if err := json.NewEncoder(out).Encode(answer{Begun: true}); err != nil {
		return fmt.Errorf("run one task: answer: %w", err)
	}
	err := invoke(ctx, k.handler, &Task{Info: as.Info, Body: as.Body})
	select {
	case <-orphaned:
		return fmt.Errorf("run one task: %w", ErrLeaseLost)
	default:
	}
	a := answer{Begun: true, Completed: true}
	if err != nil {
		a.Failed, a.Error = true, err.Error()
		a.Error = a.Error[:min(len(a.Error), maxError)]
		if d, ok := retry.AsAfter(err); ok {
			a.Verdict, a.After = "after", d
		}
		if retry.IsPermanent(err) {
			a.Verdict = "permanent"
		}
		if _, ok := errors.AsType[*undecodableError](err); ok {
			a.Verdict = "undecodable"
		}
	}
	if err := errors.Join(json.NewEncoder(out).Encode(a), out.Close()); err != nil {
		return fmt.Errorf("run one task: answer: %w", err)
	}
	return nil
}
