// Package semaphore decides how the processes of a fleet share a number of permits:
// how many each leases, when it renews them, gives some up, or takes over those of a
// process that is gone. It is pure: it knows the time and the record of the fleet
// from its caller, and writes nothing. Package permit keeps the record in a bucket.
//
// # Semantics
//
// A [Record] says how many permits each process holds. A process writes it by
// compare-and-set, after a read, and never so that all together hold more than the
// cap: so the sum is never above it, whatever the processes think of each other.
// Where they were built with different caps, the smallest of those that hold or want
// permits holds.
//
// Permits are leased. A process may use its own for nine tenths of the lease after it
// sent the write that was answered last; the others leave them alone for a whole
// lease after they first saw that write. Both count on monotonic clocks of their own,
// so clocks need not agree, only run alike. Of a process that is gone, the permits
// are therefore free again one lease after somebody who wants them has looked.
//
// When all want more than there is, each is due the same number (see share.go). Who
// holds more gives up what it does not use, and of the rest each as its task ends.
// What somebody is due and does not take within a second is for the others.
//
// # Concurrency
//
// A Semaphore is not safe for concurrent use.
package semaphore

import "time"

// Config is what one process is to know of one resource.
type Config struct {
	Resource string
	Process  string // unique in the fleet, and never used again
	Service  string
	Cap      int           // permits of all processes together, at least 1
	Most     int           // permits that this process can use at once; it asks for no more
	Lease    time.Duration // 0 means [DefaultLease]
}

// DefaultLease is how long permits stay with a process that is not heard of. An
// election of the broker's leader takes 6 to 8 s: a lease must survive one.
const DefaultLease = 20 * time.Second

// Semaphore is what one process knows of one resource. Make one with [New].
type Semaphore struct {
	config Config
	beat   uint64 // of the last write

	used      int       // permits in use, lost ones included until they are back
	held      int       // permits that are leased
	quota     int       // of them, as many as may be in use: the others are due to somebody else
	due       int       // permits that were its share at the last look
	confirmed time.Time // the lease runs from here: monotonic
	gained    time.Time // when permits were handed out last
	lost      bool      // the lease ran out, and [Semaphore.Lapsed] has not said so yet

	recorded Holder // this process in the record, as of the last look
	looked   time.Time
	wrote    time.Time
	full     bool // the last look brought less than was wanted
	least    int  // the cap that holds, as of the last look
	seen     map[string]sighting
	room     int       // permits that nobody held at the last look
	roomTurn uint64    // with this turn
	roomAt   time.Time // since then there was some

	demand demand
	parked parked
	closed bool
}

// sighting is what is known of another process.
type sighting struct {
	beat   uint64
	at     time.Time // when this beat was seen first: monotonic
	absent bool      // it did not take what it was due
}

const (
	heartbeats = 3            // in a lease
	handOver   = time.Second  // to take what one is due
	quantum    = handOver / 4 // for which who has its turn keeps it
	fresh      = time.Second  // how long what a look found is taken for true
	hurry      = 250 * time.Millisecond
	soon       = hurry / 2 // to wait for a permit
)

// New returns a semaphore of which this process holds nothing.
func New(c Config) *Semaphore {
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	return &Semaphore{config: c, seen: map[string]sighting{}, least: c.Cap}
}

// Answer is what becomes of a task that asks for a permit.
type Answer int

// The answers.
const (
	Granted Answer = iota // it has one, until [Semaphore.Release]
	Wait                  // there may be one after a look: see [Semaphore.Waited]
	Refused               // there is none
)

// Take asks for one permit.
func (s *Semaphore) Take(now time.Time) Answer {
	switch {
	case s.closed:
		return Refused
	case s.Free(now):
		s.used++
		s.demand.uses(s.used, now)
		return Granted
	case s.full && now.Sub(s.looked) < fresh:
		s.demand.refused(now)
		return Refused
	}
	s.demand.waiting++
	s.demand.uses(s.used, now)
	return Wait
}

// Waited ends a wait: with a permit if there is one now.
func (s *Semaphore) Waited(now time.Time) Answer {
	s.demand.waiting--
	if s.Free(now) {
		s.used++
		return Granted
	}
	s.demand.refused(now)
	return Refused
}

// Free reports whether the next task is granted a permit.
func (s *Semaphore) Free(now time.Time) bool { return !s.closed && s.used < s.quota && s.good(now) }

// Release takes a permit back that was in use for this long, also one that was lost
// meanwhile; 0 says nothing about how long that takes. It reports whether it is due to somebody else: then it is time to look.
func (s *Semaphore) Release(ran time.Duration) bool {
	s.used--
	if ran > 0 {
		s.demand.held(ran)
	}
	return s.held > s.quota && s.held > s.used
}

// Lapsed reports, once, that the lease has run out: what is in use is to be ended.
func (s *Semaphore) Lapsed(now time.Time) bool {
	if s.held > 0 && !s.good(now) {
		s.Lose()
	}
	was := s.lost
	s.lost = false
	return was
}

// Lose gives up the lease, because its clock cannot be trusted.
func (s *Semaphore) Lose() {
	s.lost = s.held > 0 || s.lost
	s.held, s.quota = 0, 0
}

// good reports whether what is leased may be used. A tenth less than the others
// wait, so that handlers have ended by then.
func (s *Semaphore) good(now time.Time) bool {
	return s.held > 0 && now.Sub(s.confirmed) < s.config.Lease-s.config.Lease/10
}

// Close has all permits given up as they come back, and no more granted.
func (s *Semaphore) Close() { s.closed = true }

// Soon reports whether a task that was refused does better to wait for a permit of
// this process to come back than to be parked: when tasks are short, and no more than
// queued wait already.
func (s *Semaphore) Soon(queued int) bool {
	n := min(s.quota, s.config.Most/4)
	return queued < n && s.demand.mean > 0 && s.demand.mean*time.Duration(queued+1) <= soon*time.Duration(n)
}

// Parked returns when a task that was refused should come again: spread over half the
// time that those before it take, which is from 1 to 30 s. Half, so that there is one
// for most of the permits that come back. draw is a random number from 0 to 1, and
// away that the record could not be read.
func (s *Semaphore) Parked(draw float64, away bool, now time.Time) time.Duration {
	least, each := time.Second, max(s.demand.mean, 10*time.Millisecond)/time.Duration(max(s.quota, 1))
	if away {
		least, each = 5*time.Second, time.Millisecond
	}
	over := float64(each) * float64(s.parked.count(now)+1) / 2
	over = min(max(over, float64(least)), float64(longest))
	d := hurry + time.Duration(draw*over)
	s.parked.add(now.Add(d), now)
	return d
}

// State is what a semaphore is to tell.
type State struct {
	Used int // permits in use
	Held int // permits that are leased
	Cap  int // the smallest of all processes, as of the last look
}

// State returns what there is to tell.
func (s *Semaphore) State() State { return State{Used: s.used, Held: s.held, Cap: s.least} }
