//go:build chaos

package worker_test

import (
	"testing"
	"time"
)

// As TestNodeCutOffUnderLoad, with a node that stays away: its worker and its
// publisher go to another one.
func TestNodeCutOffForLong(t *testing.T) {
	t.Parallel()
	r := newRide(t, cutOffAckWait)
	cut := time.Now()
	w, away, stop := r.cutOff(t)
	until(t, 40*time.Second, "the worker is ready again", func() bool { return w.Ready() == nil })
	t.Logf("the worker was served by another node %v after its own was cut off", time.Since(cut).Round(time.Millisecond))
	r.more(t, 200, 30*time.Second)
	stop()
	r.c.Mend(away)
	r.c.Wait(t)
	r.finish(t, cutOffAckWait+20*time.Second)
}
