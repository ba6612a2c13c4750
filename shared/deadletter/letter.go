package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Letter is one dead letter.
type Letter struct {
	task.State // as it died; Subject is where the task was published

	Sequence uint64      // in DEAD, and never used for another letter
	StoredAt time.Time   // by the broker's clock
	Where    string      // its own subject in DEAD
	Header   nats.Header // as stored
	Body     []byte      // as stored: perhaps compressed, and empty when Ref names it

	// Problem is what could not be read of subject and headers, wrapping
	// task.ErrBadSubject or task.ErrBadHeader; nil when all could. State then
	// holds what could be read, always an id, and class and kind from Where.
	Problem error
}

func newLetter(m stored.Message) Letter {
	l := Letter{Sequence: m.Sequence, StoredAt: m.Time, Where: m.Subject, Header: m.Header, Body: m.Data}
	l.State, l.Problem = task.ReadState(m.Subject, m.Header, task.Stored{Stream: task.DeadStream, Sequence: m.Sequence, Time: m.Time})
	if m.Problem != nil {
		l.Problem = errors.Join(m.Problem, l.Problem)
	}
	if l.DiedAt.IsZero() {
		l.DiedAt = m.Time
	}
	return l
}

// name is how messages call l.
func (l *Letter) name() string {
	return fmt.Sprintf("dead letter %d (%s %s)", l.Sequence, l.Subject.Kind(), l.ID)
}

// trace is the span that the task was published under; not valid when there was none.
func (l *Letter) trace() trace.SpanContext {
	return telemetry.ParseTraceparent(telemetry.Carrier(l.Header).Get("traceparent"))
}

// Content returns the letter's body as it was published: fetched from BODIES when
// it is there, and decompressed. It has not been checked otherwise: give it to
// task.Unmarshal. js may be nil for a letter without Ref. The error wraps
// [ErrNoBody] when the body is gone, and task.ErrBadBody when it is too large,
// damaged, or no zstd.
func (l *Letter) Content(ctx context.Context, js jetstream.JetStream) ([]byte, error) {
	if l.Ref != "" && js == nil {
		return nil, fmt.Errorf("read body of %s: %q is in %s, and there is no connection to fetch it", l.name(), l.Ref, task.BodiesBucket)
	}
	body, err := bodies.Content(ctx, js, &l.State, l.Body)
	if errors.Is(err, bodies.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrNoBody, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read body of %s: %w", l.name(), err)
	}
	return body, nil
}

// Arguments decodes the letter's body into a map. It returns the errors of
// [Letter.Content], and task.ErrBadBody for a body that is not safe to decode.
func (l *Letter) Arguments(ctx context.Context, js jetstream.JetStream) (map[string]any, error) {
	body, err := l.Content(ctx, js)
	if err != nil {
		return nil, err
	}
	args := map[string]any{}
	if err := task.Unmarshal(body, &args); err != nil {
		return nil, fmt.Errorf("read arguments of %s: %w", l.name(), err)
	}
	return args, nil
}
