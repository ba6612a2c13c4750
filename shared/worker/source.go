package worker

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// source is one durable consumer from which a lane takes. Most lanes have one; that
// of a fair class has one for each partition, and one for tasks without a tenant.
type source struct {
	lane      *lane
	durable   string
	pulling   string // what the worker is doing, in trouble, when it asks this one
	consuming string // and when it waits for what this one should bring

	// Guarded by lane.mu.
	pulls   [2]pull
	waiting queue     // deliveries that wait for a slot
	taken   int64     // deliveries that came
	empty   time.Time // when it was last seen to have no more; of a fair class only
}

// addSource has the lane take from one more consumer.
func (l *lane) addSource(info *jetstream.ConsumerInfo, fair bool) {
	s := &source{lane: l, durable: info.Name, pulling: pulling, consuming: consuming}
	if fair {
		s.pulling, s.consuming = pulling+" of "+s.durable, consuming+" of "+s.durable
	}
	for i := range s.pulls {
		s.pulls[i].source = s
		s.pulls[i].inbox = fmt.Sprintf("%s.pull%d.", l.inbox, len(l.sources)*len(s.pulls)+i)
	}
	l.sources = append(l.sources, s)
}

// subscribe has p brought what it asks for.
func (p *pull) subscribe() error {
	sub, err := p.source.lane.w.nc.Subscribe(p.inbox+"*", func(m *nats.Msg) { p.source.lane.arrive(p, m) })
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // what was asked for bounds it
	}
	if err != nil {
		return fmt.Errorf("subscribe for tasks of %s: %w", p.source.durable, err)
	}
	p.sub = sub
	return nil
}

// outstanding is how many deliveries its pulls may still bring. lane.mu is held.
func (s *source) outstanding() int { return s.pulls[0].left + s.pulls[1].left }

// free is a pull that may be sent, or nil. lane.mu is held.
func (s *source) free(now time.Time) *pull {
	for i := range s.pulls {
		if p := &s.pulls[i]; p.left == 0 && p.doubt.IsZero() && !now.Before(p.notBefore) {
			return p
		}
	}
	return nil
}

// allPulls calls f with every pull of the lane. l.mu is held where f needs it.
func (l *lane) allPulls(f func(*pull)) {
	for _, s := range l.sources {
		for i := range s.pulls {
			f(&s.pulls[i])
		}
	}
}

// queue is what came from one source and waits for a slot, in the order of arrival.
// lane.mu guards it.
type queue struct {
	first, last *delivery
	n           int
}

func (q *queue) add(d *delivery) {
	if q.last == nil {
		q.first = d
	} else {
		q.last.behind = d
	}
	q.last = d
	q.n++
}

// take removes the first, and returns nil when there is none.
func (q *queue) take() *delivery {
	d := q.first
	if d == nil {
		return nil
	}
	if q.first = d.behind; q.first == nil {
		q.last = nil
	}
	d.behind = nil
	q.n--
	return d
}
