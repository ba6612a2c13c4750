package natstest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	roleEnv    = "DROVER_TEST_ROLE"
	brokerRole = "natstest-broker"
)

// Main is the body of a TestMain whose tests kill processes. The test binary is
// started again for each of them, as one of roles, which are called by name and
// return the exit code; the broker's role is built in.
func Main(m *testing.M, roles map[string]func() int) {
	role := os.Getenv(roleEnv)
	if role == "" {
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

// Stop sends SIGTERM and waits as Wait does.
func (p *Process) Stop() {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	p.Wait()
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

// Broker is a nats-server in a child process, on one loopback port and one store
// over all its lives.
type Broker struct {
	*Process
	URL string
	env []string
}

// StartBroker starts a nats-server with JetStream in a child process.
func StartBroker(tb testing.TB) *Broker {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	b := &Broker{
		URL: fmt.Sprintf("nats://127.0.0.1:%d", port),
		env: []string{"NATSTEST_PORT=" + strconv.Itoa(port), "NATSTEST_DIR=" + tb.TempDir()},
	}
	b.Restart(tb)
	return b
}

// Restart starts the broker again after it was killed or stopped.
func (b *Broker) Restart(tb testing.TB) {
	tb.Helper()
	b.Process = Spawn(tb, brokerRole, b.env...)
}

// Connect returns a JetStream context on the broker that reconnects for ever. It
// is closed when tb ends.
func (b *Broker) Connect(tb testing.TB) jetstream.JetStream {
	tb.Helper()
	return Connect(tb, b.URL)
}

// Connect returns a JetStream context on the server at url that reconnects for
// ever. It is closed when tb ends.
func Connect(tb testing.TB, url string) jetstream.JetStream {
	tb.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	return js
}

func brokerMain() int {
	port, err := strconv.Atoi(os.Getenv("NATSTEST_PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "natstest", Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: os.Getenv("NATSTEST_DIR"), NoSigs: true, NoLog: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.Start()
	if !s.ReadyForConnections(readyWithin) {
		fmt.Fprintln(os.Stderr, "nats-server is not ready")
		return 1
	}
	fmt.Println("ready", s.ClientURL()) //nolint:forbidigo // it is the protocol of Spawn
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}
