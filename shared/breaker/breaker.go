package breaker

import (
	"fmt"
	"strings"
	"time"
)

// Breaker is what one process knows of one destination. Make one with [New].
type Breaker struct {
	record  Record // the last transition that this process knows of
	window  window // of the fleet's calls, as far as they are known here
	untold  Tally  // of them, those of this process that the others do not know of
	epoch   uint64 // counts transitions
	mine    bool   // half-open, and this process probes
	permits int    // probes left
	out     int    // probes under way
	passed  int    // probes that succeeded
	first   int    // calls that came to be told to come back soon, since the end of the open time
}

// New returns the closed breaker of a destination.
func New(destination string) Breaker {
	return Breaker{record: Record{Destination: destination}}
}

// Ticket is one call that was let through, until [Breaker.Done].
type Ticket struct {
	epoch uint64
	probe bool
}

// Verdict is what becomes of a call.
type Verdict struct {
	Admitted bool
	Ticket   Ticket // when admitted

	// When not: it is to come back at a time drawn from [From, From+Over].
	From, Over time.Duration

	// Claim says that the breaker may become half-open and nobody probes: the
	// process should claim it.
	Claim bool
}

// Result is how a call went.
type Result struct {
	Outcome Outcome
	After   time.Duration // of Asked: how long the destination wants to be left alone
	Why     string        // of Failure and Asked, for the record
}

// Outcome is what a call says of its destination.
type Outcome int

// The outcomes.
const (
	Neutral Outcome = iota // nothing
	Success                // it works
	Failure                // it does not
	Asked                  // it wants to be left alone for a while
)

const (
	soon     = time.Second // for a claim to be answered
	leastAsk = time.Second // that is shared: less is between the task and its timer
)

// State returns what the breaker is in.
func (b *Breaker) State() State {
	if b.record.State == "" {
		return Closed
	}
	return b.record.State
}

// Record returns the last transition. Its State is "" when there was none.
func (b *Breaker) Record() Record { return b.record }

// Admit decides about one call at now.
func (b *Breaker) Admit(p Policy, now time.Time) Verdict {
	p = p.WithDefaults()
	if b.State() == Closed {
		return Verdict{Admitted: true, Ticket: Ticket{epoch: b.epoch}}
	}
	if b.mine && b.permits > 0 {
		b.permits--
		b.out++
		return Verdict{Admitted: true, Ticket: Ticket{epoch: b.epoch, probe: true}}
	}
	left := b.record.Until.Sub(now)
	switch {
	case left <= 0 && !b.mine:
		// The first ones will be the probes, so that a destination that is called
		// rarely does not wait for the whole spread.
		v := Verdict{From: soon, Claim: true}
		if b.first++; b.first > p.Probes {
			v.Over = p.Spread
		}
		return v
	case b.record.State == Open:
		return Verdict{From: left, Over: p.Spread}
	}
	return Verdict{From: soon, Over: p.Spread}
}

// Done takes the result of an admitted call, and reports whether that was a
// transition.
func (b *Breaker) Done(p Policy, t Ticket, r Result, now time.Time) bool {
	p = p.WithDefaults()
	current := t.epoch == b.epoch
	if t.probe && current {
		b.out--
	}
	if r.Outcome == Asked && r.After >= leastAsk {
		until := now.Add(min(r.After, maxOpen))
		if b.State() == Open && until.Sub(b.record.Until) < leastAsk {
			return false
		}
		b.open(until, r.Why, now)
		return true
	}
	if !current {
		return false
	}
	if t.probe {
		return b.probed(p, r, now)
	}
	if r.Outcome != Success && r.Outcome != Failure {
		return false
	}
	b.count(p, r, now)
	return r.Outcome == Failure && b.trip(p, r.Why, now)
}

// trip opens a closed breaker whose window holds enough failures. why is of the last
// one.
func (b *Breaker) trip(p Policy, why string, now time.Time) bool {
	failures, calls := b.window.count()
	if failures < p.Failures || float64(failures) < p.Rate*float64(calls) {
		return false
	}
	b.open(now.Add(p.Open), fmt.Sprintf("%d of %d calls failed within %v, the last one: %s", failures, calls, p.Window, why), now)
	return true
}

func (b *Breaker) probed(p Policy, r Result, now time.Time) bool {
	switch r.Outcome {
	case Failure:
		b.open(now.Add(p.Open), "a probe failed: "+r.Why, now)
		return true
	case Success:
		if b.passed++; b.passed >= p.Probes {
			b.close(now)
			return true
		}
	default: // it says nothing: the next one may
		b.permits++
	}
	return false
}

// Claimed makes it half-open with the record of [Record.Claim].
func (b *Breaker) Claimed(p Policy, r Record) {
	b.turn(r)
	b.mine, b.permits = true, p.WithDefaults().Probes
}

// Adopt takes a record of the fleet, and reports whether it was news.
func (b *Breaker) Adopt(r Record) bool {
	if b.record.same(r) || b.State() == Closed && r.State == Closed {
		return false
	}
	b.turn(r)
	return true
}

// Tick does what time alone does, and reports whether that was a transition. It is
// to be called once a second or so.
func (b *Breaker) Tick(p Policy, now time.Time) bool {
	if !b.mine || b.record.Until.Sub(now) > lease(p)/2 {
		return false
	}
	switch {
	case b.out > 0: // a probe takes long
		b.record.Until, b.record.At = stamp(now.Add(lease(p))), b.record.next(now)
		return true
	case now.Before(b.record.Until):
		return false
	case b.passed > 0: // as many as came
		b.close(now)
		return true
	}
	b.mine, b.permits = false, 0 // nobody came: whoever gets the next call probes
	return false
}

// Idle reports whether there is nothing to remember.
func (b *Breaker) Idle(p Policy, now time.Time) bool {
	b.window.forward(now, p.WithDefaults().Window)
	failures, _ := b.window.count()
	if b.State() == Closed {
		return failures == 0
	}
	return now.Sub(b.record.Until) > forgetAfter
}

const forgetAfter = time.Hour // the end of an open time without a call

func (b *Breaker) open(until time.Time, why string, now time.Time) {
	b.turn(Record{Destination: b.record.Destination, State: Open, Until: stamp(until), Reason: cut(why), At: b.record.next(now)})
}

func (b *Breaker) close(now time.Time) {
	b.turn(Record{Destination: b.record.Destination, State: Closed, At: b.record.next(now)})
}

// turn makes a transition: what is under way counts for nothing afterwards.
func (b *Breaker) turn(r Record) {
	*b = Breaker{record: r, epoch: b.epoch + 1}
}

const maxReason = 300 // bytes

func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "") + "…"
}
