// Package quota shares rate limits between the processes of a service: one schedule
// for each key, in the bucket LIMITS. What a schedule allows is in package ratelimit;
// a worker asks here before each start.
//
// # Semantics
//
// A process takes slots of the schedule by compare-and-set, before it starts what
// they are for, and uses each at its time or within the policy's slack. What it does
// not use then is lost, also when it dies: nobody else can have it. It takes what its
// waiting tasks need within [Patience]; and while slots are plenty four times what it used
// of the last ones, at most a hundredth of the limit, so that a busy key costs one
// request for many tasks, and mostly one that nobody waits for.
//
// A task that finds no slot is put in line, in the same record, and comes back on a
// timer at about its turn. Those that come back go before new ones.
//
// # Clock
//
// Slots are times of the broker's clock. Each process asks for it, knows it within
// half of the time that the answer took, and uses slots that much later and less
// long. So clocks of machines may differ. Those of the brokers should not by more
// than some milliseconds: after a change of the bucket's leader a window may hold as
// much more as fits in the difference. A process that stood still, or whose machine
// slept, finds that the slots it held are over.
//
// # Without the bucket
//
// While it is out of reach, what was taken is used, which is at most a hundredth of
// the limit and what waits, and then nothing starts. Tasks are given times to come
// back without a word to others, from 5 s on and spread as if this process had the
// limit alone. The bucket is tried once a second, and the rest is by itself. Records
// of a bucket that was made anew begin where the processes that run know them to be;
// if none does, a window may hold the policy's burst more.
//
// # Limits
//
// While processes disagree about the policy of a key, the highest limit holds.
// Limits of different services know nothing of each other.
//
// # Keys
//
//	rate.<service>.<hash of the key>   a [Record], until it says nothing any more
//
// # Concurrency
//
// All here is safe for concurrent use.
//
// # Errors
//
// [record.ErrNoBucket] and [broker.ErrDenied] are for callers that branch.
package quota

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/telemetry"
)

// Quotas are the limits of one service, as one process sees them. Make them with
// [New]; they are looked after while [Quotas.Run] runs, and let nothing new through
// when it has ended.
type Quotas struct {
	service string
	bucket  record.Bucket
	log     *slog.Logger
	meters  meters
	clock   clock

	took   atomic.Int64 // ns that a request takes, of late
	broken atomic.Bool  // the last one failed
	asks   sync.WaitGroup

	mu     sync.RWMutex
	over   bool             // Run has ended: nobody waits for requests any more
	all    map[string]*line // of keys used lately
	failed error            // why it is broken
	since  time.Time        // when it was last tried, while it is
}

// Patience is how long a task may be told to wait for a slot in memory.
const Patience = 400 * time.Millisecond

const (
	answerLimit = 500 * time.Millisecond // for a task to wait for the bucket
	tickEvery   = time.Second
	again       = time.Second      // between tries while the bucket is out of reach
	forgetAfter = 30 * time.Second // a key that nobody used
)

// New returns the limits of a service. meter may be nil.
func New(js jetstream.JetStream, service string, log *slog.Logger, meter metric.MeterProvider) (*Quotas, error) {
	q := &Quotas{service: service, bucket: bucket(js), log: log, all: map[string]*line{}}
	if err := q.instrument(meter); err != nil {
		return nil, err
	}
	return q, nil
}

// Run looks after the limits until ctx is done, and waits for requests that are
// under way, at most 2 s. It can be called once.
func (q *Quotas) Run(ctx context.Context) {
	defer q.meters.close()
	q.told(q.sync())
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			q.tick()
		case <-ctx.Done():
		}
	}
	q.mu.Lock()
	q.over = true
	q.mu.Unlock()
	q.asks.Wait()
}

// tick forgets keys, and looks whether a bucket that was out of reach is there again.
func (q *Quotas) tick() {
	now := time.Now()
	var idle []*line
	for _, l := range q.lines() {
		if l.idle(now) {
			idle = append(idle, l)
		}
	}
	q.mu.Lock()
	for _, l := range idle { // who took one up meanwhile goes on with it: the bucket holds what counts
		delete(q.all, l.key)
	}
	// Whether what was denied is allowed now, only the same request can say.
	probe := q.broken.Load() && !errors.Is(q.failed, broker.ErrDenied) && !errors.Is(q.failed, errSlow)
	q.mu.Unlock()
	if probe {
		q.told(q.sync())
	}
}

// Err returns nil when limits can be shared, and else why not.
func (q *Quotas) Err() error {
	if !q.broken.Load() {
		return nil
	}
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.failed
}

// told takes how a request went, and tells when that changes.
func (q *Quotas) told(err error) {
	if err == nil && !q.broken.Load() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	ctx, log := context.Background(), q.log.With(slog.String(telemetry.TaskService, q.service))
	switch was := q.failed; {
	case err == nil && was != nil:
		log.InfoContext(ctx, "rate limits are shared again")
	case err != nil && (was == nil || was.Error() != err.Error()):
		log.WarnContext(ctx, "rate limits cannot be shared: tasks that have one wait on timers", slog.Any("error", err))
	}
	q.failed, q.since = err, time.Now()
	q.broken.Store(err != nil)
}

// lines returns what is known of all keys. Quotas.mu is never held while one of
// them is locked, because tasks lock in the other order.
func (q *Quotas) lines() []*line {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return slices.Collect(maps.Values(q.all))
}

// line returns what is known of a key.
func (q *Quotas) line(key string) *line {
	q.mu.RLock()
	l := q.all[key]
	q.mu.RUnlock()
	if l != nil {
		return l
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if l = q.all[key]; l == nil {
		l = &line{key: key}
		q.all[key] = l
	}
	return l
}

// Ask is one task that wants to start.
type Ask struct {
	Policy ratelimit.Policy
	Key    string
	Back   bool          // it was in line, and comes back
	Wait   time.Duration // for which it may be kept waiting for its slot; at most Patience
}

// Answer is what becomes of it.
type Answer struct {
	Admitted bool
	Until    time.Time     // when admitted: not to be started after; see Late
	Delay    time.Duration // when not: in which to ask again
}

// Late reports whether a task that was admitted must not be started any more. The
// monotonic clock stands still while a machine sleeps; the other one can be set.
func (a Answer) Late(now time.Time) bool {
	return now.After(a.Until) || now.Round(0).After(a.Until.Round(0))
}
