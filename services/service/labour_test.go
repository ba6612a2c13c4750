package service_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// labour is a task of the processes that these tests run, kill and replace.
type labour struct {
	Millis int   `msgpack:"millis"` // how long it takes
	Leak   int   `msgpack:"leak"`   // bytes that its process never gives back
	Sent   int64 `msgpack:"sent"`   // ns since 1970
}

func (labour) Kind() string { return "email.labour" }

// photo is a task that takes 3 GiB, and its process's cap is photoCap.
type photo struct{}

func (photo) Kind() string { return "email.photo" }

const photoCap = 256 << 20 // bytes

const labourFleet = `allow_short_ack_wait: true
classes:
  - {name: urgent, ack_wait: 20s, time_limit: 15s, attempts: 5, max_deliver: 3, wait_objective: 100ms, slots: 8, max_bytes: 64MiB}
  - {name: slow, ack_wait: 20s, time_limit: 60s, attempts: 5, max_deliver: 3, wait_objective: 2m, slots: 2, max_bytes: 64MiB}
services:
  - {name: email, classes: [urgent, slow], processes: 3}
dead: {max_bytes: 16MiB}
bodies: {max_bytes: 16MiB}
`

const labourLedger = "SERVICE_TEST_LEDGER" // file that the processes write to what they do

// labourer is the service of these processes.
func labourer() service.Service {
	var leaked [][]byte
	var mu sync.Mutex
	ledger, err := os.OpenFile(os.Getenv(labourLedger), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return service.Service{Name: "email", Run: func(ctx context.Context, env *service.Env) error {
		if err != nil {
			return err
		}
		w, err := worker.New(env.JetStream, env.Service, env.WorkerOptions()...)
		if err != nil {
			return err
		}
		write := func(what string, info task.Info, wait int64) { // one write of one short line: atomic, and it outlives a kill
			fmt.Fprintf(ledger, "%s %s %d %d\n", what, info.ID, os.Getpid(), wait)
		}
		worker.Handle(w, func(ctx context.Context, l labour) error {
			info, _ := task.FromContext(ctx)
			write("start", info, time.Now().UnixNano()-l.Sent)
			if l.Leak > 0 {
				b := make([]byte, l.Leak)
				for i := 0; i < len(b); i += 4 << 10 {
					b[i] = 1
				}
				mu.Lock()
				leaked = append(leaked, b)
				mu.Unlock()
			}
			end := time.NewTimer(time.Duration(l.Millis) * time.Millisecond)
			select {
			case <-end.C:
			case <-ctx.Done():
				write("cut", info, 0)
				return context.Cause(ctx)
			}
			write("end", info, 0)
			return nil
		})
		worker.Handle(w, func(context.Context, photo) error {
			for all := [][]byte{}; len(all) < 3<<10; { // 3 GiB
				all = append(all, bytes.Repeat([]byte{1}, 1<<20))
			}
			return nil
		}, worker.Isolated(worker.Memory(photoCap)), worker.Retry(retry.Policy{Attempts: 2, Base: time.Millisecond, Cap: time.Millisecond}))
		return env.Run(ctx, w)
	}}
}

// labourers are processes of one fleet.
type labourers struct {
	tb     testing.TB
	js     jetstream.JetStream
	env    []string
	url    string
	ledger string
}

func newLabourers(tb testing.TB) *labourers {
	tb.Helper()
	dir := tb.TempDir()
	l := &labourers{tb: tb, ledger: filepath.Join(dir, "ledger")}
	l.url, l.js = natstest.Listen(tb)
	file := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(file, []byte(labourFleet), 0o600); err != nil {
		tb.Fatal(err)
	}
	fleet, err := streams.Load(file)
	if err == nil {
		_, err = streams.Apply(tb.Context(), l.js, fleet)
	}
	if err != nil {
		tb.Fatal(err)
	}
	l.env = []string{processEnv + "=labourer", labourLedger + "=" + l.ledger, "DROVER_FLEET=" + file, "DROVER_NATS_URL=" + l.url}
	return l
}

// start starts a process. ended is closed when it has ended.
func (l *labourers) start(args ...string) (cmd *exec.Cmd, log *journal, ended <-chan struct{}) {
	l.tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		l.tb.Fatal(err)
	}
	log = newJournal(l.tb)
	cmd = exec.CommandContext(context.WithoutCancel(l.tb.Context()), exe, append([]string{"--log-format=json"}, args...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), l.env...), log
	if err := cmd.Start(); err != nil {
		l.tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the test looks at its state
		close(done)
	}()
	l.tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test has failed
		<-done
	})
	return cmd, log, done
}

