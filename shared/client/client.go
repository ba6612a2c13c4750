package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Client publishes tasks over one connection. It is made by [New].
type Client struct {
	js       jetstream.JetStream
	nc       *nats.Conn
	tracer   trace.Tracer
	room     time.Duration         // to wait for it, unless a publish says otherwise
	noLookup atomic.Bool           // this connection may not ask which streams there are
	mayAsk   atomic.Bool           // it has asked, and was not refused
	left     atomic.Int64          // when it last left a node that served nothing; ns since 1970
	gauges   sync.Map              // by name of the stream: *gauge
	last     atomic.Pointer[route] // of Publish: the next one is often the same
}

// New returns a client that publishes over js. It talks to no one.
func New(js jetstream.JetStream, opts ...Option) (*Client, error) {
	if js == nil {
		return nil, fmt.Errorf("new client: %w: js is nil", ErrOption)
	}
	c := &Client{js: js, nc: js.Conn()}
	var errs []error
	for _, o := range opts {
		errs = append(errs, o.applyClient(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new client: %w", err)
	}
	if c.tracer == nil {
		c.tracer = otel.GetTracerProvider().Tracer(telemetry.Scope)
	}
	return c, nil
}

// Receipt says where a task is stored. On an error only ID is set, and it is
// empty when the task never had one.
type Receipt struct {
	ID       string // of the task: given by the caller or made here
	Stream   string
	Sequence uint64 // in Stream; of the task that was there before when Duplicate is set

	// Duplicate says that the broker held a task with this id already and dropped
	// this one. It is never set for an id that was made here. For the caller's own
	// id it may mean an earlier try of this very call, whose answer was lost.
	Duplicate bool
}

// Publish stores one task and returns once the broker has confirmed it. A task
// with an [ID] that the broker has seen in the last ten minutes in the same class
// and kind is not stored again: that is a success with Receipt.Duplicate set.
//
// Publish returns an error wrapping [ErrNoStream], [ErrFull], [ErrTooLarge],
// [ErrDenied], [ErrOption], [task.ErrBadSubject] or [task.ErrBadBody] when the
// task is not stored, and [ErrUnknown] when that cannot be said; see the package
// comment for what to do then, and for how long Publish tries.
func (c *Client) Publish(ctx context.Context, args task.Args, opts ...PublishOption) (Receipt, error) {
	o, err := c.newOrder(opts)
	if err != nil {
		return Receipt{}, fmt.Errorf("publish: %w", err)
	}
	if args == nil {
		return Receipt{}, fmt.Errorf("publish: %w: args is nil", ErrOption)
	}
	r := c.last.Load()
	if !r.matches(args, &o) {
		if r, err = newRoute(args, &o); err != nil {
			return Receipt{}, fmt.Errorf("publish: %w", err)
		}
		c.last.Store(r)
	}
	var m message
	ctx, span := c.startSpan(ctx, r)
	err = c.build(ctx, &m, r, args, &o)
	var a answer
	if err == nil {
		a, err = c.deliver(ctx, &m)
	}
	rc, err := c.finish(ctx, &m, span, a, err)
	if err != nil {
		return rc, fmt.Errorf("publish %s: %w", r.kind, err)
	}
	return rc, nil
}

// Forward publishes a message that is a task already: subject, headers and body
// go as they are. It must carry Nats-Msg-Id, without which a repeated try could
// store it twice. Forward makes no span. It returns the errors of [Client.Publish];
// the receipt's ID is the task's, from Task-Id or else from Nats-Msg-Id.
func (c *Client) Forward(ctx context.Context, msg *nats.Msg) (Receipt, error) {
	if _, err := task.ParseSubject(msg.Subject); err != nil {
		return Receipt{}, fmt.Errorf("forward: %w", err)
	}
	rc := Receipt{ID: first(msg.Header, task.HeaderID)}
	if rc.ID == "" {
		rc.ID = first(msg.Header, task.HeaderMsgID)
	}
	if first(msg.Header, task.HeaderMsgID) == "" {
		return Receipt{}, fmt.Errorf("forward %s: %w: the message has no %s", msg.Subject, ErrOption, task.HeaderMsgID)
	}
	m := message{Msg: nats.Msg{Subject: msg.Subject, Header: msg.Header, Data: msg.Data}, room: patch{limit: c.room}}
	a, err := c.deliver(ctx, &m)
	if err != nil {
		return rc, fmt.Errorf("forward %s: %w", msg.Subject, m.told(err))
	}
	rc.Stream, rc.Sequence, rc.Duplicate = a.stream, a.sequence, a.duplicate
	return rc, nil
}

func first(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
