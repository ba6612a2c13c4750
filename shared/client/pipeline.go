package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/task"
)

const (
	window      = 1 << 10 // tasks unanswered at most: 200,000/s when an answer takes 5 ms
	windowBytes = 8 << 20 // of bodies unanswered, so that memory is bounded for large ones
	tick        = 50 * time.Millisecond
)

func (c *Client) publishAll(ctx context.Context, n int, at func(int) task.Args, o *order) ([]Outcome, error) {
	if n == 0 {
		return nil, nil
	}
	p := &pipeline{
		c: c, at: at, order: o, out: make([]Outcome, n),
		inbox: c.nc.NewInbox() + ".", slots: make([]slot, min(n, window)),
		pause: firstPause, complaint: c.nc.LastError(), gone: map[string]error{}, room: patch{limit: o.room},
	}
	for i := range p.slots {
		p.free = append(p.free, i)
	}
	// Twice the window: a task that was sent again may be answered twice.
	replies := make(chan *nats.Msg, 2*len(p.slots))
	sub, err := c.nc.ChanSubscribe(p.inbox+"*", replies)
	if err != nil {
		p.abandon(ctx, err)
		return p.out, p.summary()
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	status := c.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer c.nc.RemoveStatusListener(status)
	p.run(ctx, replies, status)
	return p.out, p.summary()
}

// pipeline is one PublishAll. One goroutine owns it.
type pipeline struct {
	c     *Client
	at    func(int) task.Args
	order *order
	out   []Outcome
	route *route // of the task that was built last

	stream string // of the last answer

	inbox string
	slots []slot
	free  []int // slots without a task
	retry []int // slots whose task is to be sent again
	next  int   // the first task that has not been begun
	done  int   // tasks with an outcome
	bytes int   // of the bodies in slots
	begun uint64

	pause     time.Duration // before the next try after an outage
	resume    time.Time     // nothing is sent before
	quiet     time.Duration // since the broker last answered, without time that the process was stopped
	asked     time.Time     // when the broker was last asked for a stream
	complaint error         // of the connection, before this call
	last      error         // why something is tried again
	gone      map[string]error

	room patch // how long it waits for room, since one was stored
	gate int   // while there is no room, how many may be out; 0 for as many as there are slots
}

// slot holds one task from its first try to its outcome.
type slot struct {
	message
	index int // of the task
	span  trace.Span
	token uint64     // in the reply subject of every try; 0 while the slot is free
	out   bool       // a try is out; otherwise the slot is in retry
	until time.Time  // when the answer to it is late
	full  *FullError // why it is in retry, when that is for want of room
}

func (p *pipeline) run(ctx context.Context, replies <-chan *nats.Msg, status <-chan nats.Status) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for p.fill(ctx); p.done < len(p.out); p.fill(ctx) {
		select {
		case m := <-replies:
			p.answered(ctx, m)
			for range len(replies) {
				p.answered(ctx, <-replies)
			}
		case s := <-status:
			p.cut(ctx, s)
		case now := <-ticks.C:
			p.late(ctx, now)
		case <-ctx.Done():
			p.abandon(ctx, cause(ctx))
		}
	}
}

// fill sends as much as may be unanswered, what failed before first.
func (p *pipeline) fill(ctx context.Context) {
	for len(p.retry) > 0 && !p.paused() && p.open() && ctx.Err() == nil {
		i := p.retry[0]
		p.retry = p.retry[1:]
		if err := p.gone[p.slots[i].Subject]; err != nil {
			p.end(ctx, i, answer{}, err)
			continue
		}
		p.send(ctx, i)
	}
	for p.next < len(p.out) && len(p.free) > 0 && p.bytes < windowBytes && !p.paused() && p.open() && ctx.Err() == nil {
		p.next++
		p.begin(ctx, p.next-1)
	}
}

func (p *pipeline) paused() bool { return !p.resume.IsZero() && time.Now().Before(p.resume) }

// open reports whether one more may be sent. A class that was full gets one task
// at a time, and one more at a time for each that is stored, so that it is not sent
// a window of tasks again and again only to refuse them.
func (p *pipeline) open() bool {
	if p.gate == 0 {
		return true
	}
	out := 0
	for i := range p.slots {
		if p.slots[i].out {
			out++
		}
	}
	return out < p.gate
}

