package bodies_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/shared/task"
)

// exampleBroker starts an embedded broker with BODIES, and returns how to end it.
func exampleBroker() (jetstream.JetStream, func(), error) {
	dir, err := os.MkdirTemp("", "drover")
	if err != nil {
		return nil, nil, err
	}
	b, err := embed.Start(embed.Config{Dir: dir, Port: -1})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	js, err := broker.Connect(context.Background(), broker.Options{URL: b.URL()})
	if err == nil {
		_, err = js.CreateObjectStore(context.Background(), jetstream.ObjectStoreConfig{Bucket: task.BodiesBucket})
	}
	if err != nil {
		b.Shutdown()
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return js, func() {
		js.Conn().Close()
		b.Shutdown()
		_ = os.RemoveAll(dir)
	}, nil
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
