package chaos_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/tools/chaos"
)

func init() { roles["worker"] = workerMain }

// Environment of the processes of the fleet under test.
const (
	envURL   = "CHAOS_URL"
	envDir   = "CHAOS_DIR"  // of the ledger
	envProc  = "CHAOS_PROC" // name in the ledger
	envSetup = "CHAOS_SETUP"
)

const service = "chaos"

// setup is what the processes of one fleet have to know.
type setup struct {
	chaos.Limits

	Slots   int
	Base    time.Duration // of the backoff
	Drain   time.Duration
	Seed    uint64
	PerSec  int           // tasks that the publisher publishes
	Work    time.Duration // a task takes at most twice that
	For     time.Duration // how long the publisher publishes; 0: until it is told to end
	Killers int           // how many times the tasks that kill their process are to be more
}

func readSetup() (s setup, err error) {
	return s, json.Unmarshal([]byte(os.Getenv(envSetup)), &s)
}

func (s setup) env() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain data
	}
	return envSetup + "=" + string(b)
}

// deed is the task of the fleet under test.
type deed struct {
	Plan  string        `msgpack:"plan"`
	Work  time.Duration `msgpack:"work"`
	Times int           `msgpack:"times"` // attempts that fail
	Age   time.Duration `msgpack:"age"`   // PutOff: at which it is not put off any more
	Delay time.Duration `msgpack:"delay"` // PutOff: for how long
	Bulk  []byte        `msgpack:"bulk"`
}

func (deed) Kind() string { return service + ".deed" }

// join is how a process of the fleet begins: with what it has to know, its ledger,
// and its broker, which it reaches through a proxy that the addresses that a broker
// tells would go past.
func join(ctx context.Context) (s setup, ledger *chaos.Writer, js jetstream.JetStream, err error) {
	if s, err = readSetup(); err != nil {
		return s, nil, nil, err
	}
	name := os.Getenv(envProc)
	if ledger, err = chaos.Open(os.Getenv(envDir), name); err != nil {
		return s, nil, nil, err
	}
	js, err = broker.Connect(ctx, broker.Options{
		URL: os.Getenv(envURL), Name: name, Wait: time.Minute,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Extra: []nats.Option{
			nats.IgnoreDiscoveredServers(), nats.ReconnectWait(50 * time.Millisecond), nats.ReconnectJitter(10*time.Millisecond, 10*time.Millisecond),
			nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		},
	})
	return s, ledger, js, err
}

// workerMain is a worker process.
func workerMain() int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if !worker.IsChild() {
		fmt.Println("ready") // to be told to end, and before it connects: its link may be cut
	}
	if err := runWorker(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, worker.ErrLeaked) {
			return 0 // as it shall: too many tasks were stubborn
		}
		return 1
	}
	return 0
}

func runWorker(ctx context.Context) error {
	s, ledger, js, err := join(ctx)
	if err != nil {
		return err
	}
	w, err := worker.New(js, service, worker.DrainLimit(s.Drain), worker.Grace(s.Grace), worker.Serve(worker.Class{
		Name: task.Default, Slots: s.Slots, TimeLimit: s.TimeLimit, MaxDeliver: s.MaxDeliver,
		Retry: retry.Policy{Base: s.Base, Cap: 4 * s.Base, Attempts: s.Attempts},
	}))
	if err != nil {
		return err
	}
	r := &recorder{ledger: ledger, setup: s}
	w.Use(r.record)
	worker.Handle(w, r.deed)
	return w.Run(ctx)
}

// recorder writes every run of a handler to the ledger.
type recorder struct {
	ledger *chaos.Writer
	setup  setup
}

// write ends the process when the ledger cannot be written: what is not in it has
// not happened.
func (r *recorder) write(e chaos.Event) {
	if err := r.ledger.Write(e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

type runKey struct{}

// record is the middleware: start before the handler begins, end after it has
// returned and before the worker knows.
func (r *recorder) record(next worker.Handler) worker.Handler {
	return func(ctx context.Context, t *worker.Task) (err error) {
		e := chaos.Event{What: chaos.Start, Run: rand.Text(), ID: t.ID, Generation: t.Generation, Attempt: t.Attempt}
		r.write(e)
		e.What = chaos.End
		defer func() {
			v := recover()
			e.Verdict, e.Text, e.Delay = verdict(ctx, err)
			if v != nil {
				e.Verdict, e.Text = chaos.Panicked, fmt.Sprint(v)
			}
			r.write(e)
			if v != nil {
				panic(v)
			}
		}()
		return next(context.WithValue(ctx, runKey{}, e.Run), t)
	}
}

// verdict names what a handler returned, as the worker will take it.
func verdict(ctx context.Context, err error) (name, text string, delay int64) {
	if err == nil {
		return chaos.Done, "", 0
	}
	text = err.Error()
	if d, ok := retry.AsAfter(err); ok {
		return chaos.PutOff, text, int64(d)
	}
	if retry.IsPermanent(err) {
		return chaos.Permanent, text, 0
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, worker.ErrDraining):
		return chaos.Drained, text, 0
	case errors.Is(cause, worker.ErrLeaseLost):
		return chaos.LeaseLost, text, 0
	case errors.Is(cause, worker.ErrTimeLimit):
		return chaos.TimeLimit, text, 0
	}
	return chaos.Failed, text, 0
}

// deed does what the task says.
func (r *recorder) deed(ctx context.Context, d deed) error {
	info, _ := task.FromContext(ctx)
	if err := pause(ctx, d.Work); err != nil {
		return err
	}
	first := info.Attempt == 0
	switch d.Plan {
	case chaos.PlanFail:
		if info.Attempt < d.Times {
			return fmt.Errorf("attempt %d fails", info.Attempt+1)
		}
	case chaos.PlanHopeless:
		return fmt.Errorf("attempt %d fails, as all do", info.Attempt+1)
	case chaos.PlanPanic:
		if first {
			panic("the first attempt panics")
		}
	case chaos.PlanHang:
		if first {
			return pause(ctx, 4*r.setup.TimeLimit)
		}
	case chaos.PlanStubborn:
		if first {
			time.Sleep(r.setup.TimeLimit + r.setup.Grace + time.Second)
			return errors.New("it was stubborn")
		}
	case chaos.PlanPermanent:
		return retry.Permanent(errors.New("nothing can mend this"))
	case chaos.PlanPutOff:
		if time.Since(info.EnqueuedAt) < d.Age {
			return retry.After(d.Delay, errors.New("not yet"))
		}
	case chaos.PlanStumble:
		// A file of its name says that it has done so before.
		f, err := os.OpenFile(filepath.Join(os.Getenv(envDir), "stumbled-"+info.ID), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			_ = f.Close()
			r.die(ctx)
		}
	case chaos.PlanPoison:
		r.die(ctx)
	}
	return nil
}

// die kills the process as the kernel does one that is out of memory.
func (r *recorder) die(ctx context.Context) {
	run, _ := ctx.Value(runKey{}).(string)
	r.write(chaos.Event{What: chaos.Dying, Run: run})
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
