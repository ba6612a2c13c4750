// Package retry says what happens to a task whose handler returned an error:
// the backoff between attempts, and the verdicts a handler can return instead of
// leaving it to the backoff.
//
// # Semantics
//
// A plain error burns one attempt; the task waits [Policy.Delay] on a broker
// timer and runs again, until [Policy.Attempts] are spent and it is
// dead-lettered. [Permanent] dead-letters at once. [After] waits as long as it
// says and burns nothing.
//
// # Concurrency
//
// Everything here is a value or a pure function, safe for concurrent use.
package retry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Policy is exponential backoff with full jitter: the delay before attempt n+1
// is uniform in (0, min(Cap, Base·2ⁿ⁻¹)]. Full jitter spreads tasks that failed
// at one instant over the whole window, so that they do not come back as a wave.
// The zero value means 5 attempts, from a base of 1 s, capped at 10 min.
type Policy struct {
	Base     time.Duration // upper bound of the first delay; 0 means 1 s
	Cap      time.Duration // upper bound of every delay; 0 means 10 min
	Attempts int           // handler runs that may end in an error, the first included; 0 means 5
}

const (
	defaultBase     = time.Second
	defaultCap      = 10 * time.Minute
	defaultAttempts = 5
)

// WithDefaults returns p with its zero fields filled in.
func (p Policy) WithDefaults() Policy {
	if p.Base == 0 {
		p.Base = defaultBase
	}
	if p.Cap == 0 {
		p.Cap = max(defaultCap, p.Base)
	}
	if p.Attempts == 0 {
		p.Attempts = defaultAttempts
	}
	return p
}

// Validate returns an error that names every field out of range: negative ones,
// and a Cap below Base.
func (p Policy) Validate() error {
	var errs []error
	if p.Base < 0 {
		errs = append(errs, fmt.Errorf("retry policy: base %v is negative", p.Base))
	}
	if p.Cap < 0 {
		errs = append(errs, fmt.Errorf("retry policy: cap %v is negative", p.Cap))
	}
	if p.Attempts < 0 {
		errs = append(errs, fmt.Errorf("retry policy: %d attempts", p.Attempts))
	}
	if d := p.WithDefaults(); d.Base > 0 && d.Cap < d.Base {
		errs = append(errs, fmt.Errorf("retry policy: cap %v is below base %v", d.Cap, d.Base))
	}
	return errors.Join(errs...)
}

// Delay returns how long to wait after the given number of failed attempts, 1
// for the first. It is random: see [Policy].
func (p Policy) Delay(failed int) time.Duration {
	return time.Duration(rand.Int64N(int64(p.bound(failed)))) + 1
}

// bound is the upper end of the window that Delay draws from.
func (p Policy) bound(failed int) time.Duration {
	p = p.WithDefaults()
	b := p.Base
	for i := 1; i < failed && b < p.Cap; i++ {
		b *= 2
	}
	return min(b, p.Cap)
}

// Spent reports whether the given number of failed attempts leaves none.
func (p Policy) Spent(failed int) bool { return failed >= p.WithDefaults().Attempts }
