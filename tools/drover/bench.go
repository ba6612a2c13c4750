package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/tools/bench"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type benchCmd struct {
	Rounds *int `placeholder:"N" help:"Rounds that count, after one that does not. The default is 5."`
	Tasks  *int `placeholder:"N" help:"Tasks in each drain and in each publish of many. The default is 50,000."`
	Quick  bool `help:"A few seconds, for a first look: 3 rounds of 20,000 tasks."`
	Check  bool `help:"Exit with 1 when a figure misses what the project promises."`
}

// Help is the long text of --help.
func (benchCmd) Help() string {
	return `Measures Drover and bare nats.go in turn on one broker, and shows the medians of
several rounds. The broker is one embedded for the occasion; DROVER_NATS_URL does not
count here. With --nats on the command line it is that one: there it works in a stream
of its own, TASKS_BENCH, which it deletes at the end, and touches nothing of a fleet;
but it does load the broker.

Examples:

    drover bench
    drover bench --quick --json
    drover bench --nats nats://broker:4222 --rounds 9`
}

// Validate is called by kong.
func (c *benchCmd) Validate() error {
	switch {
	case c.Rounds != nil && *c.Rounds < 1:
		return fmt.Errorf("--rounds %d: want 1 or more", *c.Rounds)
	case c.Tasks != nil && *c.Tasks < 2:
		return fmt.Errorf("--tasks %d: want 2 or more", *c.Tasks)
	}
	return nil
}

func (c *benchCmd) Run(ctx context.Context, app *App) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(app.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	cfg := bench.Config{}
	if c.Quick {
		cfg = bench.Quick()
	}
	if c.Rounds != nil {
		cfg.Rounds = *c.Rounds
	}
	if c.Tasks != nil {
		cfg.Tasks = *c.Tasks
	}
	cfg.Logger = log
	cfg.Progress = func(line string) { _, _ = fmt.Fprintln(app.Stderr, line) }
	if app.Named {
		cfg.Replicas = fleet.Replicas
		cfg.Broker = &broker.Options{URL: app.NATS, Name: app.user(), Creds: app.Creds, NKey: app.NKey, Logger: log}
	}
	report, err := bench.Run(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errInterrupted, err)
		}
		return err
	}
	if app.JSON {
		err = app.encode(report)
	} else {
		app.figures(report)
	}
	if missed := report.Missed(); c.Check && err == nil && len(missed) > 0 {
		return errors.New(strings.Join(missed, "; "))
	}
	return err
}

func (a *App) figures(r *bench.Report) {
	rate := func(v float64) string { return screen.Count(int(v)) + "/s" }
	ms := func(v float64) string { return fmt.Sprintf("%.3f ms", v*1000) }
	ratio := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	t := screen.Table{Head: []string{"", ">DROVER", ">BARE NATS.GO", ">RATIO", "PROMISE"}}
	t.Add("drain no-op tasks", rate(r.Drain), rate(r.DrainBare), ratio(r.DrainRatio), "0.80 or more")
	t.Add("  allocations per task", ratio(r.Allocs), ratio(r.AllocsBare), ratio(r.Allocs/r.AllocsBare), "")
	t.Add("publish many", rate(r.PublishMany), rate(r.PublishManyBare), ratio(r.PublishManyRatio), "0.80 or more")
	t.Add("  to bare without ids", rate(r.PublishMany), rate(r.PublishManyBareNoID), ratio(r.PublishManyRatioNoID), "")
	t.Add("publish one, p50", ms(r.PublishOne), ms(r.PublishOneBare), ratio(r.PublishOneRatio), "1.10 or less")
	t.Add("  p99", ms(r.PublishOneP99), ms(r.PublishOneBareP99), ratio(r.PublishOneP99Ratio), "")
	t.Add("publish to start, p50", ms(r.StartP50), ms(r.StartBareP50), ratio(r.StartP50Ratio), "0.5 ms or less")
	t.Add("  p99", ms(r.StartP99), ms(r.StartBareP99), ratio(r.StartP99Ratio), "3 ms or less")
	t.Add("  longest", ms(r.StartMost), ms(r.StartBareMost), "", "")
	a.table(&t, give{"PROMISE", 0}, give{"RATIO", 0})
	where := "at --nats"
	if r.Embedded {
		where = "embedded in this process"
	}
	a.printf("\nmedians of %s in %s, %s tasks each; nats-server %s %s; %s, %d CPUs\n",
		screen.Some(r.Rounds, "round", "rounds"), screen.Span(time.Duration(r.Seconds*float64(time.Second))), screen.Count(r.Tasks), r.Broker, where, r.Go, r.CPUs)
}
