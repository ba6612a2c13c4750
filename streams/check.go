package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
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
// The caller needs permission to read the info of these objects, and no other. One
// that it lacks is an error at once, wrapping [broker.ErrDenied] and naming the
// subject.
func Check(ctx context.Context, js jetstream.JetStream, fleet *Fleet, service string) error {
	_, err := Inspect(ctx, js, fleet, service)
	return err
}

// Inspect is Check that also returns, one sentence each, what the service can work
// with and an operator should know of: fewer replicas than the fleet wants. Its
// error is Check's.
func Inspect(ctx context.Context, js jetstream.JetStream, fleet *Fleet, service string) (warnings []string, err error) {
	fleet, err = fleet.ready()
	if err != nil {
		return nil, fmt.Errorf("check streams for %s: %w", service, err)
	}
	need, ok := fleet.needs(service)
	if !ok {
		return nil, fmt.Errorf("check streams for %s: the fleet file has no service of that name, only %s", service, fleet.names())
	}
	if err := checkBroker(js); err != nil {
		return nil, fmt.Errorf("check streams for %s: %w", service, err)
	}
	ctx, release := broker.Guard(ctx, js.Conn(), func(subject string) bool { return strings.HasPrefix(subject, broker.API(js, "")) })
	defer release()
	var f findings
	if err := f.drift(ctx, js, need); err != nil {
		return nil, fmt.Errorf("check streams for %s: %w", service, broker.Why(ctx, err))
	}
	if len(f.drifts) > 0 {
		return f.warnings, fmt.Errorf("check streams for %s: %w:\n    %s\nrun `drover streams apply`; `drover streams plan` shows what it would do",
			service, ErrDrift, strings.Join(f.drifts, "\n    "))
	}
	return f.warnings, nil
}

// needs is the part of the topology that one service works with, and whether
// there is such a service.
func (f *Fleet) needs(service string) (Topology, bool) {
	if s, ok := f.Service(service); ok {
		s.Processes = 1 // it can work when there is room for one
		only := *f
		only.Services = []Service{s}
		t := only.Topology()
		// Only watchers use the rest.
		t.Watchers = nil
		t.Streams = without(t.Streams, task.AdvisoryStream, task.AuditStream)
		t.Buckets = withoutBuckets(t.Buckets, task.AlertsBucket, task.BreakersBucket, task.LimitsBucket)
		return t, true
	}
	t := f.Topology()
	t.Watchers = t.watches(service)
	t.Streams = without(t.Streams, task.AuditStream)
	t.Buckets = withoutBuckets(t.Buckets, task.BreakersBucket, task.LimitsBucket)
	t.Consumers = nil // it looks at lanes and works none
	return t, len(t.Watchers) > 0
}

func without(all []jetstream.StreamConfig, names ...string) []jetstream.StreamConfig {
	return slices.DeleteFunc(all, func(c jetstream.StreamConfig) bool { return slices.Contains(names, c.Name) })
}

// withoutBuckets leaves out what a service can do without: breakers go on in each
// process alone, and most kinds have no limits.
func withoutBuckets(all []jetstream.KeyValueConfig, names ...string) []jetstream.KeyValueConfig {
	return slices.DeleteFunc(all, func(c jetstream.KeyValueConfig) bool { return slices.Contains(names, c.Bucket) })
}

func (f *Fleet) names() string {
	var names []string
	for _, s := range f.Services {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// findings are what differs from the fleet, a line each.
type findings struct {
	drifts   []string // what a service could not work with
	warnings []string
}

// drift finds what in t is not as it should be.
func (f *findings) drift(ctx context.Context, js jetstream.JetStream, t Topology) error {
	read := func(object string, want jetstream.StreamConfig) error {
		s, err := js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			f.drifts = append(f.drifts, object+" does not exist")
		case err != nil:
			return fmt.Errorf("read %s: %w", object, err)
		default:
			look(f, object, streamAttrs(), s.CachedInfo().Config, want)
		}
		return nil
	}
	for _, want := range t.Streams {
		if err := read("stream "+want.Name, want); err != nil {
			return err
		}
	}
	if err := read(bucketObject(t.Bodies.Bucket), bucketStream(t.Bodies)); err != nil {
		return err
	}
	for _, b := range t.Buckets {
		if err := read(bucketObject(b.Bucket), keyValueStream(b)); err != nil {
			return err
		}
	}
	for _, want := range slices.Concat(t.Consumers, t.Watchers) {
		object := "consumer " + want.Stream + "/" + want.Config.Durable
		c, err := js.Consumer(ctx, want.Stream, want.Config.Durable)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			f.drifts = append(f.drifts, object+" does not exist")
		case err != nil:
			return fmt.Errorf("read %s: %w", object, err)
		default:
			look(f, object, consumerAttrs(), c.CachedInfo().Config, want.Config)
		}
	}
	return nil
}

func look[C any](f *findings, object string, attrs []attr[C], have, want C) {
	for _, a := range attrs {
		text := fmt.Sprintf("%s: %s is %s, want %s", object, a.name, a.text(have), a.text(want))
		switch {
		case !a.usable(have, want):
			f.drifts = append(f.drifts, text)
		case a.warn != nil && a.warn(have, want):
			f.warnings = append(f.warnings, text)
		}
	}
}
