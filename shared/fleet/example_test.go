package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
)

// exampleBroker is a broker with the built-in fleet, and how to end it.
func exampleBroker() (jetstream.JetStream, func(), error) {
	return natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := streams.Apply(ctx, js, streams.Default())
		return err
	})
}

func ExamplePause() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	bulk := []fleet.Durable{
		{Class: "bulk", Service: "email", Stream: "TASKS_BULK", Name: "email"},
		{Class: "bulk", Service: "email", Stream: "RETRY", Name: "bulk-email"},
	}
	paused, err := fleet.Pause(ctx, js, bulk, fleet.Record{Until: time.Now().Add(time.Hour), Reason: "month end", By: "ada"})
	for _, r := range paused {
		fmt.Println(r.Class, r.Service, "is paused by", r.By+":", r.Reason)
	}
	fmt.Println(err)
	resumed, err := fleet.Resume(ctx, js, bulk, "ada")
	fmt.Println(len(resumed), "goes on", err)
	// Output:
	// bulk email is paused by ada: month end
	// <nil>
	// 1 goes on <nil>
}

func ExampleAnnounce() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- fleet.Announce(ctx, js, fleet.Announcement{
			Self: func() fleet.Process { return fleet.Process{Service: "email", Instance: "web1-7", Version: "v1.2.3"} },
		})
	}()

	list := func() (n int) {
		for p, err := range fleet.Processes(context.Background(), js, "email") {
			n++
			fmt.Println(p.Service, p.Instance, p.Version, err)
		}
		return n
	}
	for list() == 0 {
	}
	end()
	fmt.Println(<-ended, list())
	// Output:
	// email web1-7 v1.2.3 <nil>
	// <nil> 0
}

func ExampleTakeTurn() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	turn, err := fleet.TakeTurn(ctx, js, "email", "web1-7", time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = fleet.TakeTurn(ctx, js, "email", "web2-9", time.Minute)
	fmt.Println(errors.Is(err, fleet.ErrTaken))

	fmt.Println(turn.GiveBack(ctx, 0)) // it has drained
	_, err = fleet.TakeTurn(ctx, js, "email", "web2-9", time.Minute)
	fmt.Println(err)
	// Output:
	// true
	// <nil>
	// <nil>
}
