package doctor_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

const (
	workerRole = "worker"
	urlEnv     = "DOCTOR_TEST_URL"
)

func TestMain(m *testing.M) {
	natstest.Main(m, map[string]func() int{workerRole: workerMain})
}

// workerMain is a worker whose handler never returns.
func workerMain() int {
	return natstest.RunRole(os.Getenv(urlEnv), func(ctx context.Context, js jetstream.JetStream, ready func()) error {
		w, err := worker.New(js, "webhook", worker.Serve(worker.Class{Name: task.Default, Slots: 2}), worker.Logger(slog.New(slog.DiscardHandler)))
		if err != nil {
			return err
		}
		worker.Handle(w, func(ctx context.Context, _ hook) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		ready()
		return w.Run(ctx)
	})
}

// The only worker is killed with tasks in its hands: they look like running ones to
// the broker until somebody asks for more.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	p := natstest.Spawn(t, workerRole, urlEnv+"="+f.url)
	f.publish(5, hook{})
	f.inFlight("TASKS_DEFAULT", "webhook", 2)
	p.Kill()
	says(t, first(t, f.examine(), "lane-nobody", "default/webhook"), "3 tasks wait", "2 in flight, 0 open pulls", "has died or hangs", "drover run webhook")
}
