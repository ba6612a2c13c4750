package backlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

// Place is where a task is on its path.
type Place string

// The places of a task.
const (
	Waiting Place = "waiting" // in the stream of its class, never handed out
	Held    Place = "held"    // handed out and not settled: with a worker, or on its way back from one that died
	Due     Place = "due"     // in RETRY, never handed out since it became due
	Timer   Place = "retry"   // in RETRY, not yet due
	Dead    Place = "dead"    // in DEAD
)

// Places are all of them, in the order of the path.
func Places() []Place { return []Place{Waiting, Held, Due, Timer, Dead} }

// Task is one task as it is stored.
type Task struct {
	task.State // Subject is where it was published

	Place   Place
	DueAt   time.Time      // when a Timer fires; zero for the others
	Stored  stored.Message // where it is, with headers and body
	Problem error          // what could not be read of subject and headers; nil when all could
}

// TaskOf reads m. What cannot be read is in Problem; class and service then come
// from the subject it is stored under.
func TaskOf(m stored.Message) Task {
	t := Task{Stored: m}
	var err error
	t.State, err = task.ReadState(m.Subject, m.Header, task.Stored{Stream: m.Stream, Sequence: m.Sequence, Time: m.Time})
	t.Problem = errors.Join(m.Problem, err)
	switch {
	case strings.HasPrefix(m.Subject, "tasks."):
		t.Place = Waiting
	case strings.HasPrefix(m.Subject, "dead."):
		t.Place = Dead
	case strings.HasPrefix(m.Subject, "retry.wait."):
		t.Place, t.DueAt = Timer, dueAt(m)
	case strings.HasPrefix(m.Subject, "retry."):
		t.Place = Due
	}
	return t
}

// dueAt is when the broker's timer m fires, and zero when it does not say.
func dueAt(m stored.Message) time.Time {
	at, ok := strings.CutPrefix(m.Header.Get(task.HeaderSchedule), "@at ")
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Content is the body of t as it was published: fetched from BODIES when it is
// there, and decompressed. It has not been checked otherwise: give it to
// task.Unmarshal. The error wraps bodies.ErrNotFound when the body is gone, and
// task.ErrBadBody when it is damaged or too large.
func (t *Task) Content(ctx context.Context, js jetstream.JetStream) ([]byte, error) {
	body, err := bodies.Content(ctx, js, &t.State, t.Stored.Data)
	if err != nil {
		return nil, fmt.Errorf("read arguments of %s: %w", t.ID, err)
	}
	return body, nil
}

// Arguments decodes the body of t into a map. It returns the errors of
// [Task.Content], and task.ErrBadBody for a body that is not safe to decode.
func (t *Task) Arguments(ctx context.Context, js jetstream.JetStream) (map[string]any, error) {
	body, err := t.Content(ctx, js)
	if err != nil {
		return nil, err
	}
	args := map[string]any{}
	if err := task.Unmarshal(body, &args); err != nil {
		return nil, fmt.Errorf("read arguments of %s: %w", t.ID, err)
	}
	return args, nil
}
