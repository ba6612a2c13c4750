package supervise

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// process keeps one process of a service running, life after life.
type process struct {
	s       *Supervisor
	service string
	name    string
	log     *logFile
	ready   chan struct{} // closed when it is ready for the first time
	down    chan struct{} // closed when it stays down

	mu      sync.Mutex
	state   Process
	last    string // line that it wrote last
	blame   string // line of this life that says why it ends; "" when there is none
	refused string // what it said of its configuration; "" unless it stays down for that
}

func newProcess(s *Supervisor, service string, n int) (*process, error) {
	name := childName(service, n)
	path := filepath.Join(s.Logs(), name+".log")
	log, err := openLog(path)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	return &process{
		s: s, service: service, name: name, log: log, ready: make(chan struct{}), down: make(chan struct{}),
		state: Process{Name: name, Service: service, Status: statusStarting, Log: path},
	}, nil
}

func (p *process) snapshot() Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *process) update(f func(*Process)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.state)
}

// run starts the process, and again whenever it ends, until the supervisor stops
// or starting it changes nothing.
func (p *process) run() {
	var b backoff
	for {
		begun := time.Now()
		err := p.live()
		p.update(func(st *Process) { st.PID, st.Ready, st.Admin = 0, false, "" })
		if p.s.stopped() {
			p.update(func(st *Process) {
				st.Status = statusDrained
				if p.s.killCtx.Err() != nil {
					st.Status = statusKilled
				}
			})
			return
		}
		if exitedWith(err, wrongUsage) {
			p.stayDown()
			return
		}
		lived := time.Since(begun)
		wait := b.next(err, lived)
		p.tellEnd(err, lived, wait, b.failures)
		p.update(func(st *Process) { st.Status = fmt.Sprintf("%s, starts again in %v", how(err), wait) })
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-p.s.stopping:
			again.Stop()
			p.update(func(st *Process) { st.Status = statusDrained })
			return
		}
		p.update(func(st *Process) {
			if !wantsFresh(err) { // that is no failure
				st.Restarts++
			}
			st.Status = statusStarting
		})
	}
}

func (p *process) stayDown() {
	p.mu.Lock()
	p.state.Status = ErrRefused.Error()
	p.refused = cmp.Or(p.blame, p.last, "nothing")
	text := fmt.Sprintf("is %v (exit code %d): %s", ErrRefused, wrongUsage, p.refused)
	p.mu.Unlock()
	close(p.down)
	p.s.tell(Event{Kind: Ended, Process: p.name, Service: p.service, Text: text})
}

func (p *process) tellEnd(err error, lived, wait time.Duration, failures int) {
	p.mu.Lock()
	last, blame := p.last, p.blame
	p.mu.Unlock()
	again := "starts again in " + wait.String()
	if wait == 0 {
		again = "starts again at once"
	}
	var text string
	if failures >= loudAfter {
		text = fmt.Sprintf("ends at once, again and again (%d times, now %s), %s. It said: %s. All it says is in %s",
			failures, how(err), again, cmp.Or(blame, last, "nothing"), p.state.Log)
	} else {
		text = fmt.Sprintf("%s after %v, %s", how(err), lived.Round(time.Millisecond), again)
		if blame != "" {
			text += ": " + blame
		}
	}
	p.s.tell(Event{Kind: Ended, Process: p.name, Service: p.service, Text: text})
}

// how a process ended, in words.
func how(err error) string {
	switch {
	case err == nil:
		return "ended"
	case wantsFresh(err):
		return "ended for a fresh process to take its place"
	}
	return "ended with " + err.Error()
}

// live is one life of the process. It returns when the process and all that it
// started in its group have ended, and its output is written down.
func (p *process) live() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read to its end, or given up
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = w, w
	stdin, err := cmd.StdinPipe() // held open for as long as it lives: see EndWithParent
	if err == nil {
		err = cmd.Start()
	}
	_ = w.Close() // the child has its own
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.state.PID, p.state.Since, p.last, p.blame = cmd.Process.Pid, time.Now().UTC(), "", ""
	p.mu.Unlock()

	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { p.read(r) })
	wg.Go(func() { p.probe(ended) })
	wg.Go(func() {
		select {
		case <-p.s.stopping:
			p.update(func(st *Process) { st.Status, st.Ready = statusDraining, false })
			_ = cmd.Process.Signal(syscall.SIGTERM) // it has just ended: fine
		case <-ended:
		}
	})
	err = cmd.Wait()
	close(ended)
	_ = stdin.Close()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	_ = r.SetReadDeadline(time.Now().Add(outputLimit))
	wg.Wait()
	return err
}

const outputLimit = time.Second // for the last words of a process, when someone else still holds its output

func (p *process) command() *exec.Cmd {
	argv := p.s.config.Command
	cmd := exec.CommandContext(p.s.killCtx, argv[0], slices.Concat(argv[1:], []string{p.service})...)
	cmd.Env = p.s.config.environ(os.Environ(), p.s.URL())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// backoff is the pause between the lives of a process.
type backoff struct {
	failures int // lives in a row that were short
}

const (
	firstPause = 100 * time.Millisecond
	longPause  = 15 * time.Second
	shortLife  = 5 * time.Second // a process that lived longer did some work
	loudAfter  = 3               // short lives until that is said as such
	restartNow = 75              // exit code of a process that wants a fresh one
	wrongUsage = 78              // exit code of a process that another life does not help
)

func (b *backoff) next(err error, lived time.Duration) time.Duration {
	if lived >= shortLife {
		b.failures = 0
	} else {
		b.failures++
	}
	if wantsFresh(err) && b.failures < loudAfter {
		return 0
	}
	pause := firstPause
	for n := 1; n < b.failures && pause < longPause; n++ {
		pause *= 2
	}
	return min(pause, longPause)
}

// wantsFresh reports whether a process ended with the wish to be started again.
func wantsFresh(err error) bool { return exitedWith(err, restartNow) }

func exitedWith(err error, code int) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() == code
}

// EndWithParent ends this process as soon as the supervisor that started it has
// ended, however that was, so that no service outlives it. Standard input is a
// pipe whose other end only the supervisor holds, and the system closes that end.
// It does nothing in a process that no supervisor started. What the process starts
// in turn is not watched, except that its process group ends with it.
func EndWithParent() {
	if os.Getenv(parentEnv) == "" {
		return
	}
	_ = os.Unsetenv(parentEnv) // not for what this process starts
	go func() {                // ends with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(0, syscall.SIGKILL) // its group, itself included: the broker is gone, there is nothing to drain to
	}()
}
