package main

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/permit"
)

// uses SERVICE RESOURCE CAP N is a process of a service that uses N permits of a
// resource, or asks for them, until the script ends.
func uses(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: uses SERVICE RESOURCE CAP N")
	}
	limit, err := strconv.Atoi(args[2])
	ts.Check(err)
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	p, err := permit.New(brokerOf(ts), permit.Config{
		Service: args[0], Caps: []permit.Cap{{Resource: args[1], Permits: limit}}, Most: n, Log: slog.New(slog.DiscardHandler),
	})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	ts.Defer(func() {
		cancel()
		wg.Wait()
	})
	for range n {
		if t, _ := p.Take([]string{args[1]}, func() {}); t == nil {
			wg.Go(func() { insist(ctx, p, args[1]) })
		}
	}
}

// insist asks for a permit until it has one.
func insist(ctx context.Context, p *permit.Permits, resource string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if t, _ := p.Take([]string{resource}, func() {}); t != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
