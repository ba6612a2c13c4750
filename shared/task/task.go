package task

import (
	"context"
	"time"
)

// Args are the arguments of one kind of task: a plain struct whose fields carry
// msgpack tags. A type may also have a method Class() Class; without one its
// tasks go to [Default]. Both methods are called on values and on zero values,
// so they must not depend on fields.
type Args interface {
	// Kind is "<service>.<action>", two tokens of [A-Za-z0-9_-]{1,64}. It never
	// changes once a task of it was published.
	Kind() string
}

// ClassOf returns the class that args name with a method Class() Class, and
// [Default] when they have none.
func ClassOf(args Args) Class {
	if c, ok := args.(interface{ Class() Class }); ok {
		return c.Class()
	}
	return Default
}

// Raw is a task whose arguments are msgpack already, for tools that pass tasks
// on without knowing their types. Body is checked like any other.
type Raw struct {
	Name string // the kind
	Body []byte // a msgpack map; empty means an empty map
}

// Kind returns r.Name.
func (r Raw) Kind() string { return r.Name }

// RawBody returns r.Body: [Marshal] takes it as it is, after checking it.
func (r Raw) RawBody() []byte { return r.Body }

// Info is what a handler can know of the task that it runs, beside its arguments.
type Info struct {
	ID         string    // the same over retries and redrives
	Kind       string    // "<service>.<action>"
	Class      Class     // the class it was published to
	Tenant     string    // empty when the subject names none
	Attempt    int       // attempts that failed before this run; 0 in the first
	Generation int       // redrives so far
	EnqueuedAt time.Time // when it was published
	Deadline   time.Time // not worth starting after; zero when there is none
}

// Key identifies this task and generation, "<id>:<generation>": the same over
// retries, different after a redrive. Hand it to the outside world as the
// idempotency key of the effect, because a task may run more than once.
func (i Info) Key() string { return key(i.ID, i.Generation) }

type infoKey struct{}

// NewContext returns a context that carries info to [FromContext]. The worker
// calls it; a handler's test may.
func NewContext(ctx context.Context, info *Info) context.Context {
	return context.WithValue(ctx, infoKey{}, info)
}

// FromContext returns the task that a handler's context belongs to, and whether
// it belongs to one.
func FromContext(ctx context.Context) (Info, bool) {
	info, ok := ctx.Value(infoKey{}).(*Info)
	if !ok {
		return Info{}, false
	}
	return *info, true
}
