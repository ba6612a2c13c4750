//go:build e2e

package e2e_test

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test runs beside it. Its methods are safe for
// concurrent use.
type process struct {
	tb    testing.TB
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of cmd; after ended

	mu   sync.Mutex
	out  bytes.Buffer
	more chan struct{} // closed when there is more in out
}

// start starts a program in a process group of its own. The group is killed when
// tb ends.
func start(tb testing.TB, env []string, name string, args ...string) *process {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{tb: tb, name: name, cmd: exec.CommandContext(alive, name, args...), ended: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Cancel = p.kill
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", name, err)
	}
	_ = w.Close() // the program has it
	var wg sync.WaitGroup
	wg.Go(func() { p.read(r) })
	wg.Go(func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	})
	tb.Cleanup(func() {
		_ = p.kill() // it has ended: fine
		wg.Wait()
		if tb.Failed() {
			tb.Logf("output of %s:\n%s", p.name, p.output())
		}
	})
	return p
}

func (p *process) kill() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

func (p *process) read(r io.ReadCloser) {
	defer func() { _ = r.Close() }()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		p.mu.Lock()
		p.out.Write(line)
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// wait waits for a line of output that contains text, and returns the last such.
func (p *process) wait(text string) string {
	p.tb.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		p.mu.Lock()
		out, more := p.out.String(), p.more
		p.mu.Unlock()
		if i := strings.LastIndex(out, text); i >= 0 && strings.Contains(out[i:], "\n") {
			from := strings.LastIndexByte(out[:i], '\n') + 1
			line, _, _ := strings.Cut(out[from:], "\n")
			return line
		}
		select {
		case <-more:
			continue
		case <-p.ended:
			p.tb.Fatalf("%s ended (%v) before it said %q", p.name, p.err, text)
		case <-limit.C:
			p.tb.Fatalf("%s did not say %q within %v", p.name, text, patience)
		}
	}
}

// execute runs a program to its end, which must be good, and returns its standard
// output.
func execute(tb testing.TB, env []string, stdin, name string, args ...string) string {
	tb.Helper()
	cmd := exec.CommandContext(alive, name, args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its children end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s: %v\n%s%s", cmd, err, out.String(), diag.String())
	}
	return out.String()
}
