package main

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/shared/ratelimit"
)

// limited SERVICE KEY N asks for a start N times, of a key that may have 100 in an
// hour.
func limited(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: limited SERVICE KEY N")
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	q, err := quota.New(brokerOf(ts), args[0], slog.New(slog.DiscardHandler), nil)
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { q.Run(ctx) })
	for range n {
		q.Take(quota.Ask{Policy: ratelimit.Policy{Limit: 100, Per: time.Hour}, Key: args[1]})
	}
	cancel()
	wg.Wait()
	ts.Check(q.Err())
}
