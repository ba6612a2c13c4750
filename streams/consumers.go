package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	pullAhead = 1024 // the most that one process holds beyond its slots; package worker

	// MaxWaiting cannot be changed on a living consumer, and beyond it the broker
	// drops pulls without a word. An unused place costs nothing, so there are many:
	// sixteen for each process, where two are needed while old processes give way to
	// new ones, and never fewer than this.
	minWaiting        = 4096
	waitingPerProcess = 16
)

// liveConsumers hand one service its share of one class: one does, and in a fair
// class one for tasks without a tenant and one for each partition. Every
// acknowledgement makes the broker look at all consumers of the stream, so there is
// none for each tenant.
func liveConsumers(c Class, s Service) []Consumer {
	live := func(name, filter string) Consumer {
		return Consumer{
			Stream: c.Name.Stream(),
			Config: durable(name, filter, c, s, c.Slots),
			Class:  c.Name, Service: s.Name,
		}
	}
	if !c.Fair() {
		return []Consumer{live(s.Name, task.Filter(c.Name, s.Name))}
	}
	out := []Consumer{live(s.Name, "")}
	out[0].Config.FilterSubjects = task.FairFilters(c.Name, s.Name)
	for n := range c.Partitions {
		out = append(out, live(task.PartitionConsumer(s.Name, n), task.PartitionFilter(c.Name, s.Name, n)))
	}
	return out
}

// retryConsumer hands one service its due retries of one class. They have slots
// of their own, so that a storm of retries cannot delay a task's first run.
func retryConsumer(c Class, s Service) Consumer {
	return Consumer{
		Stream: task.RetryStream,
		Config: durable(c.Name.RetryConsumer(s.Name), task.RetryFilter(c.Name, s.Name), c, s, c.RetrySlots),
		Class:  c.Name, Service: s.Name, Retry: true,
	}
}

// durable is the form of every consumer. MaxAckPending has room for all processes
// twice, because during a rolling restart the old ones still hold what they run.
func durable(name, filter string, c Class, s Service, slots int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       name,
		FilterSubject: filter,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       c.AckWait,
		MaxDeliver:    BrokerMaxDeliver,
		MaxAckPending: 2 * s.Processes * (slots + pullAhead),
		MaxWaiting:    max(minWaiting, waitingPerProcess*s.Processes),
	}
}
