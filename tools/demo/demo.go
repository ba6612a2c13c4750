// Package demo puts real work through a real fleet, on this machine and in less
// than half a minute, and accounts for every task of it.
//
// # Semantics
//
// It starts a fleet as `drover up` does, on an embedded broker in a temporary
// folder and on ports that the system picks: two processes of email, one of
// webhook, and one of a service that only the demo has. The mail server and the
// receiver of webhooks are real ones, on loopback. Then, partly at once:
//
//   - mail: some that are put off once and retried, and one to nobody, which dies;
//   - bulk under urgent: 2,000 bulk mails queue while urgent ones come in;
//   - webhooks to a receiver that fails, then hangs, then is back: its breaker opens,
//     and they wait without an attempt;
//   - a task that kills its process each time, beside tasks that do not;
//   - photos in processes of their own, one of which would take 1 GiB: it ends there, at
//     its cap;
//   - a delivery that spends all its attempts, dies, and is redriven once what it
//     needed is mended.
//
// What became of each task is taken from the outside: which mails the server took
// in, which deliveries the receiver verified and answered, what the demo's service
// said it did. A task is accounted for when it was done there or is in DEAD, and
// not both, and when nothing is left in any other stream.
//
// # Concurrency
//
// Run may be called several times at once: nothing is shared but the machine.
package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/dev"
	"github.com/droverhq/drover/tools/supervise"
)

//go:embed fleet.yaml
var fleetFile []byte

// Options say how large the demo is and where it shows. Command is required.
type Options struct {
	Command []string // what starts a service: this and then its name
	Env     []string // KEY=VALUE for the services, over this process's environment

	Divide int       // make everything so many times smaller; 0 and 1 mean full size
	Stdout io.Writer // where it is shown; nil for nowhere

	TracerProvider trace.TracerProvider // of publishes and the redrive; nil makes no spans
	Logger         *slog.Logger         // of broker and supervisor; nil drops it

	// Keep is called with the addresses of the fleet once the report is complete, and the
	// fleet goes on until it returns. nil ends the fleet at once.
	Keep func(ctx context.Context, r *Report)
}

const (
	startLimit = 20 * time.Second // until the fleet is ready
	playLimit  = 60 * time.Second // for all the rest; it takes a quarter of that
	stopLimit  = 10 * time.Second // for draining; there is nothing left to do
)

// demo is one run.
type demo struct {
	o      Options
	s      *supervise.Supervisor
	fleet  *streams.Fleet
	client *client.Client
	mail   *dev.MailServer
	hooks  *dev.Receiver // of orders

	billing *dev.Receiver // of invoices: another host, so that no breaker is in their way
	ledger  *ledger
	show    *show

	mu         sync.Mutex
	ends       map[string]int // processes that ended unasked, by service
	alone      int            // runs of the killer in a child of its own
	photos     int            // processes of the service that died while photos ran
	redriven   []Redrive
	unexpected []string
	state      breaker.State // of the breaker of hooks
	opened     int           // how often it did
}

// Run runs the demo and returns its report. An error is about the demo itself: it
// could not start, or ctx ended. What went wrong with the work is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	begun := time.Now()
	dir, err := os.MkdirTemp("", "drover-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the demo: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir) // it is in the system's folder for such things
		}
	}()
	d := &demo{o: o, ledger: newLedger(), ends: map[string]int{}}
	d.show = newShow(d, begun)
	defer d.show.close()
	if err := d.start(ctx, dir); err != nil {
		keep = ctx.Err() == nil
		return nil, fmt.Errorf("start the demo: %w", errors.Join(err, d.stop(ctx)))
	}
	r, err := d.run(ctx, begun)
	if err == nil {
		d.show.report(ctx, r)
		if o.Keep != nil {
			o.Keep(ctx, r)
		}
	}
	if err := d.stop(ctx); err != nil && r != nil {
		r.problem("%v", err)
	}
	if r != nil && !r.OK {
		keep = true
		r.problem("streams and logs are kept in %s", dir)
	}
	return r, err
}

func (d *demo) start(ctx context.Context, dir string) (err error) {
	if d.fleet, err = streams.Parse(fleetFile); err != nil {
		return err
	}
	path := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(path, fleetFile, 0o600); err != nil {
		return err
	}
	if err := d.outside(ctx); err != nil {
		return err
	}
	log := d.o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	env := append(dev.Env(nil, d.mail, d.hooks), "DROVER_WEBHOOK_TIMEOUT=1s", "DROVER_WEBHOOK_BREAKER_OPEN="+breakerOpen,
		"DROVER_WEBHOOK_PORTS=443,"+port(d.hooks)+","+port(d.billing))
	if d.s, err = supervise.Start(ctx, supervise.Config{
		Dir: filepath.Join(dir, "state"), Port: -1, Fleet: d.fleet, FleetFile: path, Command: d.o.Command,
		Scale: map[string]int{"email": 2}, Env: append(env, d.o.Env...), Drain: stopLimit / 2, Logger: log, Events: d.event,
	}); err != nil {
		return err
	}
	if err := d.listen(); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := d.s.WaitReady(ready); err != nil {
		return err
	}
	d.client, err = client.New(d.s.JetStream(), client.TracerProvider(d.o.TracerProvider))
	return err
}

// stop ends everything that was started, as far as it was.
func (d *demo) stop(ctx context.Context) error {
	var err error
	if d.s != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		err = d.s.Stop(ctx)
	}
	if d.mail != nil {
		d.mail.Close()
	}
	for _, r := range []*dev.Receiver{d.hooks, d.billing} {
		if r != nil {
			r.Close()
		}
	}
	return err
}

// run plays all acts and accounts for the tasks.
func (d *demo) run(ctx context.Context, begun time.Time) (*Report, error) {
	d.show.start()
	play, cancel := context.WithTimeoutCause(ctx, playLimit, fmt.Errorf("not done within %v", playLimit))
	err := d.play(play)
	if err == nil {
		err = d.settled(play)
	}
	cancel()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r := d.report(ctx)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = context.Cause(play)
		}
		r.problem("%v", err)
	}
	r.Seconds = time.Since(begun).Seconds()
	return r, nil
}

// size is n at the size of this demo, at least 1.
func (d *demo) size(n int) int { return max(1, n/max(1, d.o.Divide)) }
