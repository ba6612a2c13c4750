// Package circuit shares circuit breakers between the processes of a service: one
// for each destination, in the bucket BREAKERS, with a watch in every process. What
// a breaker decides is in package breaker; a worker asks here before each call.
//
// # Semantics
//
// All that a task asks is answered from memory; nothing waits for the broker. A
// transition holds in this process at once. One goroutine writes it to the bucket,
// by compare-and-set on what is there, and the watches carry it to the others within
// milliseconds. Who of them may probe is decided by that compare-and-set as well, so
// the probes of a half-open breaker are those of one process.
//
// Failures are counted over all processes: each one publishes what it counted, at
// once, or ten times a second when they are many, and only of destinations that
// failed lately; the others add it to theirs, and whoever counts enough opens the
// breaker. These are plain messages which nobody stores or answers. So the count of a
// process lacks what the others met in the last moments, and what they met before it
// started; and one that is lost is not told again.
//
// # Without the bucket
//
// While it is out of reach each process goes on with what it knows: what is open
// stays open until its end, then every process probes on its own, and each opens
// when it has counted enough; without the broker it counts its own failures alone.
// So nothing is let through without a limit, and nothing waits; the probes are
// multiplied by the processes. Afterwards the records in the bucket and those that
// could not be written are put together: the later one holds. A bucket that was made
// anew is filled with what is still open.
//
// # Limits
//
// Clocks are compared: when they differ between machines by d, an open time may end
// d too early or too late. Breakers of different services know nothing of each
// other.
//
// # Keys
//
//	<service>.<hash of the destination>   a [breaker.Record]
//
// And the subject breakers.<service> is where processes tell what they counted.
//
// # Concurrency
//
// All here is safe for concurrent use.
//
// # Errors
//
// [record.ErrNoBucket] and [broker.ErrDenied] are for callers that branch.
package circuit

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/telemetry"
)

// Breakers are the breakers of one service, as one process sees them. Make them
// with [New]; they are shared while [Breakers.Run] runs.
type Breakers struct {
	service string
	self    string // this process
	nc      *nats.Conn
	bucket  record.Bucket
	log     *slog.Logger
	meters  meters

	work   chan struct{} // there is something to write
	failed chan struct{} // there is something to tell
	away   bool          // the bucket is out of reach; the writer's

	mu  sync.RWMutex
	all map[string]*entry // only of destinations that failed lately, or of which there is a record
}

// entry is one destination. Breakers.mu guards it.
type entry struct {
	breaker.Breaker

	policy  breaker.Policy // of who called last
	pending bool           // the bucket does not have its record yet
	claim   bool           // somebody wants to probe
	seq     uint64         // of the record in the bucket, as far as it is known
}

// Call is one call that was let through, until [Breakers.Done].
type Call struct {
	destination string
	policy      breaker.Policy
	ticket      breaker.Ticket
}

// New returns the breakers of a service, all closed. meter may be nil.
func New(js jetstream.JetStream, service string, log *slog.Logger, meter metric.MeterProvider) (*Breakers, error) {
	b := &Breakers{
		service: service, self: rand.Text(), nc: js.Conn(), bucket: bucket(js), log: log,
		work: make(chan struct{}, 1), failed: make(chan struct{}, 1), all: map[string]*entry{},
	}
	if err := b.instrument(meter); err != nil {
		return nil, err
	}
	return b, nil
}

// Enter asks whether a call to the destination may be made now. When the verdict
// admits it, Done must be told how it went.
func (b *Breakers) Enter(p breaker.Policy, destination string) (Call, breaker.Verdict) {
	c := Call{destination: destination, policy: p}
	b.mu.RLock()
	e := b.all[destination]
	b.mu.RUnlock()
	if e == nil { // as it normally is
		return c, breaker.Verdict{Admitted: true}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e.policy = p
	v := e.Admit(p, time.Now())
	c.ticket = v.Ticket
	if v.Claim && !e.claim {
		e.claim = true
		wake(b.work)
	}
	return c, v
}

// Done tells how a call went.
func (b *Breakers) Done(c Call, r breaker.Result) {
	b.mu.RLock()
	e := b.all[c.destination]
	b.mu.RUnlock()
	if e == nil && (r.Outcome == breaker.Success || r.Outcome == breaker.Neutral) {
		return // a window begins with its first failure
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e = b.entry(c.destination)
	e.policy = c.policy
	switch {
	case e.Done(c.policy, c.ticket, r, time.Now()):
		b.turned(e)
	case r.Outcome == breaker.Failure && e.State() == breaker.Closed:
		wake(b.failed)
	}
}

// entry returns the entry of a destination. mu is held.
func (b *Breakers) entry(destination string) *entry {
	e := b.all[destination]
	if e == nil {
		e = &entry{Breaker: breaker.New(destination)}
		b.all[destination] = e
	}
	return e
}

// turned has a transition that was made here written and told. mu is held.
func (b *Breakers) turned(e *entry) {
	r := e.Record()
	e.pending, e.claim = true, false
	wake(b.work)
	b.meters.turned(r.State)
	log := b.log.With(slog.String(telemetry.TaskService, b.service), slog.String(telemetry.Destination, r.Destination))
	switch r.State {
	case breaker.Open:
		log.WarnContext(context.Background(), "breaker opens: tasks for this destination wait",
			slog.Time("until", r.Until), slog.String("reason", r.Reason))
	case breaker.Closed:
		log.WarnContext(context.Background(), "breaker closes: the destination works again")
	case breaker.HalfOpen: // an owner that takes longer; the claim was told
	}
}

// wake has the goroutine look that reads c.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
