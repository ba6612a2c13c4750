package breaker

import "time"

// Tally is what one process counted of a destination since it last told the others.
type Tally struct {
	Destination string        `json:"destination"`
	Failures    int           `json:"failures"`
	Successes   int           `json:"successes,omitempty"`
	Window      time.Duration `json:"window"` // ns; of the policy that they were counted with
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

// Hear adds what another process counted. It makes no transition: the next failure
// of a call of this process does.
func (b *Breaker) Hear(p Policy, t Tally, now time.Time) {
	if b.State() != Closed || t.Failures < 0 || t.Successes < 0 {
		return
	}
	b.window.add(now, p.WithDefaults().Window, t.Failures, t.Successes)
}

// count takes a call of this process.
func (b *Breaker) count(p Policy, failed bool, now time.Time) {
	failures, successes := 0, 1
	if failed {
		failures, successes = 1, 0
	}
	b.window.add(now, p.Window, failures, successes)
	b.untold.Failures += failures
	b.untold.Successes += successes
}
