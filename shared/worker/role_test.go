package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

func TestMain(m *testing.M) {
	if worker.IsChild() && os.Getenv("DROVER_TEST_ROLE") == "" {
		os.Exit(imageMain())
	}
	natstest.Main(m, map[string]func() int{"worker": workerMain, "caller": callerMain, "isolated": isolatedMain, "stray": strayMain, "capped": cappedMain, "limited": limitedMain})
}

// Environment of the worker process.
const (
	envURL    = "TEST_URL"
	envLedger = "TEST_LEDGER" // file that every run is written to
	envSlots  = "TEST_SLOTS"
	envFair   = "TEST_FAIR" // serve the fair class bulk
	// A child that ends before it has begun its task.
	envBadChild = "TEST_BAD_CHILD"
)

// workerMain is a worker process: what a task does is in its text.
func workerMain() int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	return runRole(newWorker)
}

func newWorker(js jetstream.JetStream) (*worker.Worker, error) {
	slots, _ := strconv.Atoi(os.Getenv(envSlots)) // 0 without: the default
	class := worker.Class{Name: task.Default, Slots: slots, TimeLimit: time.Minute}
	if os.Getenv(envFair) != "" {
		class.Name, class.Partitions = task.Bulk, partitions
	}
	w, err := worker.New(js, "test", worker.Serve(class), worker.DrainLimit(10*time.Second), worker.Grace(time.Second))
	if err != nil {
		return nil, err
	}
	l := ledger(os.Getenv(envLedger))
	worker.Handle(w, func(ctx context.Context, n note) error {
		info, _ := task.FromContext(ctx)
		write := func(what string) { l.write(what, info.ID, os.Getpid(), info.Attempt) }
		write("start")
		verb, arg, _ := strings.Cut(n.Text, " ")
		d, _ := time.ParseDuration(arg) // 0 without
		switch verb {
		case "sleep":
			select {
			case <-time.After(d):
			case <-ctx.Done():
				write("cancelled")
				return context.Cause(ctx)
			}
		case "kill":
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		case "exit":
			os.Exit(3)
		case "stuck":
			select {}
		case "permanent":
			return retry.Permanent(errors.New("no such account"))
		case "fail-empty":
			return errors.New("")
		case "fail-once":
			if info.Attempt == 0 {
				return errors.New("the first attempt fails")
			}
		}
		write("end")
		return nil
	}, worker.Retry(retry.Policy{Base: time.Second, Cap: time.Second}))
	return w, nil
}

// runRole runs the worker that build makes on the test's broker.
func runRole(build func(jetstream.JetStream) (*worker.Worker, error)) int {
	return natstest.RunRole(os.Getenv(envURL), func(ctx context.Context, js jetstream.JetStream, ready func()) error {
		w, err := build(js)
		if err != nil {
			return err
		}
		switch {
		case !worker.IsChild():
			ready()
		case os.Getenv(envBadChild) != "":
			os.Exit(5)
		}
		return w.Run(ctx)
	})
}

func spawnWorker(tb testing.TB, url string, l ledger, env ...string) *natstest.Process {
	tb.Helper()
	return natstest.Spawn(tb, "worker", append([]string{envURL + "=" + url, envLedger + "=" + string(l)}, env...)...)
}
