package backlog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// lane names one consumer.
type lane struct {
	class     task.Class
	service   string
	retry     bool
	partition int // of a fair class; -1 for none
}

// partition is that of a subject as it is stored, or of the filter of a consumer.
func partition(subject string) int {
	if n, ok := task.Partition(subject); ok {
		return n
	}
	return -1
}

// marks are how far each consumer has gone through its stream.
type marks map[lane]uint64

// readMarks asks the leaders of the consumers that f is about. One that does not
// exist has handed out nothing.
func readMarks(ctx context.Context, js jetstream.JetStream, fleet *streams.Fleet, f *Filter) (marks, error) {
	_, service, _ := f.tokens()
	var mu sync.Mutex
	out, errs := marks{}, []error(nil)
	var wg sync.WaitGroup
	for _, c := range fleet.Topology().Consumers {
		if f.Place == Timer || f.Place == Dead || f.Class != "" && f.Class != c.Class || service != "*" && service != c.Service {
			continue
		}
		wg.Go(func() {
			consumer, err := js.Consumer(ctx, c.Stream, c.Config.Durable)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				out[lane{c.Class, c.Service, c.Retry, partition(c.Config.FilterSubject)}] = consumer.CachedInfo().Delivered.Stream
			case !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound):
				errs = append(errs, fmt.Errorf("read consumer %s/%s: %w", c.Stream, c.Config.Durable, err))
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// place tells what is held from what waits.
func (m marks) place(t *Task) {
	at := lane{t.Subject.Class, t.Subject.Service, t.Place == Due, partition(t.Stored.Subject)}
	if (t.Place == Waiting || t.Place == Due) && t.Stored.Sequence > 0 && t.Stored.Sequence <= m[at] {
		t.Place = Held
	}
}
