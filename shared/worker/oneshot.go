package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
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
	switch err := dec.Decode(&as); {
	case errors.Is(err, io.EOF): // it was started ahead, and its parent has died
		if dir := os.TempDir(); filepath.Base(dir) == os.Getenv(isolatedEnv) { // its own, and empty
			_ = os.Remove(dir)
		}
		return nil
	case err != nil:
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
		for {
			var r recall
			if dec.Decode(&r) != nil {
				break
			}
			if r.Draining {
				cancel(ErrDraining)
			} else {
				cancel(ErrTimeLimit)
			}
		}
		close(orphaned)
		cancel(ErrLeaseLost)
		time.AfterFunc(w.grace, func() { // a handler that ignores it must not outlive the lease
			as.abandon()
			os.Exit(1)
		})
	}()
	if as.Memory > 0 {
		if err := limitMemory(as.Memory); err != nil {
			return fmt.Errorf("run one task: %w", err)
		}
	}
	if err := json.NewEncoder(out).Encode(answer{Begun: true}); err != nil {
		return fmt.Errorf("run one task: answer: %w", err)
	}
	err := invoke(ctx, k.handler, &Task{Info: as.Info, Body: as.Body})
	select {
	case <-orphaned:
		as.abandon()
		return fmt.Errorf("run one task: %w", ErrLeaseLost)
	default:
	}
	a := answerOf(err)
	if err := errors.Join(json.NewEncoder(out).Encode(a), out.Close()); err != nil {
		return fmt.Errorf("run one task: answer: %w", err)
	}
	return nil
}

// abandon does what a parent that has died would have done: it ends what the task
// started, removes its temp folder, and ends this process. For a suspect, which has
// nothing of its own, it does nothing.
func (as *assignment) abandon() {
	if as.Temp == "" {
		return
	}
	killStrays(as.Mark, os.Getpid(), nil)
	_ = removeTemp(as.Temp) // there is nobody left to tell
	if as.Cgroup != "" {
		killCgroup(as.Cgroup)
	}
	_ = syscall.Kill(-syscall.Getpgrp(), syscall.SIGKILL) // its group is its own
}

// answerOf tells the parent what the handler returned.
func answerOf(err error) answer {
	a := answer{Begun: true, Completed: true}
	if err == nil {
		return a
	}
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
	return a
}
