package quota

import (
	"sync"
	"sync/atomic"
	"time"
)

// clock is the broker's, as this process knows it.
type clock struct {
	last atomic.Pointer[sample]

	mu     sync.Mutex
	asked  time.Time // when the broker last said
	doubts bool      // it is to say again
}

// sample is one time that the broker said.
type sample struct {
	at    time.Time     // by the broker's clock
	local time.Time     // then, by this machine's
	err   time.Duration // either way
}

// reading is what time it is.
type reading struct {
	at    time.Time     // by the broker's clock; by this machine's when that is not known
	local time.Time     // by this machine's
	err   time.Duration // either way
	ok    bool          // the broker's is known
}

const (
	askAgain = 30 * time.Second
	drift    = 10_000                // a clock is off by one part in as many
	jump     = 50 * time.Millisecond // between the clocks of a machine, when it slept or was set
)

// on is the sample as it is at now. The monotonic clock stands still while a machine
// sleeps, and the other one can be set: when they disagree, neither is believed.
func (s *sample) on(now time.Time) reading {
	since := now.Sub(s.local)
	slept := time.Duration(now.UnixNano()-s.local.UnixNano()) - since
	return reading{at: s.at.Add(since), local: now, err: s.err + since/drift, ok: slept.Abs() < jump}
}

func (c *clock) now() reading {
	now := time.Now()
	if s := c.last.Load(); s != nil {
		return s.on(now)
	}
	return reading{at: now, local: now}
}

// stale reports whether the broker is to be asked again.
func (c *clock) stale() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doubts || time.Since(c.asked) > askAgain || !c.now().ok
}

// doubt has the broker asked before anything else.
func (c *clock) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubts = true
}

// set takes the answer of the broker to a question asked at before, and heard at
// after. An earlier one is kept when it is more exact and they agree.
func (c *clock) set(before, after, at time.Time) {
	rtt := after.Sub(before)
	s := sample{at: at, local: before.Add(rtt / 2), err: rtt / 2}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.doubts = after, false
	if had := c.last.Load(); had != nil {
		then := had.on(s.local)
		if then.ok && then.err < s.err && s.at.Sub(then.at).Abs() <= then.err+s.err {
			return
		}
	}
	c.last.Store(&s)
}
