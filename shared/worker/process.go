package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// child is the process of one task, as its parent sees it.
type child struct {
	cmd    *exec.Cmd
	limits *isolation    // nil for a suspect
	grace  time.Duration // between the end of the task's context and being abandoned

	in      *os.File // its standard input
	answers *os.File // its file descriptor 3
	printed *os.File // its standard output and error; nil for a suspect, which has the parent's
	output  output
	temp    string   // "" for a suspect
	mark    string   // what all it starts has in its environment; "" for a suspect
	held    *os.File // its temp folder, locked
	group   *group   // its cgroup; nil without
	left    error    // why its cgroup is still there; after ended

	ended chan struct{} // closed when the process, and all that was found of what it started, has ended
	wg    sync.WaitGroup

	mu      sync.Mutex
	started func() []int // numbers that what it started can have
	why     string       // why it was killed from here; "" if it was not
}

const (
	isolatedEnv = "DROVER_ISOLATED" // in the environment of a task and of all that it starts
	exitGraces  = 2                 // times the grace, for a child to exit once it has answered
	pipeLimit   = time.Second       // for what is left in the pipes of a child that has ended
)

// startChild starts the process, which then waits for its assignment, in a cgroup
// of its own below in, unless that is nil. The caller closes it.
func startChild(limits *isolation, in *cgroups, grace time.Duration) (*child, error) {
	c := &child{limits: limits, grace: grace, ended: make(chan struct{}), output: output{to: os.Stderr}}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c.cmd = exec.Command(exe, os.Args[1:]...) //nolint:noctx // watch ends it
	c.cmd.Env = append(os.Environ(), childEnv+"=1")
	c.cmd.Stdout, c.cmd.Stderr = os.Stderr, os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if limits != nil {
		if err := c.isolate(in); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	if err := c.start(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// isolate gives the process a temp folder, a mark, a cgroup and a heap of its own.
func (c *child) isolate(in *cgroups) error {
	var err error
	if c.held, err = newTemp(); err != nil {
		return err
	}
	c.temp = c.held.Name()
	name := filepath.Base(c.temp)
	c.mark = isolatedEnv + "=" + name
	c.cmd.Env = append(c.cmd.Env, c.mark, "TMPDIR="+c.temp)
	if c.limits.memory > 0 {
		c.cmd.Env = append(c.cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", c.limits.heap()))
	}
	if in != nil {
		if c.group, err = in.add(name, c.limits); err != nil {
			return fmt.Errorf("make its cgroup: %w", err)
		}
	}
	return nil
}

func (c *child) start() error {
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close() // the child has its own
		}
	}()
	pipe := func(read, write **os.File) error {
		r, w, err := os.Pipe()
		*read, *write = r, w
		return err
	}
	var stdin, fd3, stdout *os.File
	if err := pipe(&stdin, &c.in); err != nil {
		return err
	}
	theirs = append(theirs, stdin)
	if err := pipe(&c.answers, &fd3); err != nil {
		return err
	}
	theirs = append(theirs, fd3)
	c.cmd.Stdin, c.cmd.ExtraFiles = stdin, []*os.File{fd3}
	if c.limits != nil {
		if err := pipe(&c.printed, &stdout); err != nil {
			return err
		}
		theirs = append(theirs, stdout)
		c.cmd.Stdout, c.cmd.Stderr = stdout, stdout
	}
	if err := c.launch(); err != nil {
		return err
	}
	var err error
	if c.limits != nil {
		pid := c.cmd.Process.Pid // before wait: until then its number is its own
		if err = c.limits.limit(pid); err == nil && c.group != nil {
			err = c.group.join(c.cmd.SysProcAttr, pid)
		}
	}
	c.wg.Go(c.wait)
	if err != nil {
		c.kill("its limits could not be set")
	}
	return err
}

// launch starts the command, in its cgroup if it has one.
func (c *child) launch() error {
	if c.group == nil {
		return c.cmd.Start()
	}
	c.group.into(c.cmd.SysProcAttr)
	err := c.cmd.Start()
	if err == nil || !c.group.refused(c.cmd.SysProcAttr, err) {
		return err
	}
	first := c.cmd                                      // cannot be started twice
	c.cmd = exec.Command(first.Path, first.Args[1:]...) //nolint:noctx // as the first
	c.cmd.Env, c.cmd.SysProcAttr = first.Env, first.SysProcAttr
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = first.Stdin, first.Stdout, first.Stderr, first.ExtraFiles
	c.group.into(c.cmd.SysProcAttr)
	return c.cmd.Start()
}

// wait ends what the process leaves behind, and then the reading of its pipes,
// which what was not found may still hold.
func (c *child) wait() {
	_ = c.cmd.Wait()                                      // how says how it ended
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	switch {
	case c.group != nil:
		c.left = c.group.end()
	case c.mark != "":
		c.mu.Lock()
		started := c.started
		c.mu.Unlock()
		killStrays(c.mark, 0, started)
	}
	close(c.ended)
	for _, f := range []*os.File{c.in, c.answers, c.printed} {
		if f != nil {
			_ = f.SetDeadline(time.Now().Add(pipeLimit))
		}
	}
}

// run hands the child its assignment and returns its last answer once it, and all
// it started, has ended. That is soon after ctx is done.
func (c *child) run(ctx context.Context, as assignment) (a answer) {
	if c.limits != nil {
		c.output.of = as.Info.Kind + " " + as.Info.ID
		c.wg.Go(func() { _, _ = io.Copy(&c.output, c.printed) })
		c.mu.Lock()
		c.started = startedSince() // it may have waited for long
		c.mu.Unlock()
		as.Memory, as.Temp, as.Mark = c.limits.memory, c.temp, c.mark
		if c.group != nil {
			as.Cgroup = c.group.dir
			if c.group.of.memory {
				as.Memory = 0
			}
		}
	}
	c.wg.Go(func() { c.watch(ctx) })
	if err := json.NewEncoder(c.in).Encode(&as); err == nil { // or it died before it read
		for dec := json.NewDecoder(io.LimitReader(c.answers, maxAnswer)); !a.Completed; {
			var said answer
			if err := dec.Decode(&said); err != nil {
				break // it died
			}
			a = said
		}
	}
	_ = c.in.Close()
	if a.Completed {
		late := time.AfterFunc(exitGraces*c.grace, func() { c.kill("it did not exit after it had answered") })
		defer late.Stop()
	}
	<-c.ended
	return a
}

// watch ends the child when ctx is done, or when its temp folder is too large.
func (c *child) watch(ctx context.Context) {
	next := time.NewTimer(measureEvery)
	defer next.Stop()
	if c.temp == "" {
		next.Stop()
	}
	for {
		select {
		case <-c.ended:
			return
		case <-ctx.Done():
			c.recall(context.Cause(ctx))
			return
		case <-next.C:
			start := time.Now()
			if !fits(c.temp, c.limits.temp) {
				c.kill(fmt.Sprintf("its temp folder took more than its limit of %s", size(c.limits.temp)))
			}
			next.Reset(max(measureEvery, 10*time.Since(start)))
		}
	}
}

// recall asks the child to end, as cancelling its context asks a handler, and kills
// it before the grace is over, when the handler would be abandoned. A child whose
// lease or permit is lost is killed at once: another worker may have its task, or use
// what it uses.
func (c *child) recall(cause error) {
	if errors.Is(cause, ErrLeaseLost) || errors.Is(cause, ErrPermitLost) {
		c.kill(cause.Error())
		return
	}
	patience := c.grace / 2
	_ = c.in.SetWriteDeadline(time.Now().Add(patience))
	_ = json.NewEncoder(c.in).Encode(recall{Draining: errors.Is(cause, ErrDraining)}) // it may have ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-timer.C:
		c.kill(fmt.Sprintf("wall clock: it went on for %v after its context had ended", patience))
	}
}

// kill ends the child and all of its group. The first reason stays.
func (c *child) kill(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == "" {
		c.why = why
	}
	select {
	case <-c.ended: // the number of its group may be another's by now
	default:
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		if c.group != nil {
			c.group.kill()
		}
	}
}

// close releases what the child had, once it has ended. Its error is that of a
// temp folder or a cgroup that could not be removed.
func (c *child) close() error {
	for _, f := range []*os.File{c.in, c.answers} {
		if f != nil {
			_ = f.Close()
		}
	}
	c.wg.Wait()
	if c.printed != nil {
		_ = c.printed.Close()
	}
	if c.temp == "" {
		return nil
	}
	if c.group != nil && c.cmd.Process == nil { // it never started
		c.left = c.group.end()
	}
	defer func() { _ = c.held.Close() }()
	return errors.Join(removeTemp(c.temp), c.left)
}

// how is how the process ended, when it gave no answer.
func (c *child) how() string {
	if s := c.cmd.ProcessState; !s.Success() {
		return s.String()
	}
	return "exit status 0 without an answer"
}

// end is the failure of an isolated task whose process ended without an answer, for
// the one who reads the dead letter. It is called after close.
func (c *child) end(begun bool) *endError {
	state := c.cmd.ProcessState
	status, _ := state.Sys().(syscall.WaitStatus)
	killed := status.Signaled() && status.Signal() == syscall.SIGKILL
	crashed := status.ExitStatus() == 2 && c.output.fatal != ""
	e := &endError{endDied, c.how()}
	switch {
	case c.why != "":
		e = &endError{endKilled, c.why}
	case c.group != nil && c.group.oom && c.group.capped:
		e = &endError{endOOM, fmt.Sprintf("it reached its memory cap of %s, with all that it started", size(c.limits.memory))}
	case c.group != nil && c.group.oom:
		e = &endError{endOOM, "the machine or the container was out of memory, and not the task at a cap of its own"}
	case crashed && c.limits.memory > 0 && c.output.oom():
		return &endError{endOOM, fmt.Sprintf("it reached its memory cap of %s", size(c.limits.memory))}
	case killed && c.limits.cpu > 0 && state.UserTime()+state.SystemTime() >= c.limits.cpu/4*3: // the kernel's two clocks of it differ
		e = &endError{endKilled, fmt.Sprintf("it used up its processor time of %v", c.limits.cpu)}
	case killed:
		e.detail = "killed by a signal that is not from its worker: the kernel sends it when the machine or the container is out of memory"
	case crashed:
		e.detail += " (" + c.output.fatal + ")"
	}
	if !begun {
		e.detail = "before it began the task: " + e.detail
	}
	e.detail += c.output.last()
	return e
}
