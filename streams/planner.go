package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// planner collects the steps that lead from the broker to the topology.
type planner struct {
	js    jetstream.JetStream
	want  Topology
	steps []step
}

func (p *planner) add(s step) { p.steps = append(p.steps, s) }

func (p *planner) bodies(ctx context.Context) error {
	return p.store(ctx, bucketObject(p.want.Bodies.Bucket), bucketStream(p.want.Bodies), func(ctx context.Context) error {
		_, err := p.js.CreateObjectStore(ctx, p.want.Bodies)
		return err
	})
}

func (p *planner) buckets(ctx context.Context) error {
	for _, b := range p.want.Buckets {
		err := p.store(ctx, bucketObject(b.Bucket), keyValueStream(b), func(ctx context.Context) error {
			_, err := p.js.CreateKeyValue(ctx, b)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) streams(ctx context.Context) error {
	for _, want := range p.want.Streams {
		err := p.store(ctx, "stream "+want.Name, want, func(ctx context.Context) error {
			_, err := p.js.CreateStream(ctx, want)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// store plans what a stream, or the one behind a bucket, needs to be as want;
// create makes it anew.
func (p *planner) store(ctx context.Context, object string, want jetstream.StreamConfig, create func(context.Context) error) error {
	have, err := p.js.Stream(ctx, want.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		p.add(step{Change{Object: object, Action: Create, Fields: describe(streamAttrs(), want)}, create})
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", object, err)
	}
	return p.stream(ctx, object, have, want)
}

// stream plans what an existing stream needs.
func (p *planner) stream(ctx context.Context, object string, have jetstream.Stream, want jetstream.StreamConfig) error {
	cfg := have.CachedInfo().Config
	fields, fixed, merged := compare(streamAttrs(), cfg, want)
	if len(fields) == 0 {
		return nil
	}
	s := step{Change{Object: object, Action: Update, Fields: fields}, func(ctx context.Context) error {
		_, err := p.js.UpdateStream(ctx, merged)
		return err
	}}
	var notes []string
	if len(fixed) > 0 {
		notes = append(notes, fmt.Sprintf("the broker cannot change %s of a living stream without harm: "+
			"drain it, remove it with `nats stream rm %s`, then apply again", strings.Join(fixed, ", "), cfg.Name))
	}
	for _, subject := range uncovered(cfg.Subjects, want.Subjects) {
		note, err := p.stranded(ctx, have, subject, want.Subjects)
		if err != nil {
			return fmt.Errorf("count tasks of %s in %s: %w", subject, object, err)
		}
		if note != "" {
			notes = append(notes, note)
		}
	}
	if len(notes) > 0 {
		s.Action, s.Note, s.do = Refuse, strings.Join(notes, "; "), nil
	}
	p.add(s)
	return nil
}

// stranded says what would be left without a worker if s no longer took subject.
func (p *planner) stranded(ctx context.Context, s jetstream.Stream, subject string, kept []string) (string, error) {
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return "", err
	}
	var n uint64
	for have, count := range info.State.Subjects {
		if len(uncovered([]string{have}, kept)) > 0 {
			n += count
		}
	}
	if n == 0 {
		return "", nil
	}
	return fmt.Sprintf("%s of %s would be left without a worker: keep the service in the fleet until `drover lanes` shows its lane empty, "+
		"or discard them with `nats stream purge %s --subject '%s'`", messages(n), subject, info.Config.Name, subject), nil
}

func (p *planner) consumers(ctx context.Context) error {
	have := map[string]*jetstream.ConsumerInfo{} // by stream and name
	for _, s := range p.want.Streams {
		if !ours(s.Name) || p.creates("stream "+s.Name) {
			continue
		}
		stream, err := p.js.Stream(ctx, s.Name)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", s.Name, err)
		}
		lister := stream.ListConsumers(ctx)
		for info := range lister.Info() {
			have[s.Name+"/"+info.Name] = info
		}
		if err := lister.Err(); err != nil {
			return fmt.Errorf("list consumers of stream %s: %w", s.Name, err)
		}
	}
	for _, want := range p.want.Consumers {
		id := want.Stream + "/" + want.Config.Durable
		p.consumer(want, have[id])
		delete(have, id)
	}
	for _, id := range sortedKeys(have) {
		if err := p.extraConsumer(ctx, id, have[id]); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) creates(object string) bool {
	return slices.ContainsFunc(p.steps, func(s step) bool { return s.Object == object && s.Action == Create })
}

func (p *planner) consumer(want Consumer, have *jetstream.ConsumerInfo) {
	object := "consumer " + want.Stream + "/" + want.Config.Durable
	if have == nil {
		p.add(step{Change{Object: object, Action: Create, Fields: describe(consumerAttrs(), want.Config)}, func(ctx context.Context) error {
			_, err := p.js.CreateConsumer(ctx, want.Stream, want.Config)
			return err
		}})
		return
	}
	fields, fixed, merged := compare(consumerAttrs(), have.Config, want.Config)
	if len(fields) == 0 {
		return
	}
	s := step{Change{Object: object, Action: Update, Fields: fields}, func(ctx context.Context) error {
		_, err := p.js.UpdateConsumer(ctx, want.Stream, merged)
		return err
	}}
	if len(fixed) > 0 {
		s.Action, s.do = Refuse, nil
		s.Note = fmt.Sprintf("the broker cannot change %s of a living consumer without harm: stop the workers of %s, "+
			"remove it with `nats consumer rm %s %s`, then apply again; its tasks stay in the stream",
			strings.Join(fixed, ", "), want.Service, want.Stream, want.Config.Durable)
	}
	p.add(s)
}
