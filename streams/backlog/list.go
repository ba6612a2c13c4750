package backlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// Filter says which tasks to list. The zero value means all that live; a task must
// meet everything that is set.
type Filter struct {
	Class   task.Class
	Service string
	Kind    string // "<service>.<action>"
	Tenant  string
	Place   Place // "" means every one but Dead
	Limit   int   // tasks at most; 0 means 50
}

// Listing is what List found.
type Listing struct {
	Tasks []Task // by when they were published, oldest first
	// More is how many others there are, at least. It is not known when Unsure.
	More   uint64
	Unsure bool // some were not looked at, and may be among those that were asked for
}

const (
	defaultLimit = 50
	scanLimit    = 10_000 // messages of one stream that a listing looks at to find those it wants
	countOn      = 256    // messages between two looks at whether it has enough: it says how many more there are of few
)

var (
	// ErrFilter is returned when a filter contradicts itself or the fleet.
	ErrFilter = errors.New("bad filter")
	// ErrNoStream is returned when a stream does not exist or does not allow direct get.
	ErrNoStream = stored.ErrNoStream
)

// List returns the tasks that meet f: of each stream those that were stored first.
// It returns an error wrapping [ErrFilter], task.ErrBadSubject or [ErrNoStream].
func List(ctx context.Context, js jetstream.JetStream, fleet *streams.Fleet, f Filter) (Listing, error) {
	out, err := list(ctx, js, fleet, f)
	if err != nil {
		return out, fmt.Errorf("list tasks: %w", err)
	}
	return out, nil
}

func list(ctx context.Context, js jetstream.JetStream, fleet *streams.Fleet, f Filter) (Listing, error) {
	if f.Limit == 0 {
		f.Limit = defaultLimit
	}
	if err := f.check(fleet); err != nil {
		return Listing{}, err
	}
	marks, err := readMarks(ctx, js, fleet, &f)
	if err != nil {
		return Listing{}, err
	}
	sources := f.sources(fleet)
	found := make([]Listing, len(sources))
	errs := make([]error, len(sources))
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() { found[i], errs[i] = s.read(ctx, js, marks, &f) })
	}
	wg.Wait()
	var out Listing
	for _, l := range found {
		out.Tasks = append(out.Tasks, l.Tasks...)
		out.More += l.More
		out.Unsure = out.Unsure || l.Unsure
	}
	slices.SortStableFunc(out.Tasks, func(a, b Task) int {
		return cmp.Or(a.EnqueuedAt.Compare(b.EnqueuedAt), cmp.Compare(a.Stored.Sequence, b.Stored.Sequence))
	})
	if n := len(out.Tasks) - f.Limit; n > 0 {
		out.Tasks = out.Tasks[:f.Limit]
		out.More += uint64(n)
	}
	return out, errors.Join(errs...)
}

func (f *Filter) check(fleet *streams.Fleet) error {
	if f.Limit < 0 {
		return fmt.Errorf("%w: limit %d", ErrFilter, f.Limit)
	}
	if f.Place != "" && !slices.Contains(Places(), f.Place) {
		return fmt.Errorf("%w: there is no state %q", ErrFilter, f.Place)
	}
	if f.Class != "" {
		if _, ok := fleet.Class(f.Class); !ok {
			return fmt.Errorf("%w: the fleet has no class %q", ErrFilter, f.Class)
		}
	}
	if f.Service != "" {
		if err := task.CheckToken(f.Service); err != nil {
			return err
		}
	}
	if f.Tenant != "" {
		if err := task.CheckToken(f.Tenant); err != nil {
			return err
		}
	}
	if f.Kind == "" {
		return nil
	}
	service, _, err := task.SplitKind(f.Kind)
	if err == nil && f.Service != "" && f.Service != service {
		err = fmt.Errorf("%w: kind %s is not one of service %s", ErrFilter, f.Kind, f.Service)
	}
	return err
}

// tokens are class, service and action for the broker to match.
func (f *Filter) tokens() (class, service, action string) {
	class, service, action = cmp.Or(string(f.Class), "*"), cmp.Or(f.Service, "*"), "*"
	if f.Kind != "" {
		service, action, _ = strings.Cut(f.Kind, ".")
	}
	return class, service, action
}

// source is a part of a stream, as one subject with wildcards names it.
type source struct {
	stream, subject string
	whole           bool // all that is there meets the filter, but for held or not
}

// sources are where the tasks that f asks for can be.
func (f *Filter) sources(fleet *streams.Fleet) []source {
	class, service, action := f.tokens()
	in := func(places ...Place) bool { return f.Place == "" || slices.Contains(places, f.Place) }
	var out []source
	if in(Waiting, Held) {
		for _, c := range classes(fleet) {
			if f.Class == "" || f.Class == c {
				for _, s := range taskSubjects(fleet, c, service, action, f.Tenant) {
					out = append(out, source{c.Stream(), s, true})
				}
			}
		}
	}
	rest := class + "." + service + "." + action + ".*"
	whole := f.Tenant == "" // which the subjects of RETRY and DEAD do not have
	if in(Due, Held) {
		out = append(out, source{task.RetryStream, "retry.ready." + rest, whole})
	}
	if in(Timer) {
		out = append(out, source{task.RetryStream, "retry.wait." + rest, whole})
	}
	if f.Place == Dead {
		out = append(out, source{task.DeadStream, "dead." + rest, whole})
	}
	return out
}

// taskSubjects match the tasks of one class as they are stored, with a tenant and
// without one; in a fair class a partition follows the tenant, unless the task was
// there before the class was fair.
func taskSubjects(fleet *streams.Fleet, c task.Class, service, action, tenant string) []string {
	s := "tasks." + string(c) + "." + service + "." + action
	var out []string
	switch {
	case tenant != "":
		s += "." + tenant
		out = []string{s}
	case action == "*":
		return []string{"tasks." + string(c) + "." + service + ".>"}
	default:
		out = []string{s, s + ".*"}
		s += ".*"
	}
	if class, _ := fleet.Class(c); class.Fair() {
		out = append(out, s+".*")
	}
	return out
}

// classes are those that have a stream.
func classes(fleet *streams.Fleet) []task.Class {
	var out []task.Class
	for _, c := range fleet.Classes {
		if slices.ContainsFunc(fleet.Services, func(s streams.Service) bool { return s.Serves(c.Name) }) {
			out = append(out, c.Name)
		}
	}
	return out
}

// read returns what of s meets f: f.Limit tasks at most, and how many follow.
func (s source) read(ctx context.Context, js jetstream.JetStream, marks marks, f *Filter) (Listing, error) {
	var out Listing
	q := stored.Query{Stream: s.stream, Subject: s.subject, Limit: scanLimit}
	sure := s.whole && (f.Place == "" || f.Place == Timer || f.Place == Dead)
	if sure {
		q.Limit = f.Limit // the rest need not be looked at to be counted
	}
	looked, rest := 0, uint64(0)
	for m, err := range stored.Read(ctx, js, q) {
		if err != nil {
			return out, err
		}
		t := TaskOf(m)
		marks.place(&t)
		switch {
		case f.Tenant != "" && t.Subject.Tenant != f.Tenant, f.Place != "" && f.Place != t.Place:
		case len(out.Tasks) == f.Limit:
			out.More++
		default:
			out.Tasks = append(out.Tasks, t)
		}
		looked, rest = looked+1, m.Rest
		if len(out.Tasks) == f.Limit && looked%countOn == 0 {
			break
		}
	}
	if sure {
		out.More += rest
	} else {
		out.Unsure = rest > 0
	}
	return out, nil
}
