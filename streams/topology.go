package streams

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Topology is all that the broker holds for a fleet.
type Topology struct {
	Streams   []jetstream.StreamConfig // the classes in their order, then RETRY, DEAD, ADVISORIES, AUDIT
	Consumers []Consumer               // by class and service, the live ones before the one of its retries
	Watchers  []Consumer               // of services that take no tasks; Class and Retry are empty
	Bodies    jetstream.ObjectStoreConfig
	Buckets   []jetstream.KeyValueConfig // FLEET, ALERTS of the watchers, BREAKERS and LIMITS
}

// Consumer is one durable consumer: a lane, a part of a fair one, or a watcher.
type Consumer struct {
	Stream  string
	Config  jetstream.ConsumerConfig
	Class   task.Class
	Service string
	Retry   bool // of due retries
}

// Filters are the subjects that it takes; none means all of its stream.
func (c Consumer) Filters() []string {
	if c.Config.FilterSubject != "" {
		return []string{c.Config.FilterSubject}
	}
	return c.Config.FilterSubjects
}

// Topology derives the streams, consumers and buckets of the fleet. It is
// meaningful only when Validate passes.
func (f *Fleet) Topology() Topology {
	f = f.withDefaults()
	var t Topology
	for _, c := range f.Classes {
		serving := f.serving(c.Name)
		if len(serving) == 0 {
			continue // a stream without subjects would take its own name as one
		}
		t.Streams = append(t.Streams, f.tasks(c, serving))
		for _, s := range serving {
			t.Consumers = append(append(t.Consumers, liveConsumers(c, s)...), retryConsumer(c, s))
		}
	}
	t.Streams = append(t.Streams, f.retry(), f.dead(), f.advisories(), f.audit())
	t.Watchers = watchers()
	t.Bodies = f.bodies()
	t.Buckets = append(t.Buckets, f.presence(), f.alerts(), f.breakers(), f.limits())
	return t
}

func (f *Fleet) serving(c task.Class) []Service {
	var out []Service
	for _, s := range f.Services {
		if s.Serves(c) {
			out = append(out, s)
		}
	}
	return out
}
