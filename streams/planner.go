package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// planner collects the steps that lead from the broker to the topology.
type planner struct {
	js    jetstream.JetStream
	want  Topology
	steps []step
	nodes int // servers that copies of what is there are on
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
		p.add(step{Change: Change{Object: object, Action: Create, Fields: describe(streamAttrs(), want)}, do: create, copies: want.Replicas})
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", object, err)
	}
	p.nodes = max(p.nodes, servers(have.CachedInfo().Cluster))
	return p.stream(ctx, object, have, want)
}

// stream plans what an existing stream needs.
func (p *planner) stream(ctx context.Context, object string, have jetstream.Stream, want jetstream.StreamConfig) error {
	info := have.CachedInfo()
	fields, fixed, merged := compare(streamAttrs(), info.Config, want)
	if len(fields) == 0 {
		return nil
	}
	s := step{Change: Change{Object: object, Action: Update, Fields: fields}, do: func(ctx context.Context) error {
		_, err := p.js.UpdateStream(ctx, merged)
		return err
	}}
	switch {
	case want.Replicas > info.Config.Replicas:
		s.copies = want.Replicas
	case want.Replicas < info.Config.Replicas && want.Replicas == 1:
		s.Note = "one copy is left: a disk that is lost takes what is stored with it"
	case becomesFair(info.Config, want):
		s.Note = "what is stored stays in the lanes without a tenant; tasks with a tenant that come from now on wait for workers that know of partitions: restart those that do not"
	}
	var r refusal
	if len(fixed) > 0 {
		r.remake(info, fixed)
	}
	r.shrink(info, want)
	r.copies(info, want)
	if err := r.strands(ctx, have, info.Config, want); err != nil {
		return fmt.Errorf("%s: %w", object, err)
	}
	r.into(&s)
	p.add(s)
	return nil
}

func (p *planner) consumers(ctx context.Context) error {
	have := map[string]*jetstream.ConsumerInfo{} // by stream and name
	for _, s := range p.want.Streams {
		if p.creates("stream " + s.Name) {
			continue
		}
		stream, err := p.js.Stream(ctx, s.Name)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", s.Name, err)
		}
		lister := stream.ListConsumers(ctx)
		for info := range lister.Info() {
			if ours(s.Name) || p.watcher(s.Name, info.Name) {
				have[s.Name+"/"+info.Name] = info
			}
		}
		if err := lister.Err(); err != nil {
			return fmt.Errorf("list consumers of stream %s: %w", s.Name, err)
		}
	}
	known := map[string]bool{}
	for _, want := range slices.Concat(p.want.Consumers, p.want.Watchers) {
		id := want.Stream + "/" + want.Config.Durable
		if named := have[want.Stream+"/"+want.Service]; named != nil && named.Paused && have[id] == nil {
			want.Config.PauseUntil = named.Config.PauseUntil // of the lane that a new partition becomes a part of
		}
		p.consumer(want, have[id])
		known[id] = true
	}
	maps.DeleteFunc(have, func(id string, _ *jetstream.ConsumerInfo) bool { return known[id] })
	for _, id := range sortedKeys(have) {
		if err := p.extraConsumer(ctx, id, have[id]); err != nil {
			return err
		}
	}
	return nil
}

// watcher reports whether the durable is one of the fleet's on a stream that
// anybody may read.
func (p *planner) watcher(stream, name string) bool {
	return slices.ContainsFunc(p.want.Watchers, func(c Consumer) bool { return c.Stream == stream && c.Config.Durable == name })
}

func (p *planner) creates(object string) bool {
	return slices.ContainsFunc(p.steps, func(s step) bool { return s.Object == object && s.Action == Create })
}

func (p *planner) consumer(want Consumer, have *jetstream.ConsumerInfo) {
	object := "consumer " + want.Stream + "/" + want.Config.Durable
	if have == nil {
		p.add(step{Change: Change{Object: object, Action: Create, Fields: describe(consumerAttrs(), want.Config)}, do: func(ctx context.Context) error {
			_, err := p.js.CreateConsumer(ctx, want.Stream, want.Config)
			return err
		}})
		return
	}
	fields, fixed, merged := compare(consumerAttrs(), have.Config, want.Config)
	if len(fields) == 0 {
		return
	}
	s := step{Change: Change{Object: object, Action: Update, Fields: fields}, do: func(ctx context.Context) error {
		_, err := p.js.UpdateConsumer(ctx, want.Stream, merged)
		if errors.Is(err, jetstream.ErrConsumerMultipleFilterSubjectsNotSupported) {
			// The broker makes the change. But nats-server 2.15 answers the first one
			// after its start with what the consumer was when it started, in which
			// nats.go misses the filters.
			_, err = p.js.UpdateConsumer(ctx, want.Stream, merged)
		}
		return err
	}}
	var r refusal
	if len(fixed) > 0 {
		r.remakeConsumer(want, fixed)
	}
	r.lease(have, want)
	r.into(&s)
	if makesRoom(have.Config, want.Config) {
		p.before("stream "+want.Stream, s)
		return
	}
	p.add(s)
}

// before adds a step that comes before the one of another object, if there is one.
func (p *planner) before(object string, s step) {
	i := slices.IndexFunc(p.steps, func(s step) bool { return s.Object == object })
	if i < 0 {
		i = len(p.steps)
	}
	p.steps = slices.Insert(p.steps, i, s)
}
