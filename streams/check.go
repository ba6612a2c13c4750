package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// ErrDrift is returned by Check when what a service needs is missing on the
// broker or set in a way that it cannot work with. The text names each
// difference.
var ErrDrift = errors.New("the broker is not as the fleet needs it")

// Check is what a service asks at its start: the broker is new enough, every
// stream, consumer and bucket that the service uses exists, and none is set in a
// way that would lose, strand or wrongly repeat its tasks. Differences that only
// cost room or speed, such as sizes, replicas and a consumer made for fewer
// processes, pass: services and topology may change in any order. [Plan] reports
// those too.
//
// service is one of the fleet file, or one that takes no tasks and is known here,
// such as deadletter: of it everything but the lanes is checked.
//
// The caller needs permission to read the info of these objects, and no other.
func Check(ctx context.Context, js jetstream.JetStream, fleet *Fleet, service string) error {
	fleet, err := fleet.ready()
	if err != nil {
		return fmt.Errorf("check streams for %s: %w", service, err)
	}
	need, ok := fleet.needs(service)
	if !ok {
		return fmt.Errorf("check streams for %s: the fleet file has no service of that name, only %s", service, fleet.names())
	}
	if err := checkBroker(js); err != nil {
		return fmt.Errorf("check streams for %s: %w", service, err)
	}
	drifts, err := drift(ctx, js, need)
	if err != nil {
		return fmt.Errorf("check streams for %s: %w", service, err)
	}
	if len(drifts) > 0 {
		return fmt.Errorf("check streams for %s: %w:\n    %s\nrun `drover streams apply`; `drover streams plan` shows what it would do",
			service, ErrDrift, strings.Join(drifts, "\n    "))
	}
	return nil
}

// needs is the part of the topology that one service works with, and whether
// there is such a service.
func (f *Fleet) needs(service string) (Topology, bool) {
	if s, ok := f.Service(service); ok {
		s.Processes = 1 // it can work when there is room for one
		only := *f
		only.Services = []Service{s}
		t := only.Topology()
		t.Watchers = nil
		t.Streams = slices.DeleteFunc(t.Streams, func(c jetstream.StreamConfig) bool {
			return c.Name == task.AdvisoryStream || c.Name == "KV_"+task.AlertsBucket // which only watchers use
		})
		return t, true
	}
	t := f.Topology()
	t.Watchers = t.watches(service)
	t.Consumers = nil // it looks at lanes and works none
	return t, len(t.Watchers) > 0
}

func (f *Fleet) names() string {
	var names []string
	for _, s := range f.Services {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// drift lists, one per line, what in t a service could not work with.
func drift(ctx context.Context, js jetstream.JetStream, t Topology) ([]string, error) {
	var out []string
	bucket := bucketStream(t.Bodies)
	for _, want := range append(t.Streams, bucket) {
		object := "stream " + want.Name
		if want.Name == bucket.Name {
			object = "bucket " + t.Bodies.Bucket
		}
		s, err := js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			out = append(out, object+" does not exist")
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", object, err)
		default:
			out = append(out, unusable(object, streamAttrs(), s.CachedInfo().Config, want)...)
		}
	}
	for _, want := range slices.Concat(t.Consumers, t.Watchers) {
		object := "consumer " + want.Stream + "/" + want.Config.Durable
		c, err := js.Consumer(ctx, want.Stream, want.Config.Durable)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			out = append(out, object+" does not exist")
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", object, err)
		default:
			out = append(out, unusable(object, consumerAttrs(), c.CachedInfo().Config, want.Config)...)
		}
	}
	return out, nil
}

func unusable[C any](object string, attrs []attr[C], have, want C) []string {
	var out []string
	for _, a := range attrs {
		if !a.usable(have, want) {
			out = append(out, fmt.Sprintf("%s: %s is %s, want %s", object, a.name, a.text(have), a.text(want)))
		}
	}
	return out
}
