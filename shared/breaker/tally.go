package breaker

import "time"

// Tally is what one process counted of a destination since it last told the others.
type Tally struct {
	Destination string        `json:"destination"`
	Failures    int           `json:"failures"`
	Successes   int           `json:"successes,omitempty"`
	Why         string        `json:"why,omitempty"` // of the last failure
	Window      time.Duration `json:"window"`        // ns; of the policy that they were counted with
}

// Tell returns what the others do not know of yet, and takes it for told. It reports
// false when that is nothing, or the breaker is not closed: then nobody counts.
func (b *Breaker) Tell(p Policy) (Tally, bool) {
	t := b.untold
	b.untold = Tally{}
	if b.State() != Closed || t == (Tally{}) {
		return Tally{}, false
	}
	t.Destination, t.Window = b.record.Destination, p.WithDefaults().Window
	return t, true
}

// Hear adds what another process counted, and reports whether that was a transition.
func (b *Breaker) Hear(p Policy, t Tally, now time.Time) bool {
	if b.State() != Closed || t.Failures < 0 || t.Successes < 0 {
		return false
	}
	p = p.WithDefaults()
	b.window.add(now, p.Window, t.Failures, t.Successes)
	return t.Failures > 0 && b.trip(p, t.Why, now)
}

// count takes a call of this process.
func (b *Breaker) count(p Policy, r Result, now time.Time) {
	failures, successes := 0, 1
	if r.Outcome == Failure {
		failures, successes = 1, 0
		b.untold.Why = cut(r.Why)
	}
	b.window.add(now, p.Window, failures, successes)
	b.untold.Failures += failures
	b.untold.Successes += successes
}
