package stored_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/stored"
)

// The first message says how many there are: the others need not be read.
func Example() {
	js, stop, err := natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowDirect: true})
		for _, subject := range []string{"orders.shoes", "orders.hats", "orders.shoes"} {
			if err == nil {
				_, err = js.Publish(ctx, subject, []byte("one pair"))
			}
		}
		return err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	for m, err := range stored.Read(ctx, js, stored.Query{Stream: "ORDERS", Subject: "orders.shoes", Limit: 1}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d: %s, and %d more\n", m.Sequence, m.Data, m.Rest)
	}
	last, err := stored.Get(ctx, js, "ORDERS", stored.Which{Last: "orders.>"})
	fmt.Println(last.Sequence, last.Subject, err)
	was, err := stored.Delete(ctx, js, "ORDERS", last.Sequence)
	fmt.Println(was, err)
	// Output:
	// 1: one pair, and 1 more
	// 3 orders.shoes <nil>
	// true <nil>
}
