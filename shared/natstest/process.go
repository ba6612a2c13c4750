package natstest

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const roleEnv = "DROVER_TEST_ROLE"

// Main is the body of a TestMain whose tests kill processes. The test binary is
// started again for each of them, as one of roles, which are called by name and
// return the exit code; the broker's role is built in.
func Main(m *testing.M, roles map[string]func() int) {
	role := os.Getenv(roleEnv)
	if role == "" {
		// Such tests wait for processes more than they compute. -parallel is stronger.
		_ = flag.Set("test.parallel", strconv.Itoa(runtime.GOMAXPROCS(0)*3/2)) // there is such a flag in every test binary
		os.Exit(m.Run())
	}
	if role == brokerRole {
		os.Exit(brokerMain())
	}
	f := roles[role]
	if f == nil {
		fmt.Fprintf(os.Stderr, "no role %q in this test binary\n", role)
		os.Exit(2)
	}
	os.Exit(f())
}

// Beside runs f until end is called, or the test ends, and waits for it: what a
// process would run beside the rest. end may be called more than once.
func Beside(tb testing.TB, f func(context.Context)) (end func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context())) // which ends before the cleanup
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	end = func() {
		cancel()
		wg.Wait()
	}
	tb.Cleanup(end)
	return end
}

// RunRole is the body of a role that works on the broker at url: it calls f with a
// connection as [Connect] makes it, and a context that SIGTERM ends. f calls ready
// once the test may go on. RunRole returns the exit code: 1 when something went wrong,
// which is on stderr then.
func RunRole(url string, f func(ctx context.Context, js jetstream.JetStream, ready func()) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	js, err := dial(url)
	if err == nil {
		defer js.Conn().Close()
		err = f(ctx, js, func() { fmt.Println("ready") }) //nolint:forbidigo // it is the protocol of Spawn
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Process is a child process of a test. Its methods are not safe for concurrent
// use, except Output.
type Process struct {
	tb    testing.TB
	cmd   *exec.Cmd
	ready chan string // the first line that begins with "ready"
	ended chan struct{}
	err   error // how it ended; after ended

	mu  sync.Mutex
	out bytes.Buffer
}

const processLimit = 30 * time.Second // for a process to get ready, or to end

// Spawn starts the test binary again as one of the roles given to [Main], with
// env added to the environment, and returns once it has printed a line that
// begins with "ready". It is killed when tb ends.
func Spawn(tb testing.TB, role string, env ...string) *Process {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	p := &Process{tb: tb, cmd: exec.Command(exe), ready: make(chan string, 1), ended: make(chan struct{})} //nolint:noctx // it ends with tb
	p.cmd.Env = append(append(os.Environ(), roleEnv+"="+role), env...)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its children end with it
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", role, err)
	}
	_ = w.Close()
	var copied sync.WaitGroup
	copied.Go(func() { p.read(r) })
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	tb.Cleanup(func() {
		p.Kill()
		copied.Wait()
		if tb.Failed() {
			tb.Logf("output of %s (pid %d):\n%s", role, p.cmd.Process.Pid, p.Output())
		}
	})
	select {
	case <-p.ready:
	case <-p.ended:
		tb.Fatalf("%s ended before it was ready: %v\n%s", role, p.err, p.Output())
	case <-time.After(processLimit):
		tb.Fatalf("%s is not ready after %v\n%s", role, processLimit, p.Output())
	}
	return p
}

func (p *Process) read(r io.ReadCloser) {
	defer func() { _ = r.Close() }()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.out.Write(append(lines.Bytes(), '\n'))
		p.mu.Unlock()
		if strings.HasPrefix(lines.Text(), "ready") {
			select {
			case p.ready <- lines.Text():
			default:
			}
		}
	}
}

// Output returns what the process has printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Pause stops the process where it is (SIGSTOP), as a machine that swaps or is
// suspended does: its connections stay open and it answers nothing. It returns when
// the process stands still, as [WaitStopped] does. Kill works on a paused process too.
func (p *Process) Pause() {
	p.tb.Helper()
	p.Signal(syscall.SIGSTOP)
	WaitStopped(p.tb, p.PID())
}

// WaitStopped waits until all threads of a process that was sent SIGSTOP stand still,
// which the signal only asks for. It returns at once when the process has ended, and
// fails tb after 30 s.
func WaitStopped(tb testing.TB, pid int) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(processLimit); ; <-tick.C {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			tb.Fatal(err)
		}
		if !slices.ContainsFunc(threads, moves) {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("process %d is not stopped after %v", pid, processLimit)
		}
	}
}

// moves reports whether the thread of a stat file is neither stopped nor gone:
// proc_pid_stat(5), its third field, after a name in parentheses.
func moves(stat string) bool {
	text, err := os.ReadFile(stat)
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" "))
	return len(state) > 0 && bytes.IndexByte([]byte("TtZX"), state[0]) < 0
}

// Resume lets a paused process go on (SIGCONT); it does nothing to one that runs.
func (p *Process) Resume() {
	p.tb.Helper()
	p.Signal(syscall.SIGCONT)
}

// Signal sends sig to the process alone, not to its children.
func (p *Process) Signal(sig syscall.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.tb.Errorf("signal %v to %d: %v", sig, p.PID(), err)
	}
}

// Kill ends the process and all its children at once, as a crash of the machine
// would, and waits until it has ended.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // gone already: nothing to do
	<-p.ended
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// ExitCode is that of a process that has ended, and -1 when a signal ended it or
// it has not.
func (p *Process) ExitCode() int {
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Stop sends SIGTERM and waits as Wait does.
func (p *Process) Stop() {
	p.tb.Helper()
	StopAll(p)
}

// StopAll sends SIGTERM to all processes, and then waits for them as Wait does.
func StopAll(all ...*Process) {
	for _, p := range all {
		p.tb.Helper()
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range all {
		p.Wait()
	}
}

// Wait waits for the process to end, which it must within 30 s and with exit
// code 0.
func (p *Process) Wait() {
	p.tb.Helper()
	select {
	case <-p.ended:
		if p.err != nil {
			p.tb.Errorf("process %d ended with %v\n%s", p.PID(), p.err, p.Output())
		}
	case <-time.After(processLimit):
		p.tb.Errorf("process %d still runs after %v\n%s", p.PID(), processLimit, p.Output())
	}
}
