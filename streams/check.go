package streams

import (
	"context"
	"errors"
	"fmt"
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
// The caller needs permission to read the info of these objects, and no other.
func Check(ctx context.Context, js jetstream.JetStream, fleet *Fleet, service string) error {
	fleet, err := fleet.ready()
	if err != nil {
		return fmt.Errorf("check streams for %s: %w", service, err)
	}
	s, ok := fleet.Service(service)
	if !ok {
		return fmt.Errorf("check streams for %s: the fleet file has no service of that name, only %s", service, fleet.names())
	}
	if err := checkBroker(js); err != nil {
		return fmt.Errorf("check streams for %s: %w", service, err)
	}
	s.Processes = 1 // it can work when there is room for one
	only := *fleet
	only.Services = []Service{s}
	drifts, err := drift(ctx, js, only.Topology())
	if err != nil {
		return fmt.Errorf("check streams for %s: %w", service, err)
	}
	if len(drifts) > 0 {
		return fmt.Errorf("check streams for %s: %w:\n    %s\nrun `drover streams apply`; `drover streams plan` shows what it would do",
			service, ErrDrift, strings.Join(drifts, "\n    "))
	}
	return nil
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
	look := func(object string, want jetstream.StreamConfig) error {
		s, err := js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			out = append(out, object+" does not exist")
		case err != nil:
			return fmt.Errorf("read %s: %w", object, err)
		default:
			out = append(out, unusable(object, streamAttrs(), s.CachedInfo().Config, want)...)
		}
		return nil
	}
	for _, want := range t.Streams {
		if want.Name == task.AdvisoryStream || want.Name == task.AuditStream {
			continue // no service needs it
		}
		if err := look("stream "+want.Name, want); err != nil {
			return nil, err
		}
	}
	if err := look(bucketObject(t.Bodies.Bucket), bucketStream(t.Bodies)); err != nil {
		return nil, err
	}
	for _, b := range t.Buckets {
		if err := look(bucketObject(b.Bucket), keyValueStream(b)); err != nil {
			return nil, err
		}
	}
	for _, want := range t.Consumers {
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
