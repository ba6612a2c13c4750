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
	idled  bool               // the last request took nothing: none is left that those who wait could use
	tired  demand             // of others, who only want to know when to come back
	used   int                // slots since the last were taken
	missed int                // slots that were over by then
	batch  int                // slots that were taken last
	took   time.Time          // when
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

const sure = 20 * time.Millisecond // to come from here to the start of the handler; or an eighth of the slack

// margin is what a slot is good for at least, when its task is let go.
func margin(p ratelimit.Policy) time.Duration { return min(p.Slack()/8, sure) }

// good is for how long after its time a slot can be used, when the clock is known
// within err.
func good(p ratelimit.Policy, err time.Duration) time.Duration { return p.Slack() - err }

// pop takes a slot that can be used now, or within wait. It returns when that is,
// and how many were lost: they are over.
func (l *line) pop(now reading, wait time.Duration, back bool) (slot time.Time, ok bool, lost int) {
	if !now.ok {
		return time.Time{}, false, 0
	}
	if !back {
		wait = max(0, l.known.Free(l.policy, now.at, wait))
	}
	over := now.at.Add(margin(l.policy) - good(l.policy, now.err))
	for len(l.held) > 0 {
		s := &l.held[0]
		for s.N > 0 && s.First.Before(over) {
			s.Pop()
			l.missed++
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

// short reports whether what is in stock will be used up, or over, before long.
func (l *line) short(now reading) bool {
	if l.batch < 2 || l.known.Next.After(now.at) { // there is none, or none to be had
		return false
	}
	if count(l.held) <= l.batch/2 {
		return true
	}
	s := l.held[len(l.held)-1]
	return s.First.Add(time.Duration(s.N) * s.Step).Before(now.at.Add(-l.policy.Slack() / 3))
}

// idle reports whether nothing of it is worth remembering.
func (l *line) idle(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flight == nil && l.want[0].n+l.want[1].n+l.tired.n == 0 && now.Sub(l.last) > forgetAfter &&
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
	ample     = 4   // times as many slots in stock as were used last
	mostTurns = 16  // in one request, or a hundredth of the limit: those of a process that dies are a gap in the line
	part      = 200 // of the limit, in stock: two of them, when the next ones are taken early
)

// plan is what to take of base for those who wait, and in stock. took is how long
// a request takes: by then a slot should still be good.
func (l *line) plan(base ratelimit.Schedule, now reading, took time.Duration) grant {
	p, g := l.policy, grant{schedule: base}
	slack := p.Slack()
	keep := max(min(slack/2, 50*time.Millisecond), margin(p)+2*now.err+took*3/2)
	if l.missed > 0 && now.local.Sub(l.took) < time.Second { // this process is slower than that
		keep = max(keep, slack)
	}
	keep = min(keep, slack+Patience/2)
	take := func(n int, ahead, keep time.Duration) (without int) {
		s := g.schedule.Reserve(p, now.at, n, ahead, keep)
		if s.N > 0 {
			g.slots = append(g.slots, s)
			g.n += s.N
		}
		return max(0, n-s.N)
	}
	fresh, back := l.want[0], l.want[1]
	have := l.within(now, back.ahead)
	without := take(back.n-have, back.ahead, keep)
	own := min(back.n, have) // of what is held
	free := base.Free(p, now.at, fresh.ahead)
	without += take(fresh.n-max(0, l.within(now, max(0, free))-own), free, keep)
	take(min(ample*l.used, p.Limit/part)-g.n, base.Free(p, now.at, slack/2), slack) // in stock, good for long
	if n := min(without+l.tired.n-count(l.turns), max(mostTurns, 2*p.Limit/part)); n > 0 {
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
func (l *line) granted(g grant, seq uint64, now time.Time) {
	l.known, l.seq = g.schedule, seq
	l.held = append(l.held, g.slots...)
	if g.turns.N > 0 {
		l.turns = append(l.turns, g.turns)
	}
	if g.n > 0 {
		l.used, l.missed, l.batch, l.took = 0, 0, g.n, now
	}
}
