package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

const (
	class   = task.Class("bench") // its stream is TASKS_BENCH
	service = "bench"
	slots   = 32 // of class default
)

// note is a task of about the size that most have.
type note struct {
	Text string `msgpack:"text"`
	N    int    `msgpack:"n"`
}

// Kind is bench.note.
func (note) Kind() string { return service + ".note" }

// Class is that of the measurements alone.
func (note) Class() task.Class { return class }

var text = strings.Repeat("a message of some length ", 8)

var subject = task.Subject{Class: class, Service: service, Action: "note"}.String()

// topology is the stream and the durable consumer that a fleet of this one class
// and service has.
func (r *run) topology() (jetstream.StreamConfig, jetstream.ConsumerConfig) {
	t := (&streams.Fleet{
		Replicas: r.Replicas,
		Classes: []streams.Class{{
			Name: class, AckWait: 30 * time.Second, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3,
			WaitObjective: time.Second, Slots: slots, MaxBytes: int64(r.Tasks)<<10 + 64<<20,
		}},
		Services: []streams.Service{{Name: service, Classes: []task.Class{class}}},
	}).Topology()
	return t.Streams[0], t.Consumers[0].Config
}

const askLimit = 10 * time.Second // for one question to the broker

// claim makes the stream, and refuses one that is there: it may be in use.
func (r *run) claim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_, err := r.pub.Stream(ctx, class.Stream())
	if err == nil {
		return fmt.Errorf("the broker has a stream %s already: another bench works in it, or one was killed; remove it with `nats stream rm %s`",
			class.Stream(), class.Stream())
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("look for %s: %w", class.Stream(), err)
	}
	return r.create(ctx)
}

// codeStore is what the broker says while it still removes the files of a stream
// of the same name.
const codeStore = 10049

func (r *run) create(ctx context.Context) error {
	stream, consumer := r.topology()
	const again = 5 * time.Millisecond
	ticks := time.NewTicker(again)
	defer ticks.Stop()
	for {
		_, err := r.pub.CreateStream(ctx, stream)
		if err == nil {
			break
		}
		if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != codeStore {
			return fmt.Errorf("create %s: %w", stream.Name, err)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return fmt.Errorf("create %s: %w", stream.Name, err)
		}
	}
	if _, err := r.pub.CreateConsumer(ctx, stream.Name, consumer); err != nil {
		return fmt.Errorf("create consumer of %s: %w", stream.Name, err)
	}
	return nil
}

func (r *run) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	err := r.pub.DeleteStream(ctx, class.Stream())
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove %s: %w", class.Stream(), err)
	}
	return nil
}

// fresh makes the stream anew, so that no figure is measured on what another has
// left behind.
func (r *run) fresh(ctx context.Context) error {
	if err := r.remove(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return r.create(ctx)
}

// empty returns once the broker has seen every acknowledgement.
func (r *run) empty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	stream, err := r.pub.Stream(ctx, class.Stream())
	if err != nil {
		return err
	}
	const look = 500 * time.Microsecond
	ticks := time.NewTicker(look)
	defer ticks.Stop()
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			return fmt.Errorf("wait for the last acknowledgement: %w", err)
		}
		if info.State.Msgs == 0 {
			return nil
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the last acknowledgement, %d tasks are left: %w", info.State.Msgs, ctx.Err())
		}
	}
}
