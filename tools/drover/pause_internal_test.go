package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/fleet"
)

// paused STREAM CONSUMER pauses as any other program would.
func paused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: paused STREAM CONSUMER")
	}
	_, err := brokerOf(ts).PauseConsumer(context.Background(), args[0], args[1], time.Now().Add(time.Hour))
	ts.Check(err)
}

// held STREAM CONSUMER takes a task, and neither settles it nor lives on.
func held(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: held STREAM CONSUMER")
	}
	c, err := brokerOf(ts).Consumer(context.Background(), args[0], args[1])
	ts.Check(err)
	_, err = c.Next()
	ts.Check(err)
}

// removed STREAM CONSUMER deletes a consumer.
func removed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: removed STREAM CONSUMER")
	}
	ts.Check(brokerOf(ts).DeleteConsumer(context.Background(), args[0], args[1]))
}

// taken STREAM waits until workers have settled all that it held.
func taken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: taken STREAM")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		s, err := brokerOf(ts).Stream(ctx, args[0])
		ts.Check(err)
		if s.CachedInfo().State.Msgs == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// announced FILE lists processes that are not there.
func announced(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: announced FILE")
	}
	var all []fleet.Process
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &all))
	for _, p := range all {
		ts.Check(fleet.Put(context.Background(), brokerOf(ts), p))
	}
}
