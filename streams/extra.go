package streams

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// ours reports whether all consumers of a stream come from the fleet. DEAD,
// ADVISORIES and AUDIT are read by whoever likes.
func ours(stream string) bool {
	return stream == task.RetryStream || strings.HasPrefix(stream, tasksPrefix)
}

const tasksPrefix = "TASKS_"

// extraConsumer reports a consumer that the fleet does not name. Of RETRY it is
// the lane of a service that was removed, so what waits there has to be drained
// first; on a class's stream the check of its subjects sees to that.
func (p *planner) extraConsumer(ctx context.Context, id string, info *jetstream.ConsumerInfo) error {
	c := Change{
		Object: "consumer " + id, Action: Extra, Note: "not in the fleet; when nothing uses it, remove it",
		Do: []string{"nats consumer rm " + info.Stream + " " + info.Name},
	}
	if info.NumWaiting > 0 {
		c.use(info.Name)
	} else if info.Stream == task.RetryStream {
		n := info.NumPending + uint64(info.NumAckPending)
		if lane, ok := strings.CutPrefix(info.Config.FilterSubject, "retry.ready."); ok {
			waiting, err := tally(ctx, p.js, task.RetryStream, "retry.wait."+lane, 0)
			if err != nil {
				return err
			}
			n += waiting.count
		}
		if n > 0 {
			c.Action = Refuse
			c.Note = messages(n) + " would be left without a worker: keep the service in the fleet until its lane is empty"
			c.Do = []string{"drover lanes    # with the fleet file that has it"}
			if _, service, ok := strings.Cut(info.Name, "-"); ok {
				c.Do = []string{"drover lanes --service " + service + "    # with the fleet file that has it"}
			}
		}
	}
	p.add(step{Change: c})
	return nil
}

// use refuses to take away what workers ask for tasks through. When it is idle nothing
// else shows that somebody applies the file of another fleet, or an old one.
func (c *Change) use(consumer string) {
	c.Action = Refuse
	c.Note = "workers take tasks through " + consumer + ", which this fleet file does not have: apply the file that has it, or stop them first"
	c.Do = []string{"drover ps    # which workers there are", "drover lanes    # with the fleet file that has it, until PULLS is 0"}
}

// extraStreams reports streams of classes that the fleet does not name, or that
// no service serves.
func (p *planner) extraStreams(ctx context.Context) error {
	lister := p.js.StreamNames(ctx)
	var names []string
	for name := range lister.Name() {
		known := slices.ContainsFunc(p.want.Streams, func(c jetstream.StreamConfig) bool { return c.Name == name })
		if strings.HasPrefix(name, tasksPrefix) && !known {
			names = append(names, name)
		}
	}
	if err := lister.Err(); err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		s, err := p.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", name, err)
		}
		c := Change{
			Object: "stream " + name, Action: Extra, Note: "no service of the fleet serves it, and it is empty: remove it",
			Do: []string{"nats stream rm " + name},
		}
		if n := s.CachedInfo().State.Msgs; n > 0 {
			c.Action = Refuse
			c.Note = messages(n) + " would be left without a worker: keep its services in the fleet until their lanes are empty, or discard them"
			c.Do = []string{drain(name), "nats stream purge " + name + "    # or discards them"}
		}
		lister := s.ListConsumers(ctx)
		for info := range lister.Info() {
			if info.NumWaiting > 0 {
				c.use(info.Name)
			}
		}
		if err := lister.Err(); err != nil {
			return fmt.Errorf("list consumers of stream %s: %w", name, err)
		}
		p.add(step{Change: c})
	}
	return nil
}
