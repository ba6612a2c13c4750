package breaker

import "time"

// State of a breaker.
type State string

// The states.
const (
	Closed   State = "closed"
	Open     State = "open"
	HalfOpen State = "half-open"
)

// Record is the last transition of a breaker, as a fleet shares it.
type Record struct {
	Destination string    `json:"destination"`
	State       State     `json:"state"`
	Until       time.Time `json:"until,omitzero"`   // of open: when probes may begin; of half-open: when another process may claim it
	Owner       string    `json:"owner,omitempty"`  // of half-open: the process that probes
	Reason      string    `json:"reason,omitempty"` // why it is open
	By          string    `json:"by,omitempty"`     // the operator who made it so; "" for the fleet itself
	At          time.Time `json:"at"`               // when it became so
}

// same reports whether r and o are of one transition.
func (r Record) same(o Record) bool {
	return r.State == o.State && r.Owner == o.Owner && r.At.Equal(o.At) && r.Until.Equal(o.Until)
}

// Supersedes reports whether r, which one process wants, goes over what the fleet
// has: it is the later one, and does not end sooner what is open as well.
func (r Record) Supersedes(has Record) bool {
	if r.State == Open && has.State == Open && r.By == "" {
		return r.Until.After(has.Until)
	}
	return r.At.After(has.At)
}

// Claimable reports whether a process may make it half-open at this time.
func (r Record) Claimable(now time.Time) bool {
	return r.State != Closed && !now.Before(r.Until)
}

// Claim is the record of a process, the owner, that takes the probes of r.
func (r Record) Claim(owner string, p Policy, now time.Time) Record {
	return Record{Destination: r.Destination, State: HalfOpen, Owner: owner, Until: stamp(now.Add(lease(p))), Reason: r.Reason, At: r.next(now)}
}

// lease is how long an owner may take to come to a verdict: after a task that ran
// longer, or when it died, another process probes.
func lease(p Policy) time.Duration { return min(p.WithDefaults().Open, maxLease) }

const maxLease = 30 * time.Second

// next is when what follows r became so: after r, also where clocks do not say so,
// for the later one holds.
func (r Record) next(now time.Time) time.Time {
	at := stamp(now)
	if !at.After(r.At) {
		at = r.At.Add(1)
	}
	return at
}

// stamp is t as it is read back from JSON.
func stamp(t time.Time) time.Time { return t.UTC().Round(0) }
