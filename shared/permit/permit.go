// Package permit caps how many tasks use a resource at once, over all processes and
// services of a fleet: each leases permits from a record in the bucket LIMITS. How
// they are shared is decided in package semaphore; a worker asks here before each
// task.
//
// # Semantics
//
// A task that finds a permit leased and free takes it from memory. Else it waits for
// one look at the record, for at most 250 ms, and when that brings none it is to come
// again later; when tasks take milliseconds it waits as long for one to end. What a process leases it keeps for seconds, so that only a change of
// its load costs the broker something: two requests. While it uses a resource it reads
// the record once a second, while it wants more four times, and it writes it three
// times in a lease. A resource that is not used costs nothing.
//
// The permits that all processes use together are never more than the smallest cap
// any of them was built with, also while processes are killed or stand still. A
// process that cannot renew its lease in time loses its permits: nothing new starts,
// and what runs is told to end, before anybody else can have them.
//
// # Without the bucket
//
// While it is out of reach a process uses what it has leased until the lease ends, at
// most 18 s; then nothing that needs a permit runs. Such tasks come again every few
// seconds, and go on by themselves once the bucket is back. So nothing runs without a
// limit, and nothing waits for ever. [Permits.Err] and the log say why, from the start
// of Run on, before any task.
//
// # Limits
//
// What runs on in spite of its cancelled context, or elsewhere on its behalf, is not
// counted once its lease is over. A bucket that is deleted while it is in use forgets
// who holds what: until every process has looked, which takes a third of a lease, more
// than the cap may run. Clocks need not agree. A process that is suspended with its
// machine sees that at most a quarter of a second after it goes on.
//
// # Keys
//
//	cap.<hash of the resource>   a [semaphore.Record]
//
// # Concurrency
//
// All here is safe for concurrent use.
//
// # Errors
//
// [record.ErrNoBucket] and [broker.ErrDenied] are for callers that branch.
package permit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/semaphore"
)

// Cap is how many permits of one resource there are for the whole fleet.
type Cap struct {
	Resource string // any name, such as "db:main"; the same in all services that use it
	Permits  int    // at least 1
}

// Validate returns an error unless there is a name, and a permit.
func (c Cap) Validate() error {
	switch {
	case c.Resource == "":
		return errors.New("cap: the resource needs a name")
	case len(c.Resource) > maxResource:
		return fmt.Errorf("cap of %.20s…: its name has %d bytes, %d are allowed", c.Resource, len(c.Resource), maxResource)
	case c.Permits < 1:
		return fmt.Errorf("cap of %s: %d permits: want 1 or more", c.Resource, c.Permits)
	}
	return nil
}

const maxResource = 200 // bytes

// Config is what permits are made with.
type Config struct {
	Service string
	Caps    []Cap         // one for each resource
	Most    int           // permits of one resource that this process can use at once
	Lease   time.Duration // 0 means [semaphore.DefaultLease]; processes may differ
	Log     *slog.Logger
	Meter   metric.MeterProvider // nil: none
}

// Permits are those of one process. Make them with [New]; they can be had while
// [Permits.Run] runs.
type Permits struct {
	config Config
	bucket record.Bucket
	log    *slog.Logger
	meters meters
	work   chan struct{} // there is something to look for
	every  time.Duration // between two looks at the clock

	mu      sync.Mutex
	err     error // why permits cannot be leased; nil when they can
	all     map[string]*entry
	entries []*entry // by name
}

// entry is one resource. Permits.mu guards it.
type entry struct {
	*semaphore.Semaphore

	name    string
	cap     int
	waits   []*wait // for a look, the first one first
	queue   []*wait // for a permit to come back, the first one first
	out     map[*Permit]struct{}
	tried   time.Time // when it was looked last
	away    bool      // and that brought no answer
	told    int       // the smaller cap that was told of
	refused int64
}

// wait is a task that waits. Permits.mu guards it.
type wait struct {
	over   chan struct{} // closed when there is an answer
	is     bool          // there is one
	answer semaphore.Answer
}

// Permit is the right to use resources, until [Permit.Release].
type Permit struct {
	of    *Permits
	parts []*entry
	start time.Time
	lose  func()
	lost  bool
	back  bool
}

const patience = 250 * time.Millisecond // with a look

