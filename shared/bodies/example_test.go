package bodies_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// exampleBroker is a broker with BODIES, and how to end it.
func exampleBroker() (jetstream.JetStream, func(), error) {
	return natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: task.BodiesBucket})
		return err
	})
}

func Example() {
	js, stop, err := exampleBroker() // in a service: env.JetStream
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	// Before the task is published: its Task-Ref is o.Name.
	o, err := bodies.Put(ctx, js, func(ctx context.Context, m *nats.Msg) error {
		_, err := js.PublishMsg(ctx, m)
		return err
	}, "report.render:order-17", []byte("a large body"))
	if err != nil {
		fmt.Println(err)
		return
	}
	// When the task is run.
	body, err := bodies.Get(ctx, js, o.Name)
	fmt.Printf("%s %v\n", body, err)
	// When it is finished.
	fmt.Println(bodies.Remove(ctx, js, o.Name))
	_, err = bodies.Get(ctx, js, o.Name)
	fmt.Println(errors.Is(err, bodies.ErrNotFound))
	// Output:
	// a large body <nil>
	// <nil>
	// true
}
