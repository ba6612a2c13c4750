package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/service/admin"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// checkWithin is how long the check of the topology may take: an election of a
// leader takes 6 to 8 s, and a permission that is missing looks like no answer.
const checkWithin = 15 * time.Second

// errClosed is why a process ends whose connection cannot come back.
var errClosed = errors.New("the broker connection is closed for good")

// process is one run of a service.
type process struct {
	*settings

	service Service
	child   bool // of a worker, for one task
	log     *slog.Logger
	health  *health
	end     context.CancelCauseFunc // ends the run, as a signal does
	js      jetstream.JetStream     // nil until connected
}

// Run starts s with args and works until ctx is done or a signal asks for it, and
// then until it is drained. It returns nil after that, and when args ask for help
// or the version, which go to stdout. The log goes to stderr.
//
// It returns an error wrapping [ErrUsage] before it starts anything when flags,
// environment or files are wrong, one wrapping [worker.ErrLeaked] or
// [worker.ErrRecycle] when the service should be started again at once, and
// otherwise what ended the service.
func Run(ctx context.Context, s Service, args []string, stdout, stderr io.Writer) error {
	child := worker.IsChild() // asked first: the worker forgets it when it runs
	c, err := configure(s, args, stdout)
	if err != nil || c == nil {
		return err
	}
	log := newLogger(stderr, s.Name, c.LogFormat, c.LogLevel)
	slog.SetDefault(log)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	p := &process{settings: c, service: s, child: child, log: log, health: &health{stage: errStarting}, end: end}
	defer p.disconnect()

	t, err := startTelemetry(ctx, s.Name, c, child, log)
	if err != nil {
		return err
	}
	defer t.close(ctx, log)
	ctx, stop := p.signals(ctx)
	defer stop()
	if !child {
		log.InfoContext(ctx, "service starts", slog.String("version", Version()), slog.String("instance", t.instance),
			slog.Any("classes", names(c.classes)), slog.String("pool", string(c.Pool)))
	}
	if !child && c.Admin != "" {
		a, err := admin.Listen(ctx, admin.Config{
			Addr: c.Admin, Remedy: "choose another with --admin or DROVER_ADMIN_ADDR: port 0 for any free one, nothing for none",
			Live: p.health.Live, Ready: p.health.Ready, Metrics: t.registry, Log: log, Failed: end,
		})
		if err != nil {
			return err
		}
		defer a.Close(ctx)
		log.InfoContext(ctx, "admin port is open", slog.String("addr", a.Addr()))
	}
	err = p.connect(ctx)
	switch {
	case err == nil:
		e := &Env{
			Service: s.Name, JetStream: p.js, Fleet: c.fleet, Log: log,
			TracerProvider: t.traces, MeterProvider: t.meters,
			classes: workerClasses(c.classes), pool: c.Pool, drain: c.Drain, health: p.health, doing: new(doing),
		}
		err = p.work(ctx, e, t.instance)
	case asked(ctx):
		return nil // nothing was started
	}
	return outcome(ctx, err)
}

// work runs the service. The fleet knows of it for that long.
func (p *process) work(ctx context.Context, e *Env, instance string) error {
	if p.child {
		return p.service.Run(ctx, e)
	}
	turn := &turn{js: p.js, service: p.service.Name, instance: instance, limit: p.Drain + afterDrain}
	e.recycle = []worker.Option{
		worker.RecycleAfter(p.RecycleAfter), worker.RecycleAbove(int64(p.RecycleAbove)), worker.Turn(turn.take),
	}
	end := p.announce(ctx, e.doing, instance)
	err := p.service.Run(ctx, e)
	end()
	if err := turn.giveBack(ctx); err != nil {
		p.log.WarnContext(ctx, "other processes of the service cannot be recycled for a while", slog.Any("error", err), slog.String("limit", turn.limit.String()))
	}
	return err
}

// outcome is the error of a run that ended with err: why it had to end, or nil
// when it was asked to and did.
func outcome(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil:
		return err
	case asked(ctx):
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	case err == nil || errors.Is(err, cause):
		return cause
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// asked reports whether ctx has ended because a signal or the caller wanted it.
func asked(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded)
}

// signals returns a context that the first SIGTERM or SIGINT ends; the second one
// ends the process. stop must be called when the service has ended.
func (p *process) signals(ctx context.Context) (_ context.Context, stop func()) {
	asked := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}
	if p.child {
		signal.Reset(asked[0], asked[1]) // whatever started this, `drover run` included, may have caught them
		return ctx, func() {}
	}
	ctx, cancel := signal.NotifyContext(ctx, asked[0], asked[1])
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ctx.Done():
			signal.Reset(asked[0], asked[1])
			cause := context.Cause(ctx)
			p.health.drain(fmt.Errorf("draining: %w", cause))
			p.log.InfoContext(ctx, "service drains; a second signal ends it at once",
				slog.String("cause", cause.Error()), slog.String("limit", p.Drain.String()))
		case <-ended:
		}
	})
	return ctx, func() {
		close(ended)
		wg.Wait()
		cancel()
	}
}

// connect waits for the broker and checks that the topology is there.
func (p *process) connect(ctx context.Context) error {
	p.health.at(errors.New("waiting for the broker"))
	o := broker.Options{
		URL: p.NATS, Name: p.service.Name, Creds: p.Creds, NKey: p.NKey, Logger: p.log,
		Closed: func(err error) {
			p.health.lost(errClosed)
			p.end(fmt.Errorf("%w (%w)", errClosed, err))
		},
	}
	js, err := broker.Connect(ctx, o)
	if errors.Is(err, broker.ErrUnreachable) && ctx.Err() == nil && p.Wait > 0 {
		p.log.WarnContext(ctx, "no broker yet, trying on", slog.Any("error", err), slog.String("limit", p.Wait.String()))
		o.Wait = p.Wait
		js, err = broker.Connect(ctx, o)
	}
	if err != nil {
		return err
	}
	p.js = js
	p.log.DebugContext(ctx, "broker is connected", slog.String("url", js.Conn().ConnectedUrlRedacted()),
		slog.String("version", js.Conn().ConnectedServerVersion()))
	if p.child {
		return nil // its parent has checked
	}
	p.health.at(errors.New("checking the topology"))
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	warnings, err := streams.Inspect(ctx, js, p.fleet, p.service.Name)
	if len(warnings) > 0 {
		p.log.WarnContext(ctx, "the broker keeps fewer copies than the fleet file says; `drover streams plan` shows it", slog.Any("differences", warnings))
	}
	if err != nil {
		return err
	}
	p.health.at(errStarting)
	return nil
}

func (p *process) disconnect() {
	if p.js == nil {
		return
	}
	p.js.Conn().SetClosedHandler(nil)
	p.js.Conn().Close()
}

func names(classes []streams.Class) []string {
	out := make([]string, len(classes))
	for i, c := range classes {
		out[i] = string(c.Name)
	}
	return out
}
