package quota

import (
	"testing"
	"testing/synctest"
	"time"
)

// The broker's clock is an hour ahead of this machine's.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const off, ms = time.Hour, time.Millisecond
		var c clock
		if r := c.now(); r.ok || !c.stale() {
			t.Errorf("now() before the broker was asked = %+v, want it not to be known", r)
		}
		for _, tt := range []struct {
			name     string
			wait     time.Duration // before the answer
			rtt, off time.Duration // of the answer
			want     time.Duration // by which the broker's clock is ahead
			err      time.Duration
		}{
			{"the first answer", 0, 20 * ms, off, off, 10 * ms},
			{"a less exact one that agrees", 0, 40 * ms, off + 5*ms, off, 10*ms + 4*time.Microsecond},
			{"a more exact one", 0, 2 * ms, off + 3*ms, off + 3*ms, ms},
			{"a less exact one that does not agree", 0, 20 * ms, off + 50*ms, off + 50*ms, 10 * ms},
			{"what was exact long ago", 1000 * time.Second, 100 * ms, off + 50*ms, off + 50*ms, 50 * ms},
		} {
			time.Sleep(tt.wait)
			before := time.Now()
			time.Sleep(tt.rtt)
			c.set(before, time.Now(), before.Add(tt.rtt/2+tt.off))
			r := c.now()
			if ahead := time.Until(r.at); !r.ok || ahead != tt.want || (r.err-tt.err).Abs() > 10*time.Microsecond {
				t.Errorf("%s: %v ahead within %v, ok %v; want %v within %v", tt.name, ahead, r.err, r.ok, tt.want, tt.err)
			}
			if c.stale() {
				t.Errorf("%s: stale at once", tt.name)
			}
		}
		time.Sleep(31 * time.Second)
		if !c.stale() {
			t.Error("not stale after 31 s")
		}
	})
}
