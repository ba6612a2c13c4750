package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// exampleBroker is a broker with one dead letter, and how to end it.
func exampleBroker() (jetstream.JetStream, func(), error) {
	return natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		for _, c := range []jetstream.StreamConfig{
			{Name: task.DeadStream, Subjects: []string{"dead.>"}, AllowDirect: true},
			{Name: task.Default.Stream(), Subjects: []string{"tasks.default.email.>"}, Retention: jetstream.WorkQueuePolicy},
		} {
			if _, err := js.CreateStream(ctx, c); err != nil {
				return err
			}
		}
		s := dead("welcome-17")
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: s.Subject.Dead(s.ID), Header: s.Header(nats.Header{"traceparent": {oldTrace}})})
		return err
	})
}

func ExampleRedrive() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	// The mail server was full; now it has room again.
	for l, err := range deadletter.List(ctx, js, deadletter.Filter{Kind: "email.send", Contains: "mailbox full"}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		r, err := deadletter.Redrive(ctx, js, l)
		fmt.Println(r.ID, r.Stream, err)
	}
	// Output:
	// welcome-17 TASKS_DEFAULT <nil>
}

func ExampleGroups() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	census, err := deadletter.Groups(context.Background(), js, deadletter.Filter{})
	fmt.Println(census.Count, err)
	for _, g := range census.Groups {
		fmt.Println(g.Count, g.Kind, g.Reason, g.Text, g.ID)
	}
	// Output:
	// 1 <nil>
	// 1 email.send failed Mailbox Full welcome-17
}

func ExampleAmend() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	l, err := deadletter.Get(ctx, js, "welcome-17")
	if err != nil {
		fmt.Println(err)
		return
	}
	content, err := l.Content(ctx, js)
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := deadletter.NewDocument(content)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := d.Set("to", "ada@example.org"); err != nil {
		fmt.Println(err)
		return
	}
	body, err := d.Body()
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := deadletter.Amend(ctx, js, l, body, "mend-the-address")
	fmt.Print(string(d.JSON()))
	fmt.Println(r.ID, r.Stream, err)
	// Output:
	// {
	//   "to": "ada@example.org"
	// }
	// welcome-17 TASKS_DEFAULT <nil>
}

func ExampleCanary() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	// No worker runs here, so that the first stage does not end in time.
	c := deadletter.Canary{Wait: time.Millisecond}
	tally, err := c.Run(ctx, js, deadletter.List(ctx, js, deadletter.Filter{}))
	stopped, ok := errors.AsType[*deadletter.StopError](err)
	fmt.Println(tally.Redriven, tally.Waiting, ok && !stopped.Failing)
	// Output:
	// 1 1 true
}

func ExampleExplain() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	l, err := deadletter.Get(context.Background(), js, "welcome-17")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(deadletter.Explain(l))
	// Output:
	// email.send welcome-17
	//   2026-05-04T10:00:00.000Z  published to tasks.default.email.send
	//   2026-05-04T10:00:01.000Z  attempt 1: connection refused
	//   2026-05-04T11:00:00.000Z  attempt 2: Mailbox Full
	//   2026-05-04T11:00:00.000Z  dead-lettered: failed
	// All 2 attempts ended in an error.
	// - If the cause is mended, for example a destination that was down: drover dead redrive 1
	// - If the task is of no use any more: drover dead discard 1 --why WHY
	// Trace: 0123456789abcdef0123456789abcdef
}

func ExampleDiscard() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	l, err := deadletter.Get(ctx, js, "welcome-17")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(deadletter.Discard(ctx, js, l, "the customer left"))
	_, err = deadletter.Get(ctx, js, "welcome-17")
	fmt.Println(err)
	// Output:
	// <nil>
	// get dead letter welcome-17: no such dead letter
}
