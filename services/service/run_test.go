package service_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// The probes through a whole life: starting, taking tasks, draining, gone.
func TestProbes(t *testing.T) {
	t.Parallel()
	url, js := testBroker(t)
	open, running, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s := pinger(func(context.Context, *service.Env) error {
		close(running)
		<-release
		return nil
	})
	run := s.Run
	entered := make(chan struct{})
	s.Run = func(ctx context.Context, env *service.Env) error {
		close(entered)
		<-open
		return run(ctx, env)
	}
	r := start(t, s, "--nats", url, "--admin", "127.0.0.1:0")
	get := r.log.admin()
	type answer struct {
		Status int
		Body   string
	}
	check := func(path string, want answer) {
		t.Helper()
		status, body := get(path)
		if diff := cmp.Diff(want, answer{status, body}); diff != "" {
			t.Errorf("GET %s (-want +got):\n%s", path, diff)
		}
	}

	<-entered
	check("/healthz", answer{200, "alive\n"})
	check("/readyz", answer{503, "not ready: the service is starting\n"})

	close(open)
	r.log.wait(1, "worker takes tasks")
	publish(t, js)
	<-running
	check("/readyz", answer{200, "ready\n"})

	r.stop()
	r.log.wait(1, "service drains; a second signal ends it at once")
	check("/healthz", answer{200, "alive\n"})
	check("/readyz", answer{503, "not ready: draining: context canceled\n"})

	close(release)
	if err := r.err(); err != nil {
		t.Errorf("Run() = %v, want nil after a drain", err)
	}
	if n := pending(t, js, liveStream); n != 0 {
		t.Errorf("%d tasks are left, want the running one to have finished", n)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	url, js := testBroker(t)
	running := make(chan struct{})
	r := start(t, pinger(func(ctx context.Context, env *service.Env) error {
		env.Log.InfoContext(ctx, "handler runs")
		close(running)
		<-ctx.Done() // canceled at once: the drain limit is 0
		return ctx.Err()
	}), "--nats", url, "--admin", "127.0.0.1:0", "--class", "default", "--drain", "0s")
	get := r.log.admin()
	publish(t, js)
	<-running

	_, body := get("/metrics")
	for _, want := range []string{
		`drover_task_wait_seconds_bucket{task_class="default",task_kind="email.ping",task_lane="live",task_service="email",le="0.0005"}`,
		`le="3600.0"`, // the objective of class bulk, which this process does not even serve
		`drover_worker_slots{task_class="default",task_lane="live",task_service="email"} 32.0`,
		`drover_worker_slots{task_class="default",task_lane="retry",task_service="email"} 8.0`,
		`drover_worker_in_flight{task_class="default",task_lane="live",task_service="email"} 1.0`,
		"} 1 # {", // an exemplar
		`service_name="email",service_namespace="drover"`,
		"go_goroutine_count",
		"process_open_fds",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("GET /metrics has no %s", want)
		}
	}
	if strings.Contains(body, `task_class="urgent"`) {
		t.Error("GET /metrics has class urgent, want only the class of --class")
	}
	if t.Failed() {
		t.Log(body)
	}

	line := r.log.wait(1, "handler runs")
	for _, key := range []string{"trace_id", "span_id", "task.id", "task.kind", "service.name"} {
		if line[key] == nil {
			t.Errorf("a line logged in a handler is %v, want %s in it", line, key)
		}
	}
}

// What the service's own function returns decides how the process ends.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	url, _ := testBroker(t)
	tests := []struct {
		name string
		run  func(context.Context, *service.Env) error
		want int
	}{
		{"ended", func(context.Context, *service.Env) error { return nil }, 0},
		{"failed", func(context.Context, *service.Env) error { return errors.New("the SMTP server burns") }, 1},
		{"misconfigured", func(context.Context, *service.Env) error { return fmt.Errorf("no CA: %w", service.ErrUsage) }, 78},
		{"leaked", func(context.Context, *service.Env) error { return fmt.Errorf("run: %w", worker.ErrLeaked) }, 75},
		{"closed", func(ctx context.Context, env *service.Env) error {
			env.JetStream.Conn().Close()
			<-ctx.Done()
			return context.Cause(ctx)
		}, 1},
	}
	s := service.Service{Name: "email", Run: tests[0].run}
	if got := service.Exec(t.Context(), s, []string{"--nats", "nats://127.0.0.1:1", "--nats-wait", "1ms"}, io.Discard, io.Discard); got != 5 {
		t.Errorf("Exec() without a broker = %d, want 5", got)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := service.Service{Name: "email", Run: test.run}
			log := newJournal(t)
			if got := service.Exec(t.Context(), s, []string{"--nats", url}, log, log); got != test.want {
				t.Errorf("Exec() = %d, want %d; it wrote:\n%s", got, test.want, log)
			}
		})
	}
}

func TestClosedConnection(t *testing.T) {
	t.Parallel()
	url, _ := testBroker(t)
	s := service.Service{Name: "email", Run: func(ctx context.Context, env *service.Env) error {
		env.JetStream.Conn().Close()
		<-ctx.Done()
		return nil // as a worker that has drained what it could
	}}
	err := start(t, s, "--nats", url).err()
	if want := "the broker connection is closed for good"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Run() = %v, want %s", err, want)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	never := service.Service{Name: "email", Run: func(context.Context, *service.Env) error {
		t.Error("Run of the service was called, want an error before that")
		return nil
	}}
	t.Run("admin port is taken", func(t *testing.T) {
		t.Parallel()
		var lc net.ListenConfig
		l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		err = start(t, never, "--admin", l.Addr().String()).err()
		want := "listen on admin address " + l.Addr().String() + ": listen tcp " + l.Addr().String() + ": bind: address already in use: " +
			"choose another with --admin or DROVER_ADMIN_ADDR: port 0 for any free one, nothing for none"
		if err == nil || err.Error() != want {
			t.Errorf("Run() = %v, want %s", err, want)
		}
	})
	t.Run("no broker", func(t *testing.T) {
		t.Parallel()
		err := start(t, never, "--nats", "nats://127.0.0.1:1", "--nats-wait", "0s").err()
		if !errors.Is(err, broker.ErrUnreachable) {
			t.Errorf("Run() = %v, want %v", err, broker.ErrUnreachable)
		}
	})
	t.Run("asked to end while it waits for the broker", func(t *testing.T) {
		t.Parallel()
		r := start(t, never, "--nats", "nats://127.0.0.1:1", "--admin", "127.0.0.1:0")
		get := r.log.admin()
		r.log.wait(1, "no broker yet, trying on")
		if status, body := get("/readyz"); status != 503 || body != "not ready: waiting for the broker\n" {
			t.Errorf("GET /readyz = %d %q, want that it waits for the broker", status, body)
		}
		r.stop()
		if err := r.err(); err != nil {
			t.Errorf("Run() = %v, want nil: nothing was started", err)
		}
	})
	t.Run("drift", func(t *testing.T) {
		t.Parallel()
		url, js := natstest.Listen(t)
		if _, err := streams.Apply(t.Context(), js, streams.Default()); err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteConsumer(t.Context(), "TASKS_BULK", "email"); err != nil {
			t.Fatal(err)
		}
		err := start(t, never, "--nats", url).err()
		if !errors.Is(err, streams.ErrDrift) {
			t.Fatalf("Run() = %v, want %v", err, streams.ErrDrift)
		}
		for _, want := range []string{"consumer TASKS_BULK/email does not exist", "drover streams apply"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("Run() = %v, want %q in it", err, want)
			}
		}
	})
}
