package audit_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/natstest"
)

// exampleBroker is a broker with an empty trail, and how to end it.
func exampleBroker() (jetstream.JetStream, func(), error) {
	return natstest.Example(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"audit.>"}})
		return err
	})
}

func ExampleRecord() {
	js, stop, err := exampleBroker()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()

	act, err := audit.Record(ctx, js, audit.Entry{Verb: "pause", By: "ada@ops1", Targets: []string{"bulk/email"}, Reason: "the relay moves"})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Here the act is done.
	_, err = audit.Record(ctx, js, act.Outcome(nil, nil))
	fmt.Println(err)
	for e, err := range audit.List(ctx, js, audit.Filter{}) {
		fmt.Println(e.By, e.Verb, e.Phase, e.Targets, e.Reason, err)
	}
	// Output:
	// <nil>
	// ada@ops1 pause intent [bulk/email] the relay moves <nil>
	// ada@ops1 pause outcome [bulk/email] the relay moves <nil>
}
