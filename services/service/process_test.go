package service_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/task"
)

const releaseSubject = "release"

// waiter is the service of the child process: its handler says that it runs and
// waits for a message on releaseSubject.
func waiter() service.Service {
	return pinger(func(ctx context.Context, env *service.Env) error {
		nc := env.JetStream.Conn()
		sub, err := nc.SubscribeSync(releaseSubject)
		if err == nil {
			err = nc.FlushWithContext(ctx)
		}
		if err != nil {
			return err
		}
		ctx, span := env.TracerProvider.Tracer("test").Start(ctx, "span of the handler")
		defer span.End()
		env.Log.InfoContext(ctx, "handler waits", slog.Int("pid", os.Getpid()))
		_, err = sub.NextMsgWithContext(ctx)
		return err
	})
}

// process starts waiter as a process of its own and returns once it takes tasks.
func process(t *testing.T, url string, env ...string) (*exec.Cmd, *journal) {
	t.Helper()
	cmd, log := begin(t, url, env...)
	log.wait(1, "worker takes tasks")
	return cmd, log
}

// begin starts waiter as a process of its own.
func begin(t *testing.T, url string, env ...string) (*exec.Cmd, *journal) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := newJournal(t)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), exe, "--nats", url, "--admin", "127.0.0.1:0", "--log-format", "json")
	cmd.Env = append(os.Environ(), append([]string{processEnv + "=1"}, env...)...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test has failed
		_ = cmd.Wait()
	})
	return cmd, log
}

// collector takes what is sent to it as OTLP over HTTP. Names are in protobuf as
// they are, so that a test can look for them.
type collector struct {
	url  string
	mu   sync.Mutex
	body map[string][]byte
}

// collect starts a collector and returns the variable that names it.
func collect(t *testing.T) (c *collector, env string) {
	t.Helper()
	c = &collector{body: map[string][]byte{}}
	srv := httptest.NewServer(c)
	c.url = srv.URL
	t.Cleanup(srv.Close)
	return c, "OTEL_EXPORTER_OTLP_ENDPOINT=" + srv.URL
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body) // a part is as good: the test looks for names
	c.mu.Lock()
	defer c.mu.Unlock()
	c.body[r.URL.Path] = append(c.body[r.URL.Path], b...)
}

func (c *collector) has(path, s string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(string(c.body[path]), s)
}

// SIGTERM lets the running task finish, sends the last spans and metrics, and
// ends the process with 0.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	url, js := testBroker(t)
	otlp, env := collect(t)
	cmd, log := process(t, url, env, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=proving-ground")
	publish(t, js)
	log.wait(1, "handler waits")
	signal(t, cmd, syscall.SIGTERM)
	log.wait(1, "service drains; a second signal ends it at once")
	release(t, js)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v, want 0; it logged:\n%s", err, log)
	}
	if n := pending(t, js, liveStream); n != 0 {
		t.Errorf("%d tasks are left, want the running one to have finished", n)
	}
	for _, want := range []struct{ path, name string }{
		{"/v1/traces", "process email.ping"},
		{"/v1/traces", "email"},
		{"/v1/traces", "proving-ground"},
		{"/v1/metrics", "drover.task.run"},
	} {
		if !otlp.has(want.path, want.name) {
			t.Errorf("nothing with %q was sent to %s", want.name, want.path)
		}
	}
}

// The second signal does not wait for the task, whose lease then runs out.
func TestKillBySecondSignal(t *testing.T) {
	t.Parallel()
	url, js := testBroker(t)
	cmd, log := process(t, url)
	publish(t, js)
	log.wait(1, "handler waits")
	signal(t, cmd, syscall.SIGINT)
	log.wait(1, "service drains; a second signal ends it at once")
	signal(t, cmd, syscall.SIGTERM)
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("the process ended with %v, want by SIGTERM", cmd.ProcessState)
	}
	if n := pending(t, js, liveStream); n != 1 {
		t.Errorf("%d tasks are left, want the one that was running", n)
	}
}

// A suspect runs in a child, which goes through the same start-up: it listens on
// no port, and its spans arrive.
func TestChild(t *testing.T) {
	t.Parallel()
	url, js := testBroker(t)
	otlp, env := collect(t)
	cmd, log := process(t, url, env)
	suspect := &nats.Msg{
		Subject: "retry.ready.default.email.ping.suspect",
		Header:  nats.Header{task.HeaderSubject: {pingSubject}, task.HeaderID: {"suspect"}, task.HeaderDeaths: {"2"}},
	}
	if _, err := js.PublishMsg(t.Context(), suspect); err != nil {
		t.Fatal(err)
	}
	line := log.wait(1, "handler waits")
	if pid, _ := line["pid"].(float64); int(pid) == cmd.Process.Pid || pid == 0 {
		t.Errorf("the suspect runs in process %v, want a child of %d", line["pid"], cmd.Process.Pid)
	}
	if line["task.id"] == nil || line["trace_id"] == nil {
		t.Errorf("the child logs %v, want task.id and trace_id in it", line)
	}
	release(t, js)
	signal(t, cmd, syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v, want 0; it logged:\n%s", err, log)
	}
	if n := pending(t, js, task.RetryStream); n != 0 {
		t.Errorf("%d tasks are left in RETRY, want none", n)
	}
	if !otlp.has("/v1/traces", "span of the handler") {
		t.Error("the span that the child made was not sent")
	}
	for _, msg := range []string{"service starts", "admin port is open"} {
		if n := log.count(msg); n != 1 {
			t.Errorf("%q was logged %d times, want by the parent alone", msg, n)
		}
	}
}

func signal(t *testing.T, cmd *exec.Cmd, s syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func release(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	if err := js.Conn().Publish(releaseSubject, nil); err != nil {
		t.Fatal(err)
	}
}
