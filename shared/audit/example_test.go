package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
)

// exampleBroker is an embedded broker with an empty trail, and how to end it.
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
		_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"audit.>"}})
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
