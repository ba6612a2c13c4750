package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Filter says which entries to list. The zero value means all; an entry must meet
// everything that is set.
type Filter struct {
	Verb  string    // and those that it begins: "dead" is dead.redrive and dead.discard too
	Act   string    // entries of this act
	By    string    // who
	Since time.Time // stored then or later, by the broker's clock
	Until time.Time // stored before
	Limit int       // the latest so many; 0 means all
}

func (f *Filter) matches(e *Entry, stored time.Time) bool {
	return (f.Act == "" || e.Act == f.Act) && (f.By == "" || e.By == f.By) &&
		(f.Until.IsZero() || stored.Before(f.Until))
}

const listLimit = 10 * time.Second // for the next entry to arrive

// List yields the entries that meet f, oldest first. It stops at what is in AUDIT
// when it starts. An entry that cannot be read has only its Sequence, and its Error
// says why. After an error List yields nothing more; the error wraps [ErrNoStream],
// or [ErrEntry] for a filter that is not legal. With a limit, so many entries are
// held in memory.
//
// It reads through an ordered consumer, which the broker forgets by itself.
func List(ctx context.Context, js jetstream.JetStream, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var last []Entry // with a limit
		err := list(ctx, js, &f, func(e Entry) bool {
			if f.Limit <= 0 {
				return yield(e, nil)
			}
			if last = append(last, e); len(last) > 2*f.Limit {
				last = append(last[:0], last[len(last)-f.Limit:]...)
			}
			return true
		})
		for _, e := range last[max(0, len(last)-f.Limit):] {
			if f.Limit > 0 && !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(Entry{}, fmt.Errorf("list audit entries: %w", err))
		}
	}
}

func list(ctx context.Context, js jetstream.JetStream, f *Filter, each func(Entry) bool) error {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if f.Verb != "" {
		if err := checkVerb(f.Verb); err != nil {
			return err
		}
		cfg.FilterSubjects = []string{"audit." + f.Verb, "audit." + f.Verb + ".>"}
	}
	if !f.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	c, err := js.OrderedConsumer(ctx, task.AuditStream, cfg)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrNoStream
	}
	if err != nil {
		return err
	}
	if c.CachedInfo().NumPending == 0 {
		return nil
	}
	entries, err := c.Messages()
	if err != nil {
		return err
	}
	defer entries.Stop()
	for left := c.CachedInfo().NumPending; left > 0; left-- {
		more, err := one(ctx, entries, f, each)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// one reads the next entry, and reports whether there shall be another.
func one(ctx context.Context, entries jetstream.MessagesContext, f *Filter, each func(Entry) bool) (more bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listLimit, errSilent)
	defer cancel()
	m, err := entries.Next(jetstream.NextContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return false, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return false, err
	}
	var e Entry
	if err := json.Unmarshal(m.Data(), &e); err != nil {
		e = Entry{Error: fmt.Sprintf("it cannot be read: %v", err)}
	}
	e.Sequence = meta.Sequence.Stream
	return !f.matches(&e, meta.Timestamp) || each(e), nil
}
