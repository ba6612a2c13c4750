package backlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// Where narrows Find. The zero value means everywhere.
type Where struct {
	Class task.Class
	Kind  string // "<service>.<action>"
	Scan  int    // messages to look through in each class's stream; 0 means 10,000
}

// Searched is how far Find went in one stream.
type Searched struct {
	Stream string `json:"stream"`
	Looked uint64 `json:"looked"` // messages
	Left   uint64 `json:"left"`   // messages that were not looked at
}

// Find returns every task with this id: it may be there more than once, for
// several kinds, or for a moment while it moves. RETRY and DEAD are asked for the
// id; in the streams of classes it is only in the headers, so those are looked
// through, oldest first, as far as w allows. Finding nothing is no error. The
// error wraps [ErrFilter], task.ErrBadSubject or [ErrNoStream].
func Find(ctx context.Context, js jetstream.JetStream, fleet *streams.Fleet, id string, w Where) ([]Task, []Searched, error) {
	f := Filter{Class: w.Class, Kind: w.Kind}
	err := f.check(fleet)
	if id == "" {
		err = fmt.Errorf("%w: no id", ErrFilter)
	}
	var marks marks
	if err == nil {
		marks, err = readMarks(ctx, js, fleet, &f)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find task %s: %w", id, err)
	}
	s := search{js: js, id: id, marks: marks, limit: w.Scan}
	if s.limit <= 0 {
		s.limit = scanLimit
	}
	class, service, action := f.tokens()
	rest := class + "." + service + "." + action + "." + task.Token(id)
	s.named(ctx, task.RetryStream, "retry.*."+rest)
	s.named(ctx, task.DeadStream, "dead."+rest)
	for _, c := range classes(fleet) {
		if w.Class == "" || w.Class == c {
			s.scan(ctx, c, taskSubjects(fleet, c, service, action, ""))
		}
	}
	if err := errors.Join(s.errs...); err != nil {
		return s.found, s.searched, fmt.Errorf("find task %s: %w", id, err)
	}
	return s.found, s.searched, nil
}

// search is one Find.
type search struct {
	js    jetstream.JetStream
	id    string
	marks marks
	limit int

	found    []Task
	searched []Searched
	errs     []error
}

func (s *search) take(m stored.Message) {
	t := TaskOf(m)
	if t.ID == s.id {
		s.marks.place(&t)
		s.found = append(s.found, t)
	}
}

// named reads what a stream has under a subject that ends in the id.
func (s *search) named(ctx context.Context, stream, subject string) {
	s.look(ctx, stored.Query{Stream: stream, Subject: subject, Limit: namedLimit})
}

const namedLimit = 256 // messages in RETRY or DEAD whose subject has the id that is looked for

// scan looks through the tasks of one class.
func (s *search) scan(ctx context.Context, c task.Class, subjects []string) {
	queries := []stored.Query{{Stream: c.Stream(), Limit: 1}}
	if seq, ok := s.derived(c); ok {
		queries[0].From = seq
	} else {
		queries = queries[:0]
		for _, subject := range subjects {
			queries = append(queries, stored.Query{Stream: c.Stream(), Subject: subject, Limit: s.limit})
		}
	}
	s.look(ctx, queries...)
}

// look takes what is wanted of the messages of one stream.
func (s *search) look(ctx context.Context, queries ...stored.Query) {
	at := Searched{Stream: queries[0].Stream}
	for _, q := range queries {
		rest := uint64(0)
		for m, err := range stored.Read(ctx, s.js, q) {
			if err != nil {
				s.errs = append(s.errs, err)
				break
			}
			s.take(m)
			at.Looked++
			rest = m.Rest
		}
		at.Left += rest
	}
	s.searched = append(s.searched, at)
}

// derived is the sequence in the id that a task got which came without one.
func (s *search) derived(c task.Class) (uint64, bool) {
	rest, ok := strings.CutPrefix(s.id, c.Stream()+"-")
	if !ok {
		return 0, false
	}
	text, _, _ := strings.Cut(rest, "-")
	seq, err := strconv.ParseUint(text, 10, 64)
	return seq, err == nil && seq > 0
}
