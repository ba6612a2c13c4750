package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// exampleBroker is a broker with one stream that has room for three tasks, and how
// to end it.
func exampleBroker() (jetstream.JetStream, func(), error) {
	return natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: task.Default.Stream(), Subjects: []string{task.Filter(task.Default, "email")},
			Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxMsgs: 3,
		})
		return err
	})
}

func ExampleClient_Publish() {
	js, stop, err := exampleBroker() // in a service: env.JetStream
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	c, err := client.New(js)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		r, err := c.Publish(context.Background(), Send{To: "a@example.org"},
			client.ID("welcome-17"),                    // publishing it twice sends one mail
			client.Deadline(time.Now().Add(time.Hour)), // later than this it is not worth sending
		)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(r.Stream, r.Sequence, r.Duplicate)
	}
	// Output:
	// TASKS_DEFAULT 1 false
	// TASKS_DEFAULT 1 true
}

func ExamplePublishAll() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	c, err := client.New(js)
	if err != nil {
		fmt.Println(err)
		return
	}
	mails := []Send{{To: "a@example.org"}, {To: "b@example.org"}, {To: "c@example.org"}, {To: "d@example.org"}}
	outcomes, _ := client.PublishAll(context.Background(), c, mails) // the error says how many failed
	for i, o := range outcomes {
		if e, ok := errors.AsType[*client.FullError](o.Err); ok {
			fmt.Printf("not stored: %s, %s holds %d of %d\n", mails[i].To, e.Stream, e.Messages, e.MaxMessages)
		}
	}

	// Or wait until workers have made room, here in vain.
	_, err = client.PublishAll(context.Background(), c, mails[3:], client.WaitForRoom(100*time.Millisecond))
	fmt.Println(errors.Is(err, client.ErrFull))
	// Output:
	// not stored: d@example.org, TASKS_DEFAULT holds 3 of 3
	// true
}
