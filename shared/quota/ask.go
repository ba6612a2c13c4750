package quota

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/record"
)

const conflicts = 8 // in a row

var (
	errBusy = errors.New("other processes were first each time")
	errSlow = errors.New("the broker takes too long to say what time it is")
)

// ask begins a request for those who wait at l, and returns what is closed when it
// has ended. l.mu is held.
func (q *Quotas) ask(l *line) chan struct{} {
	if l.flight != nil {
		return l.flight
	}
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.over {
		return make(chan struct{}) // nobody answers
	}
	done := make(chan struct{})
	l.flight = done
	q.asks.Go(func() {
		err := q.reserve(l)
		q.meters.asked(err)
		if !errors.Is(err, errBusy) {
			q.told(err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.flight = nil
		close(done)
	})
	return done
}

// reserve takes slots, and times to come back, for those who wait at l.
func (q *Quotas) reserve(l *line) error {
	began := time.Now()
	if q.clock.stale() {
		if err := q.sync(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	seq, alone := l.seq, l.alone
	l.mu.Unlock()
	for try := range conflicts {
		if !alone {
			var has Record
			at, err := q.bucket.Get(context.Background(), id(q.service, l.key), &has)
			if err != nil {
				q.clock.doubt() // the next request says what is wrong
				return err
			}
			seq = at
			l.learn(has.Schedule)
		}
		g, next, ttl, err := q.plan(l)
		if err != nil || next.Limit == 0 {
			return err
		}
		stored, err := q.bucket.Put(context.Background(), id(q.service, l.key), next, ttl, seq)
		if errors.Is(err, record.ErrConflict) {
			q.meters.conflict()
			alone = false
			pause(time.Duration(rand.Int64N(int64(try+1)*q.took.Load()/4 + 1)))
			continue
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil { // it may have been written all the same: what it took is lost
			l.alone = false
			q.clock.doubt()
			return err
		}
		l.alone = l.seq == seq
		now := time.Now()
		l.granted(g, stored, now)
		q.took.Store((3*q.took.Load() + int64(now.Sub(began))) / 4)
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alone = false
	return errBusy
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

// learn takes what the bucket says of the key. What this process knows beyond that
// was in a bucket that is no more, or is not told yet.
func (l *line) learn(has ratelimit.Schedule) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.Merge(has)
}

// plan is what to write, and for how long. The record is zero when there is nothing
// to take.
func (q *Quotas) plan(l *line) (g grant, r Record, ttl time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := q.clock.now()
	if !now.ok || good(l.policy, now.err)-margin(l.policy) <= now.err {
		q.clock.doubt()
		return g, r, 0, fmt.Errorf("%w (%v): a limit of %d per %v wants less than %v; a higher Burst allows more",
			errSlow, 2*now.err, l.policy.Limit, l.policy.Per, l.policy.Slack()-margin(l.policy))
	}
	l.idled = false
	g = l.plan(l.known, now, time.Duration(q.took.Load()))
	if g.n == 0 && g.turns.N == 0 {
		l.idled = l.want[0].n+l.want[1].n > 0
		return g, r, 0, nil
	}
	r = Record{Key: short(l.key), Limit: l.policy.Limit, Per: l.policy.Per, Schedule: g.schedule}
	ttl = keepFor + l.policy.Slack()
	for _, t := range []time.Time{g.schedule.Next, g.schedule.Line} {
		ttl = max(ttl, t.Sub(now.at)+keepFor+l.policy.Slack())
	}
	return g, r, ttl, nil
}

// sync asks the broker what time it is.
func (q *Quotas) sync() error {
	before := time.Now()
	at, err := q.bucket.Time(context.Background())
	if err != nil {
		return err
	}
	q.clock.set(before, time.Now(), at)
	return nil
}
