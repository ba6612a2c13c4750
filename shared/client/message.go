package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

const refAbove = 256 << 10 // bytes of a body; what is larger goes to BODIES

// route is what all tasks of one kind, class and tenant have in common.
type route struct {
	kind     string
	class    task.Class
	tenant   string
	subject  string
	spanName string
	attrs    []attribute.KeyValue // of its spans
}

func newRoute(args task.Args, o *order) (*route, error) {
	r := &route{kind: args.Kind(), class: o.class, tenant: o.tenant}
	if r.class == "" {
		r.class = task.ClassOf(args)
	}
	service, action, err := task.SplitKind(r.kind)
	if err != nil {
		return nil, err
	}
	s := task.Subject{Class: r.class, Service: service, Action: action, Tenant: r.tenant}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", r.kind, err)
	}
	r.subject, r.spanName, r.attrs = s.String(), "publish "+r.kind, attributes(r)
	return r, nil
}

// matches reports whether r is the route of args under o.
func (r *route) matches(args task.Args, o *order) bool {
	if r == nil || r.tenant != o.tenant || r.kind != args.Kind() {
		return false
	}
	return r.class == o.class || o.class == "" && r.class == task.ClassOf(args)
}

// message is one task on its way. It may be built anew for another task.
type message struct {
	nats.Msg
	id    string
	fresh bool           // the id was made here, so that no one else has it
	body  *bodies.Object // nil when the message holds it

	tries  int       // so far
	sent   time.Time // the first of them
	doubt  bool      // one of them may have stored it
	room   patch     // how long it waits for room
	silent time.Time // since when nobody listens on the subject; zero when a stream takes it
	absent error     // what is known of why nobody listens; nil when nothing is
}

// told is the error of m as the caller shall see it.
func (m *message) told(err error) error {
	if err != nil && m.doubt && !errors.Is(err, ErrUnknown) {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// build makes m the message of args. ctx is that of the task's span. When it
// fails, nothing is left in BODIES.
func (c *Client) build(ctx context.Context, m *message, r *route, args task.Args, o *order) error {
	h := m.Header
	if h == nil {
		h = make(nats.Header, 4)
	}
	clear(h)
	*m = message{Msg: nats.Msg{Subject: r.subject, Header: h}, id: o.id, room: patch{limit: o.room}}
	if m.id == "" {
		m.id, m.fresh = rand.Text(), true
	}
	if made(m.id) {
		h[task.HeaderMsgID] = []string{m.id}
	} else { // the broker compares it with those of all kinds in the class
		h[task.HeaderMsgID] = []string{r.kind + ":" + m.id}
		h[task.HeaderID] = []string{m.id}
	}
	if !o.deadline.IsZero() {
		h[task.HeaderDeadline] = []string{o.deadline.UTC().Format(time.RFC3339Nano)}
	}
	if trace.SpanContextFromContext(ctx).IsValid() {
		telemetry.Inject(ctx, h)
	}
	body, err := marshal(args)
	if err != nil {
		return err
	}
	body, compressed := task.Compress(body)
	if compressed {
		h[task.HeaderEncoding] = []string{task.EncodingZstd}
	}
	if len(body) <= refAbove {
		m.Data = body
		return nil
	}
	if m.body, err = c.store(ctx, r.kind, m.id, body, &m.room); err != nil {
		return err
	}
	h[task.HeaderRef] = []string{m.body.Name}
	return nil
}

// made reports whether id has the form of those that are made here. Such a one is
// the broker's dedupe key as it is, also when a caller gives it: it publishes again
// a task that may be stored, under the key that it had the first time.
func made(id string) bool {
	return len(id) == 26 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == "" // as rand.Text has it
}

// store puts body into BODIES, with the patience that tasks have. What it waits
// for room is not waited again by the task.
func (c *Client) store(ctx context.Context, kind, id string, body []byte, room *patch) (*bodies.Object, error) {
	return bodies.Put(ctx, c.js, func(ctx context.Context, m *nats.Msg) error {
		part := message{Msg: nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}, room: *room}
		_, err := c.deliver(ctx, &part)
		*room = part.room
		return err
	}, kind+":"+task.Token(id), body)
}

// marshal is task.Marshal with its own error for a body that is too large.
func marshal(args task.Args) ([]byte, error) {
	body, err := task.Marshal(args)
	if err == nil || !errors.Is(err, task.ErrBadBody) {
		return body, err
	}
	n := 0
	if raw, ok := args.(interface{ RawBody() []byte }); ok {
		n = len(raw.RawBody())
	} else if b, err := msgpack.Marshal(args); err == nil { // only when it failed already
		n = len(b)
	}
	if n > task.MaxBody {
		return nil, fmt.Errorf("%w: the body has about %d bytes, at most %d are allowed: put the data elsewhere and its address into the task", ErrTooLarge, n, task.MaxBody)
	}
	return nil, err
}
