package worker

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

type laneKind string

const (
	liveLane  laneKind = "live"
	retryLane laneKind = "retry"
)

// lane works one durable consumer, or those of a fair class in turn (source.go,
// turn.go): it pulls deliveries (fetch.go), keeps their leases (lease.go), and runs
// them in slots (attempt.go, settle.go).
type lane struct {
	w       *Worker
	class   *Class
	kind    laneKind
	slots   int
	stream  string
	durable string // that is named after the service
	sources []*source
	ackWait time.Duration
	inbox   string // prefix of every subject that this lane subscribes to

	spanAttributes []attribute.KeyValue
	labels         metric.MeasurementOption // of the lane as a whole
	byKind         map[*kind]*labels        // nil is for kinds without a handler

	acks    chan *delivery // done, to be acknowledged
	acked   chan struct{}  // closed when nothing is put into acks any more
	leases  *nats.Subscription
	quiet   chan struct{} // closed when draining and no pull is outstanding
	idle    chan struct{} // closed when draining and every slot has ended
	acking  sync.WaitGroup
	keeping sync.WaitGroup
	settles sync.WaitGroup // of abandoned attempts, and of acknowledgements without a connection
	done    chan struct{}  // ends the keeper

	limited  atomic.Int64 // slots that wait for a rate limit
	draining atomic.Bool  // set once, with mu held
	mu       sync.Mutex
	held     deliveries // every delivery that is not settled
	waiting  int        // those of them that wait for a slot: next, and what is in the queues of the sources
	next     *delivery  // the one whose turn it is; nil until somebody looks
	turn     int        // the source that the next of them is taken from, if it has one
	asks     int        // the source that is asked next
	work     sync.Cond  // there is work for an idle slot, or there will be no more
	idleN    int        // slots that wait for work
	waking   bool       // one of them is on its way
	over     bool       // no more work will come
	started  bool
	running  int
	leaked   int // slots whose handler was abandoned
	alive    int // slots that have not ended and are not leaked
	pace     pace
	load     load
	asked    map[string]question // extensions without an answer yet, by reply subject
	serial   uint64              // of questions
	trouble  map[string]error    // why the lane cannot pull or settle, by what it was doing
	served   time.Time           // when its pulls were last in order
}

// acksSize is more than a lane holds: it asks for at most slots + maxAhead, and only
// pulls that were given up and answered all the same can bring more.
const acksSize = 4 * maxAhead

// newLane makes the lane of these consumers, of which there is at least one.
func newLane(w *Worker, c *Class, kind laneKind, slots int, of []*jetstream.ConsumerInfo) *lane {
	l := &lane{
		w: w, class: c, kind: kind, slots: slots, stream: of[0].Stream, durable: of[0].Name, ackWait: of[0].Config.AckWait,
		inbox: w.nc.NewInbox(), acks: make(chan *delivery, acksSize), acked: make(chan struct{}),
		quiet: make(chan struct{}), idle: make(chan struct{}), done: make(chan struct{}),
		asked: map[string]question{}, trouble: map[string]error{},
	}
	l.load = w.newLoad(slots)
	for _, info := range of {
		l.ackWait = min(l.ackWait, info.Config.AckWait)
		l.addSource(info, len(of) > 1)
	}
	l.held.init()
	l.work.L = &l.mu
	l.spanAttributes = []attribute.KeyValue{
		attribute.String(telemetry.MessagingSystem, "nats"),
		attribute.String(telemetry.MessagingOperationName, "process"),
		attribute.String(telemetry.MessagingOperationType, "process"),
		attribute.String(telemetry.MessagingDestination, l.stream),
		attribute.String(telemetry.MessagingSubscription, l.durable),
		attribute.String(telemetry.TaskClass, string(c.Name)),
		attribute.String(telemetry.TaskLane, string(kind)),
	}
	return l
}

// start subscribes, starts the slots and the keeper, and sends the first pull.
func (l *lane) start() error {
	var err error
	if l.leases, err = l.w.nc.Subscribe(l.inbox+".lease.*", l.extended); err != nil {
		return fmt.Errorf("subscribe for leases of %s: %w", l.durable, err)
	}
	for _, s := range l.sources {
		if err := errors.Join(s.pulls[0].subscribe(), s.pulls[1].subscribe()); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.started = true
	l.startSlots()
	l.mu.Unlock()
	l.acking.Go(l.acknowledge)
	l.keeping.Go(l.keep)
	l.pull(time.Now())
	return nil
}

// startSlots starts as many slots as the lane has. l.mu is held.
func (l *lane) startSlots() {
	l.alive += l.slots
	for range l.slots {
		s := &slot{lane: l}
		go s.run() // waited for by drain, through alive and idle, unless it leaks
	}
}

// slot is room for one running handler.
type slot struct {
	lane    *lane
	weight  int         // of what it runs, in a lane with heavy kinds; guarded by lane.mu
	leaked  bool        // its handler was abandoned; guarded by lane.mu
	current *delivery   // what it runs, or ran last; guarded by lane.mu
	timer   *time.Timer // of the time limit; nil until the first run
	fires   time.Time   // when the timer goes off; guarded by lane.mu
}

func (s *slot) run() {
	defer s.end() // deferred: a handler may end its goroutine
	for d := s.lane.take(s); d != nil; d = s.lane.take(s) {
		s.lane.run(s, d)
	}
}

// take waits for the next delivery to work on, which s is done with the last of. It
// returns nil when there will be no more.
func (l *lane) take(s *slot) *delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.running -= s.weight
	s.weight = 0
	for !l.startable() {
		if l.over && l.waiting == 0 {
			return nil
		}
		l.idleN++
		l.work.Wait()
		l.idleN--
		l.waking = false
	}
	d := l.next
	l.next = nil
	l.waiting--
	s.weight = int(d.weight)
	l.load.running += s.weight
	l.wake()
	return d
}