func (l *labourers) publish(class, id string, work labour) {
	l.tb.Helper()
	work.Sent = time.Now().UnixNano()
	body, err := task.Marshal(work)
	if err != nil {
		l.tb.Fatal(err)
	}
	if _, err := l.js.PublishMsg(l.tb.Context(), &nats.Msg{Subject: "tasks." + class + ".email.labour", Data: body}, jetstream.WithMsgID(id)); err != nil {
		l.tb.Fatal(err)
	}
}

// entry is one line of the ledger.
type entry struct {
	what, id string
	pid      int
	wait     time.Duration // of a start, since it was published
}

func (l *labourers) entries() (out []entry) {
	l.tb.Helper()
	f, err := os.Open(l.ledger)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		l.tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return out
		}
		var e entry
		if _, err := fmt.Sscan(line, &e.what, &e.id, &e.pid, &e.wait); err != nil {
			l.tb.Fatalf("ledger: %q: %v", line, err)
		}
		out = append(out, e)
	}
}

// until waits for ok of what is in the ledger.
func (l *labourers) until(limit time.Duration, what string, ok func([]entry) bool) {
	l.tb.Helper()
	for end := time.Now().Add(limit); !ok(l.entries()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			l.tb.Fatalf("not within %v: %s; the ledger has %d entries", limit, what, len(l.entries()))
		}
	}
}

// count is how many different tasks with this prefix have an entry.
func count(all []entry, what, prefix string) int {
	seen := map[string]bool{}
	for _, e := range all {
		if e.what == what && strings.HasPrefix(e.id, prefix) {
			seen[e.id] = true
		}
	}
	return len(seen)
}

// once fails the test unless each of n tasks has run once, to its end, and
// nothing is left anywhere.
func (l *labourers) once(n int) {
	l.tb.Helper()
	starts, ends := map[string]int{}, map[string]int{}
	for _, e := range l.entries() {
		switch e.what {
		case "start":
			starts[e.id]++
		case "end":
			ends[e.id]++
		default:
			l.tb.Errorf("task %s was cut short", e.id)
		}
	}
	if len(starts) != n || len(ends) != n {
		l.tb.Errorf("%d of %d tasks started and %d ended", len(starts), n, len(ends))
	}
	for id, k := range starts {
		if k != 1 || ends[id] != 1 {
			l.tb.Errorf("task %s started %d times and ended %d times, want once", id, k, ends[id])
		}
	}
	for _, stream := range []string{"TASKS_URGENT", "TASKS_SLOW", task.RetryStream, task.DeadStream} {
		if left := pending(l.tb, l.js, stream); left != 0 {
			l.tb.Errorf("%d messages are left in %s", left, stream)
		}
	}
}

// end asks a process to end and waits until it has, with one of the codes.
func (l *labourers) end(cmd *exec.Cmd, log *journal, ended <-chan struct{}, codes ...int) {
	l.tb.Helper()
	_ = cmd.Process.Signal(syscall.SIGTERM) // it has just ended: the code tells
	select {
	case <-ended:
	case <-time.After(patience):
		l.tb.Errorf("process %d still runs after %v", cmd.Process.Pid, patience)
		return
	}
	if code := cmd.ProcessState.ExitCode(); !slices.Contains(codes, code) {
		l.tb.Errorf("process %d ended with %d, want one of %v; it logged:\n%s", cmd.Process.Pid, code, codes, log)
	}
}
