// Package breaker decides when a destination is left alone: the state machine of a
// circuit breaker whose state a fleet shares. It knows no broker and no clock;
// package circuit shares what it decides, and package worker asks it.
//
// # Semantics
//
//	closed     calls go through; failures are counted over a rolling window
//	open       no call goes through until its end
//	half-open  one process, the owner, lets a few probes through
//
// A closed breaker opens when the window holds [Policy.Failures] failures that are
// at least [Policy.Rate] of its calls, or when the destination asks for a pause. An
// open one whose end has come becomes half-open by the first process that claims it.
// When all [Policy.Probes] probes succeed it closes; when one fails it opens again.
// A result of a call that began before the last transition counts for nothing.
//
// A process counts its own calls at once, and those of the others as it hears of them
// ([Breaker.Tell], [Breaker.Hear]); the first one for which it is enough opens the
// breaker for all. So what reaches a dead destination is the failures to open, what was in
// flight or not yet told by then, and the probes. A process that hears nothing opens
// on failures of its own: then it is that for each of them.
//
// # Concurrency
//
// A [Breaker] is not safe for concurrent use. All else here is a value.
package breaker

import (
	"errors"
	"fmt"
	"time"
)

// Policy says when a breaker opens, and how it closes again. The zero value means
// 10 failures, which are half of the calls, within 1 min; open for 5 min; 3 probes.
type Policy struct {
	Failures int           // in the window, to open; 0 means 10
	Rate     float64       // of the calls in the window that must have failed as well, in (0, 1]; 0 means 0.5
	Window   time.Duration // over which calls are counted; 0 means 1 min
	Open     time.Duration // how long it stays open; 0 means 5 min
	Probes   int           // calls in each half-open period, which all have to succeed; 0 means 3

	// Spread is the time over which tasks that wait for the end come back, so that
	// their return is no wave. 0 means Open, but at most 1 min.
	Spread time.Duration
}

const (
	defaultFailures = 10
	defaultRate     = 0.5
	defaultWindow   = time.Minute
	defaultOpen     = 5 * time.Minute
	defaultProbes   = 3
	maxSpread       = time.Minute // unless the policy says more
	maxOpen         = 24 * time.Hour
)

// WithDefaults returns p with its zero fields filled in.
func (p Policy) WithDefaults() Policy {
	if p.Failures == 0 {
		p.Failures = defaultFailures
	}
	if p.Rate == 0 {
		p.Rate = defaultRate
	}
	if p.Window == 0 {
		p.Window = defaultWindow
	}
	if p.Open == 0 {
		p.Open = defaultOpen
	}
	if p.Probes == 0 {
		p.Probes = defaultProbes
	}
	if p.Spread == 0 {
		p.Spread = min(p.Open, maxSpread)
	}
	return p
}

// Validate returns an error that names every field out of range.
func (p Policy) Validate() error {
	var errs []error
	if p.Failures < 0 || p.Probes < 0 {
		errs = append(errs, fmt.Errorf("breaker policy: %d failures and %d probes: neither can be negative", p.Failures, p.Probes))
	}
	if !(p.Rate >= 0 && p.Rate <= 1) {
		errs = append(errs, fmt.Errorf("breaker policy: rate %v: want more than 0 and at most 1", p.Rate))
	}
	if p.Window < 0 || p.Spread < 0 {
		errs = append(errs, fmt.Errorf("breaker policy: window %v and spread %v: neither can be negative", p.Window, p.Spread))
	}
	if p.Open < 0 || p.Open > maxOpen {
		errs = append(errs, fmt.Errorf("breaker policy: open for %v: want at most %v", p.Open, maxOpen))
	}
	return errors.Join(errs...)
}
