package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	advisoryAckWait = 30 * time.Second
	// A letter whose reader died is read by the next one soon enough for an alert
	// within 30 s of the death.
	letterAckWait = 10 * time.Second
	watchPending  = 1024 // unacknowledged at once
)

// watchers are the durables of services that take no tasks. All processes of such
// a service share them. They never give a message up.
func watchers() []Consumer {
	watch := func(stream, description string, wait time.Duration, headersOnly bool) Consumer {
		return Consumer{Stream: stream, Service: task.DeadletterService, Config: jetstream.ConsumerConfig{
			Durable:       task.DeadletterService,
			Description:   description,
			DeliverPolicy: jetstream.DeliverAllPolicy,
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       wait,
			MaxAckPending: watchPending,
			MaxWaiting:    minWaiting,
			HeadersOnly:   headersOnly,
		}}
	}
	return []Consumer{
		watch(task.AdvisoryStream, "moves what the broker gave up on", advisoryAckWait, false),
		watch(task.DeadStream, "raises alerts", letterAckWait, true),
	}
}

// watches are the durables of a service that takes no tasks.
func (t Topology) watches(service string) []Consumer {
	var out []Consumer
	for _, c := range t.Watchers {
		if c.Service == service {
			out = append(out, c)
		}
	}
	return out
}
