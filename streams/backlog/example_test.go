package backlog_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/streams/backlog"
)

func Example() {
	fleet := streams.Default()
	js, stop, err := natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		if _, err := streams.Apply(ctx, js, fleet); err != nil {
			return err
		}
		for _, id := range []string{"welcome-17", "welcome-18", "welcome-19"} {
			m := &nats.Msg{Subject: "tasks.default.email.send", Header: nats.Header{task.HeaderID: {id}}, Data: []byte("\x81\xa2to\xa3ada")}
			if _, err := js.PublishMsg(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	l, err := backlog.List(ctx, js, fleet, backlog.Filter{Kind: "email.send", Limit: 2})
	for _, t := range l.Tasks {
		fmt.Println(t.ID, t.Place)
	}
	fmt.Println("and", l.More, "more,", err)

	found, _, err := backlog.Find(ctx, js, fleet, "welcome-19", backlog.Where{})
	for _, t := range found {
		args, err := t.Arguments(ctx, js)
		fmt.Println(t.ID, "is", t.Place, args, err)
	}
	fmt.Println(err)
	// Output:
	// welcome-17 waiting
	// welcome-18 waiting
	// and 1 more, <nil>
	// welcome-19 is waiting map[to:ada] <nil>
	// <nil>
}
