package streams_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/streams"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "drover")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := embed.Start(embed.Config{Dir: dir, Port: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown()
	js, err := broker.Connect(ctx, broker.Options{URL: s.URL()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer js.Conn().Close()

	fleet := streams.Default()
	changes, err := streams.Apply(ctx, js, fleet)
	fmt.Println(changes[0].Action, changes[0].Object, err)
	changes, err = streams.Apply(ctx, js, fleet)
	fmt.Println(len(changes), "changes,", err)

	fleet.Classes[0].MaxBytes *= 2
	changes, err = streams.Plan(ctx, js, fleet)
	fmt.Println(changes[0], err)
	fmt.Println(streams.Check(ctx, js, fleet, "email"))

	lanes, err := streams.Lanes(ctx, js, fleet)
	fmt.Println(lanes[0].Class, lanes[0].Service, lanes[0].Depth, err)
	// Output:
	// create bucket BODIES <nil>
	// 0 changes, <nil>
	// update stream TASKS_URGENT
	//     max bytes: 1 GiB → 2 GiB <nil>
	// <nil>
	// urgent email 0 <nil>
}

func ExampleParse() {
	_, err := streams.Parse([]byte(`
classes:
  - name: urgent
    ack_wait: 5s
    time_limit: 15s
    attempts: 5
    max_deliver: 3
    wait_objective: 100ms
    slots: 0
services:
  - name: email
    classes: [urgent, bulk]
`))
	fmt.Println(err)
	// Output:
	// check fleet file: class urgent: ack_wait: 5s, want at least 20s: a lease must outlive the election of a new leader (allow_short_ack_wait: true lifts this for tests)
	// class urgent: slots: 0, want 1 to 10000
	// service email: classes: there is no class "bulk"
}
