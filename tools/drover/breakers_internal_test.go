package main

import (
	"context"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// overdue SERVICE DESTINATION stores an open breaker whose end has come.
func overdue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: overdue SERVICE DESTINATION")
	}
	now := time.Now().UTC()
	r := breaker.Record{Destination: args[1], State: breaker.Open, Until: now.Add(-time.Minute), At: now.Add(-time.Hour)}
	_, err := record.In(brokerOf(ts), task.BreakersBucket).Put(context.Background(), record.Key(args[0]+".", args[1]), r, time.Minute, record.Any)
	ts.Check(err)
}
