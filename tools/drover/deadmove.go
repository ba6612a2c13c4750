package main

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// moved are the keys of dead redrive, edit and discard with --json, one object for
// each letter.
type moved struct {
	letter

	Done         string `json:"done,omitempty"`          // "redriven", "edited" or "discarded"
	Stream       string `json:"stream,omitempty"`        // that the task is in now
	TaskSequence uint64 `json:"task_sequence,omitempty"` // in that stream
	Duplicate    bool   `json:"duplicate,omitempty"`     // someone else redrove it first
	Failed       string `json:"failed,omitempty"`        // why it was not done
}

func movedTo(done string, r client.Receipt) moved {
	return moved{Done: done, Stream: r.Stream, TaskSequence: r.Sequence, Duplicate: r.Duplicate}
}

// mover does something to one letter after the other. One that fails does not stop
// the others; the error holds all of them.
type mover struct {
	app    *App
	js     jetstream.JetStream
	traces trace.TracerProvider
}

// moving calls f with all that moving letters takes.
func (a *App) moving(ctx context.Context, f func(context.Context, *mover) error) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	js, done, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	traces, flush, err := a.tracing(ctx, a.complaint)
	if err != nil {
		return err
	}
	defer flush()
	return f(ctx, &mover{a, js, traces})
}

// doing is what a verb does to one letter.
type doing func(context.Context, *mover, deadletter.Letter) (moved, error)

// named does something to the letters with these names, and keeps in the audit trail
// to which.
func (m *mover) named(ctx context.Context, by letterName, names []string, e audit.Entry, do doing) error {
	found, errs := m.look(ctx, by, names)
	var ids []string
	for i, l := range found {
		if errs[i] == nil {
			ids = append(ids, l.ID)
		}
	}
	if len(ids) == 0 {
		for i, name := range names {
			errs[i] = m.told(name, deadletter.Letter{}, moved{}, errs[i])
		}
		return errors.Join(errs...)
	}
	e.Targets = ids
	a, err := beginAct(ctx, m.js, e)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	for i, name := range names {
		if ctx.Err() != nil {
			errs = append(errs[:i], errInterrupted)
			break
		}
		did := moved{}
		if errs[i] == nil {
			did, errs[i] = m.one(ctx, found[i], do)
			counts[resultOf(did, errs[i])]++
		}
		errs[i] = m.told(name, found[i], did, errs[i])
	}
	return a.end(ctx, counts, errors.Join(errs...))
}

// look finds the letters with these names. Each has its error, or none.
func (m *mover) look(ctx context.Context, by letterName, names []string) (found []deadletter.Letter, errs []error) {
	for _, name := range names {
		lctx, cancel := m.app.limit(ctx)
		l, err := by.find(lctx, m.js, name)
		found, errs = append(found, l), append(errs, patient(lctx, err))
		cancel()
	}
	return found, errs
}

// rehearse shows the letters with these names, to which nothing is done.
func (m *mover) rehearse(ctx context.Context, by letterName, names []string, done string) error {
	found, errs := m.look(ctx, by, names)
	n := 0
	for i, l := range found {
		switch {
		case m.app.JSON:
			errs[i] = m.told(names[i], l, moved{}, errs[i])
		case errs[i] == nil:
			m.app.printf("%s %s would be %s\n", l.Subject.Kind(), screen.Plain(l.ID), done)
		}
		if errs[i] == nil {
			n++
		}
	}
	if !m.app.JSON && n > 0 {
		m.app.printf("%s would be %s; nothing was done\n", letters(n), done)
	}
	return errors.Join(errs...)
}

func resultOf(did moved, err error) string {
	if err != nil {
		return "failed"
	}
	return did.Done
}

// one does one letter within the time for a conversation.
func (m *mover) one(ctx context.Context, l deadletter.Letter, do doing) (moved, error) {
	ctx, cancel := m.app.limit(ctx)
	defer cancel()
	did, err := do(ctx, m, l)
	return did, deadError(patient(ctx, err))
}

// told says what became of one letter, and returns its error.
func (m *mover) told(name string, l deadletter.Letter, did moved, err error) error {
	if m.app.JSON {
		did.letter = letterOf(l)
		if l.Sequence == 0 {
			did.ID = name
		}
		if err != nil {
			did.Done, did.Failed = "", err.Error()
		}
		return firstError(m.app.encode(did), err)
	}
	kind, id := l.Subject.Kind(), screen.Plain(l.ID)
	switch {
	case err != nil:
	case did.Stream == "":
		m.app.printf("%s %s %s\n", did.Done, kind, id)
	case did.Duplicate:
		m.app.printf("%s %s was redriven already: %s, sequence %d\n", kind, id, did.Stream, did.TaskSequence)
	default:
		m.app.printf("%s %s %s, generation %d: %s, sequence %d\n", did.Done, kind, id, l.Generation+1, did.Stream, did.TaskSequence)
	}
	return err
}