// wake sends an idle slot to work, if there is some and no slot is on its way to
// it, which wakes the next. So tasks that a slot gets through sooner than another
// one wakes up are left to it: waking costs as much as a tiny task does, and what
// few slots do is done in order (BenchmarkDrain). l.mu is held.
func (l *lane) wake() {
	if l.waiting > 0 && l.idleN > 0 && !l.waking {
		l.waking = true
		l.work.Signal()
	}
}

func (s *slot) end() {
	l := s.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	if !s.leaked {
		l.alive--
		l.checkIdle()
	}
}

// checkIdle tells drain when the last slot has ended. l.mu is held.
func (l *lane) checkIdle() {
	if l.draining.Load() && l.alive == 0 {
		select {
		case <-l.idle:
		default:
			close(l.idle)
		}
	}
}

// drain ends the lane: no more pulls, what has not started is given back, what
// runs may finish. It returns when everything is settled.
func (l *lane) drain() {
	l.mu.Lock()
	l.draining.Store(true)
	if !l.started {
		l.mu.Unlock()
		return
	}
	l.checkQuiet()
	l.startSlots() // a second set, so that giving back does not wait for running handlers
	l.mu.Unlock()
	cancelAll := time.AfterFunc(l.w.drain, l.cancelRunning) // from here on no handler starts
	defer cancelAll.Stop()

	// Pulls cannot be cancelled, and a task that is delivered to nobody is back
	// only after ack-wait, with a death to its name: wait until they expire.
	<-l.quiet
	l.mu.Lock()
	l.over = true
	l.work.Broadcast()
	l.mu.Unlock()
	select {
	case <-l.idle:
	case <-l.w.giveUp:
	}
	close(l.acked)
	l.acking.Wait()
	l.settles.Wait()
	close(l.done)
	l.keeping.Wait()
	_ = l.leases.Unsubscribe() // the connection is closed: then so are the subscriptions
	l.allPulls(func(p *pull) { _ = p.sub.Unsubscribe() })
}

// cancelRunning cancels the context of every running handler, because the lane drains.
func (l *lane) cancelRunning() {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for d := l.held.first(); d != nil; d = l.held.after(d) {
		if d.phase == phaseRunning {
			d.endRun(now, ErrDraining)
		}
	}
}

// report records why the lane is not ready, or with a nil err that what it was
// doing works again.
func (l *lane) report(doing string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.trouble, doing)
		return
	}
	l.trouble[doing] = err
}

func (l *lane) ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for doing, err := range l.trouble {
		return fmt.Errorf("%s: %s: %w", l.durable, doing, err)
	}
	return nil
}

type phase uint8

const (
	phaseWaiting   phase = iota // for a slot
	phaseRunning                // in its handler
	phaseSettling               // has a verdict, being settled by whoever set this phase
	phaseAbandoned              // its handler is still running, and its attempt is settled without it
)

// delivery is one task as the broker handed it to this lane.
type delivery struct {
	msg       *nats.Msg
	delivered int    // times the broker has delivered this message, this one included
	sequence  uint64 // in the lane's stream
	storedAt  int64  // ns since 1970: when it was published, or its timer fired
	last      bool   // nothing waited behind it at the broker

	// Guarded by lane.mu until phaseSettling, then owned by the settler.
	phase     phase
	lost      bool  // the lease ran out: never to be acknowledged
	weight    int32 // slots that it takes, in a lane with heavy kinds, and else 0; never changed
	slot      *slot
	limit     time.Time // when the handler's context ends, or ended
	confirmed time.Time // the lease runs from here: monotonic
	extended  time.Time // when the last extension was sent

	run  run
	task Task        // what the handler gets
	ctx  taskContext // and its context

	prev, next *delivery
	behind     *delivery // the next one in its queue
}

// state is what the message says of its task: as it was before this delivery. It
// is read when it is needed and not kept, because for most deliveries that is
// once, and it is larger than the rest (BenchmarkDrain).
func (l *lane) state(d *delivery) (task.State, error) {
	return task.ReadState(d.msg.Subject, d.msg.Header,
		task.Stored{Stream: l.stream, Sequence: d.sequence, Time: time.Unix(0, d.storedAt).UTC()})
}

// deaths counts the deliveries of this task that ended in no verdict; recorded
// are those of earlier messages.
func (d *delivery) deaths(recorded int) int { return recorded + d.delivered - 1 }

// endRun cancels the handler. l.mu is held.
func (d *delivery) endRun(now time.Time, cause error) {
	d.ctx.end(cause)
	if d.limit.After(now) {
		d.limit = now
	}
}

// deliveries is a ring of what a lane holds, in the order of arrival.
type deliveries struct {
	root delivery
	n    int
}

func (r *deliveries) init() { r.root.prev, r.root.next = &r.root, &r.root }

func (r *deliveries) add(d *delivery) {
	d.prev, d.next = r.root.prev, &r.root
	d.prev.next, d.next.prev = d, d
	r.n++
}

func (r *deliveries) remove(d *delivery) {
	d.prev.next, d.next.prev = d.next, d.prev
	d.prev, d.next = nil, nil
	r.n--
}

func (r *deliveries) first() *delivery { return r.after(&r.root) }

func (r *deliveries) after(d *delivery) *delivery {
	if d.next == &r.root {
		return nil
	}
	return d.next
}
