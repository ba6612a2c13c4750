package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

// List yields the letters that meet f, oldest first. It stops at what is in DEAD
// when it starts, so that redriving each letter ends even if all die again. After
// an error it yields nothing more; the error wraps [ErrFilter] or
// task.ErrBadSubject for a filter that can match nothing, and [ErrNoStream].
func List(ctx context.Context, js jetstream.JetStream, f Filter) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		if err := list(ctx, js, &f, yield); err != nil {
			yield(Letter{}, fmt.Errorf("list dead letters: %w", err))
		}
	}
}

func list(ctx context.Context, js jetstream.JetStream, f *Filter, yield func(Letter, error) bool) error {
	subject, err := f.subject()
	if err != nil {
		return err
	}
	var last stored.Message
	err = repeat(ctx, func(ctx context.Context) (err error) {
		last, err = stored.Newest(ctx, js, task.DeadStream, subject)
		return err
	})
	if errors.Is(err, stored.ErrGone) {
		return nil
	}
	if err != nil {
		return noStream(err)
	}
	q := stored.Query{Stream: task.DeadStream, Subject: subject, Since: f.Since}
	yielded := 0
	each := func(m stored.Message) (more bool) {
		l := newLetter(m)
		if m.Sequence > last.Sequence {
			return false
		}
		if !f.matches(&l) {
			return true
		}
		yielded++
		return yield(l, nil) && yielded != f.Limit
	}
	for n := 1; ; n++ {
		from := q.From
		err := readOn(ctx, js, &q, each)
		if q.From > from {
			n = 1
		}
		if !again(ctx, n, err) {
			return noStream(err)
		}
	}
}

// readOn hands what q asks for to each until that returns false, and leaves in q
// where to go on after an error.
func readOn(ctx context.Context, js jetstream.JetStream, q *stored.Query, each func(stored.Message) (more bool)) error {
	for m, err := range stored.Read(ctx, js, *q) {
		if err != nil {
			return err
		}
		if !each(m) {
			return nil
		}
		q.From = m.Sequence + 1
	}
	return nil
}

// Get returns the letter of the task with this id. Of several letters of one
// task, it is that of the latest generation. It returns an error wrapping
// [ErrNotFound], [ErrNoStream], or [ErrAmbiguous] if several tasks died under the
// id; [At] then gets one of them.
func Get(ctx context.Context, js jetstream.JetStream, id string) (Letter, error) {
	if id == "" {
		return Letter{}, fmt.Errorf("get dead letter: %w: no id", ErrNotFound)
	}
	var found []Letter
	for l, err := range List(ctx, js, Filter{ID: id}) {
		if err != nil {
			return Letter{}, fmt.Errorf("get dead letter %s: %w", id, err)
		}
		if n := len(found); n > 0 && found[n-1].Where == l.Where {
			if l.Generation >= found[n-1].Generation {
				found[n-1] = l
			}
			continue
		}
		found = append(found, l)
	}
	switch len(found) {
	case 0:
		return Letter{}, fmt.Errorf("get dead letter %s: %w", id, ErrNotFound)
	case 1:
		return found[0], nil
	}
	var which []string
	for _, l := range found {
		which = append(which, fmt.Sprintf("%d is %s in class %s", l.Sequence, l.Subject.Kind(), l.Subject.Class))
	}
	return Letter{}, fmt.Errorf("get dead letter %s: %w: %s: name the sequence", id, ErrAmbiguous, strings.Join(which, ", "))
}
