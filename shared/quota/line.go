package quota

import (
	"sync"
	"time"

	"github.com/droverhq/drover/shared/ratelimit"
)

// line is what this process knows and has of one key.
type line struct {
	key string

	mu     sync.Mutex
	policy ratelimit.Policy   // of who asked last
	held   []ratelimit.Slots  // taken and not used yet
	turns  []ratelimit.Slots  // times to come back, for tasks of this process
	known  ratelimit.Schedule // as it was last seen
	seq    uint64             // of the record, when known is what it says
	alone  bool               // nobody else has written it since this process did
	want   [2]demand          // who waits: new ones, and those that were in line
	used   int                // slots since the last were taken
	batch  int                // slots that were taken last
	flight chan struct{}      // closed when the request that is under way has ended; nil for none
	last   time.Time          // when somebody asked
}

// demand is the tasks that wait for a request to end.
type demand struct {
	n     int
	ahead time.Duration // for which the most patient of them can wait
}

func class(a Ask) int {
	if a.Back {
		return 1
	}
	return 0
}

const late = 20 * time.Millisecond // before its end, from which on a slot is not used; or an eighth of the slack

// margin is what a slot is good for at least, when its task is let go.
func margin(p ratelimit.Policy) time.Duration { return min(p.Slack()/8, late) }

// good is for how long after its time a slot can be used, when the clock is known
// within err.
func good(p ratelimit.Policy, err time.Duration) time.Duration { return p.Slack() - err - margin(p) }

// pop takes a slot that can be used now, or within wait. It returns when that is,
// and how many were lost: they are over.
func (l *line) pop(now reading, wait time.Duration, back bool) (slot time.Time, ok bool, lost int) {
	if !now.ok {
		return time.Time{}, false, 0
	}
	if !back && l.known.Busy(now.at) {
		wait = 0 // what lies ahead is for those in line
	}
	over := now.at.Add(-good(l.policy, now.err))
	for len(l.held) > 0 {
		s := &l.held[0]
		for s.N > 0 && s.First.Before(over) {
			s.Pop()
			lost++
		}
		if s.N == 0 {
			l.held = l.held[1:]
			continue
		}
		if s.First.Add(now.err).After(now.at.Add(wait)) {
			return time.Time{}, false, lost
		}
		l.used++
		return s.Pop(), true, lost
	}
	return time.Time{}, false, lost
}

// turn takes a time to come back.
func (l *line) turn(now time.Time) (time.Time, bool) {
	for len(l.turns) > 0 {
		for s := &l.turns[0]; s.N > 0; {
			if at := s.Pop(); at.After(now) {
				return at, true
			}
		}
		l.turns = l.turns[1:]
	}
	return time.Time{}, false
}

// idle reports whether nothing of it is worth remembering.
func (l *line) idle(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flight == nil && l.want[0].n+l.want[1].n == 0 && now.Sub(l.last) > forgetAfter &&
		!l.known.Busy(now) && now.After(l.known.Next)
}

// grant is what one request takes.
type grant struct {
	schedule ratelimit.Schedule // as it is to be
	slots    []ratelimit.Slots
	turns    ratelimit.Slots
	n        int // slots
}

const (
	mostTurns = 16 // in one request, or a hundredth of the limit: those of a process that dies are a gap in the line
	part      = 100
)

// plan is what to take of base for those who wait, and in stock. took is how long
// a request takes: by then a slot should still be good.
func (l *line) plan(base ratelimit.Schedule, now reading, took time.Duration) grant {
	p, g, busy := l.policy, grant{schedule: base}, base.Busy(now.at)
	slack := p.Slack()
	keep := max(min(slack/4, 50*time.Millisecond), margin(p)+2*now.err+2*took)
	keep = min(keep, slack+Patience/2)
	take := func(n int, ahead time.Duration) (without int) {
		s := g.schedule.Reserve(p, now.at, n, ahead, keep)
		if s.N > 0 {
			g.slots = append(g.slots, s)
			g.n += s.N
		}
		return max(0, n-s.N)
	}
	fresh, back := l.want[0], l.want[1]
	have := l.within(now, back.ahead)
	without := take(back.n-have, back.ahead)
	own := min(back.n, have) // of what is held
	if busy {
		without += take(fresh.n-max(0, l.within(now, 0)-own), -slack/2) // what those in line have left
	} else {
		without += take(fresh.n-max(0, l.within(now, fresh.ahead)-own), fresh.ahead)
		take(min(2*l.used, p.Limit/part)-count(l.held)-g.n, 0)
	}
	if n := min(without-count(l.turns), max(mostTurns, p.Limit/part)); n > 0 {
		g.turns = g.schedule.Queue(p, now.at, n, 0)
	}
	return g
}

// within counts the slots that are held and can be used within ahead.
func (l *line) within(now reading, ahead time.Duration) (n int) {
	for _, s := range l.held {
		if room := now.at.Add(ahead - now.err).Sub(s.First); s.N > 0 && room >= 0 {
			n += min(s.N, int(room/s.Step)+1)
		}
	}
	return n
}

func count(all []ratelimit.Slots) (n int) {
	for _, s := range all {
		n += s.N
	}
	return n
}

// granted takes what was written.
func (l *line) granted(g grant, seq uint64) {
	l.known, l.seq = g.schedule, seq
	l.held = append(l.held, g.slots...)
	if g.turns.N > 0 {
		l.turns = append(l.turns, g.turns)
	}
	if g.n > 0 {
		l.used, l.batch = 0, g.n
	}
}