// New returns permits of which this process holds none. It returns the mistakes in
// the caps, joined.
func New(js jetstream.JetStream, c Config) (*Permits, error) {
	p := &Permits{config: c, bucket: bucket(js), log: c.Log, work: make(chan struct{}, 1), all: map[string]*entry{}}
	if p.config.Lease == 0 {
		p.config.Lease = semaphore.DefaultLease
	}
	p.every = min(patience, p.config.Lease/40)
	self := rand.Text()
	var errs []error
	for _, limit := range c.Caps {
		errs = append(errs, limit.Validate())
		if e := p.all[limit.Resource]; e != nil {
			errs = append(errs, fmt.Errorf("cap of %s: %d permits and %d: want one cap for a resource", limit.Resource, e.cap, limit.Permits))
			continue
		}
		e := &entry{name: limit.Resource, cap: limit.Permits, told: limit.Permits, out: map[*Permit]struct{}{}}
		e.Semaphore = semaphore.New(semaphore.Config{
			Resource: limit.Resource, Process: self, Service: c.Service, Cap: limit.Permits, Most: c.Most, Lease: p.config.Lease,
		})
		p.all[e.name] = e
		p.entries = append(p.entries, e)
	}
	slices.SortFunc(p.entries, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, p.instrument(c.Meter)
}

// Take takes one permit of each of the resources, or none. It waits for at most
// 250 ms, and that seldom. Without a permit it returns after which time, drawn at
// random, the task should come again. When a permit is lost before it was released,
// lose is called, once: what it was for is to end. The order of resources is by name
// whatever the caller's is, and nobody waits long, so takers of several cannot block
// each other.
func (p *Permits) Take(resources []string, lose func()) (*Permit, time.Duration) {
	t := &Permit{of: p, lose: lose}
	until := time.Now().Add(patience)
	for _, e := range p.entries {
		if !slices.Contains(resources, e.name) {
			continue
		}
		if delay, ok := p.take(e, t, until); !ok {
			t.Release()
			return nil, delay
		}
	}
	t.start = time.Now()
	return t, 0
}

// take takes a permit of one resource for t.
func (p *Permits) take(e *entry, t *Permit, until time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := e.Take(time.Now())
	if answer == semaphore.Wait {
		answer = p.wait(e, until)
	}
	if answer == semaphore.Refused && e.Soon(len(e.queue)) {
		answer = p.stand(e, until)
	}
	if answer == semaphore.Granted {
		e.out[t] = struct{}{}
		t.parts = append(t.parts, e)
		return 0, true
	}
	e.refused++
	return e.Parked(mathrand.Float64(), e.away, time.Now()), false
}

// wait waits for a look at the record, unless there can be none. p.mu is held, but
// not while it waits.
func (p *Permits) wait(e *entry, until time.Time) semaphore.Answer {
	if e.away {
		return e.Waited(time.Now())
	}
	w := &wait{over: make(chan struct{})}
	e.waits = append(e.waits, w)
	p.wake()
	p.pause(w, until)
	if !w.is {
		e.waits = slices.DeleteFunc(e.waits, func(o *wait) bool { return o == w })
		e.answer(w)
	}
	return w.answer
}

// stand waits for a permit of this process to come back. p.mu is held, but not while
// it waits.
func (p *Permits) stand(e *entry, until time.Time) semaphore.Answer {
	w := &wait{over: make(chan struct{}), answer: semaphore.Refused}
	e.queue = append(e.queue, w)
	p.pause(w, until)
	if !w.is {
		e.queue = slices.DeleteFunc(e.queue, func(o *wait) bool { return o == w })
	}
	return w.answer
}

// serve hands permits that have come back to those who stand for them. mu is held.
func (e *entry) serve() {
	now := time.Now()
	for len(e.queue) > 0 && e.Free(now) {
		_ = e.Take(now) // as Free says
		w := e.queue[0]
		e.queue = e.queue[1:]
		w.is, w.answer = true, semaphore.Granted
		close(w.over)
	}
}

// pause waits for an answer, without p.mu.
func (p *Permits) pause(w *wait, until time.Time) {
	p.mu.Unlock()
	defer p.mu.Lock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-w.over:
	case <-timer.C:
	}
}

// answer ends a wait. mu is held.
func (e *entry) answer(w *wait) {
	if w.is {
		return
	}
	w.is, w.answer = true, e.Waited(time.Now())
	close(w.over)
}

// answerAll ends the waits for a look that has been made, and those that came
// meanwhile as far as there are permits: before somebody comes who did not wait. mu
// is held.
func (e *entry) answerAll(waits []*wait) {
	for _, w := range waits {
		e.answer(w)
	}
	for len(e.waits) > 0 && e.Free(time.Now()) {
		e.answer(e.waits[0])
		e.waits = e.waits[1:]
	}
	e.serve()
}

// Release gives the permit back. It may be called more than once, and on nil.
func (t *Permit) Release() {
	if t == nil {
		return
	}
	p := t.of
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.back {
		return
	}
	t.back = true
	ran := time.Duration(0)
	if !t.start.IsZero() {
		ran = time.Since(t.start)
	}
	for _, e := range t.parts {
		delete(e.out, t)
		if e.Release(ran) {
			p.wake()
		}
		e.serve()
	}
}

// Lost reports whether the permit was lost before it was released.
func (t *Permit) Lost() bool {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	return t.lost
}

// Err returns why permits cannot be leased, as far as it was tried, and nil when they
// can. It wraps [record.ErrNoBucket] or [broker.ErrDenied] when that is the reason.
func (p *Permits) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// wake has the looker look.
func (p *Permits) wake() {
	select {
	case p.work <- struct{}{}:
	default:
	}
}