// begin builds task number index and sends it.
func (p *pipeline) begin(ctx context.Context, index int) {
	args := p.at(index)
	if args == nil {
		p.fail(index, fmt.Errorf("%w: args is nil", ErrOption))
		return
	}
	if !p.route.matches(args, p.order) {
		r, err := newRoute(args, p.order)
		if err != nil {
			p.fail(index, err)
			return
		}
		p.route = r
	}
	if err := p.gone[p.route.subject]; err != nil {
		p.fail(index, err)
		return
	}
	i := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	s := &p.slots[i]
	p.begun++
	s.index, s.token = index, p.begun*window+uint64(i)
	ctx, span := p.c.startSpan(ctx, p.route) // end ends it
	s.span = span
	start := time.Now()
	err := p.c.build(ctx, &s.message, p.route, args, p.order)
	p.bytes += len(s.Data)
	if errors.Is(err, ErrFull) { // the broker answers, it has no room for the body
		p.end(ctx, i, answer{}, err)
		p.quiet = 0
		return
	}
	if err != nil {
		p.end(ctx, i, answer{}, err)
		if p.quiet += time.Since(start); p.stalled(ctx) { // its body found no broker
			p.abandon(ctx, p.stall())
		}
		return
	}
	if s.body != nil {
		p.quiet = 0
	}
	p.send(ctx, i)
}

// send sends the task in slot i once.
func (p *pipeline) send(ctx context.Context, i int) {
	s, now := &p.slots[i], time.Now()
	if s.tries++; s.tries == 1 {
		s.sent = now
	}
	s.out, s.until, s.full = true, now.Add(tryLimit(s.tries)), nil
	s.Reply = p.inbox + strconv.FormatUint(s.token, 36)
	if err := p.c.nc.PublishMsg(&s.Msg); err != nil {
		s.out = false
		p.judge(ctx, i, answer{}, err)
	}
}

// cut puts by what was sent over a connection that is lost.
func (p *pipeline) cut(ctx context.Context, s nats.Status) {
	if s == nats.CLOSED {
		p.abandon(ctx, nats.ErrConnectionClosed)
		return
	}
	p.giveUp(ctx, func(*slot) bool { return true }, nats.ErrDisconnected)
}

// late puts by what has not been answered in time, and all when nothing is. It is
// called every tick.
func (p *pipeline) late(ctx context.Context, now time.Time) {
	p.crowded(ctx, now)
	if p.quiet += tick; p.stalled(ctx) {
		p.abandon(ctx, p.stall())
		return
	}
	// While others are answered the broker is only slow, and sending more to it
	// would make it slower.
	busy := p.quiet < firstTry
	p.giveUp(ctx, func(s *slot) bool {
		return now.After(s.until) && (!busy || now.Sub(s.until) > patience)
	}, errNoAnswer)
}

func (p *pipeline) giveUp(ctx context.Context, which func(*slot) bool, err error) {
	for i := range p.slots {
		if s := &p.slots[i]; s.out && which(s) {
			s.out = false
			p.judge(ctx, i, answer{}, err)
		}
	}
}

// stalled reports whether the patience is at its end.
func (p *pipeline) stalled(ctx context.Context) bool {
	_, has := ctx.Deadline()
	return !has && p.quiet > patience
}

func (p *pipeline) stall() error {
	return fmt.Errorf("nothing was stored for %v: %w", patience, cmp.Or(p.last, errNoAnswer))
}

// abandon gives every task that has no outcome the error err.
func (p *pipeline) abandon(ctx context.Context, err error) {
	for i := range p.slots {
		if s := &p.slots[i]; s.out {
			s.doubt = true
			p.end(ctx, i, answer{}, err)
		}
	}
	for _, i := range p.retry {
		if full := p.slots[i].full; full != nil {
			p.end(ctx, i, answer{}, fmt.Errorf("%w, while it waited for room: %w", err, full))
			continue
		}
		p.end(ctx, i, answer{}, err)
	}
	p.retry = nil
	for ; p.next < len(p.out); p.next++ {
		p.fail(p.next, fmt.Errorf("not sent: %w", err))
	}
}

// end gives the task in slot i its outcome, and frees the slot.
func (p *pipeline) end(ctx context.Context, i int, a answer, err error) {
	s := &p.slots[i]
	p.bytes -= len(s.Data)
	o := &p.out[s.index]
	if o.Receipt, err = p.c.finish(ctx, &s.message, s.span, a, err); err != nil {
		o.Err = fmt.Errorf("publish %s: %w", p.at(s.index).Kind(), err)
	}
	s.Data, s.span, s.token, s.out, s.full = nil, nil, 0, false, nil
	p.free = append(p.free, i)
	p.done++
}

// fail gives a task that never had a slot its outcome.
func (p *pipeline) fail(index int, err error) {
	p.out[index].Err = fmt.Errorf("publish: %w", err)
	p.done++
}

func (p *pipeline) summary() error {
	failed := 0
	for i := range p.out {
		if p.out[i].Err != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	i := slices.IndexFunc(p.out, func(o Outcome) bool { return o.Err != nil })
	return fmt.Errorf("%d failed, the first is number %d: %w", failed, i, p.out[i].Err)
}
