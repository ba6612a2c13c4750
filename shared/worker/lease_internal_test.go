package worker

import (
	"errors"
	"testing"
	"time"
)

// A process that stood still past the end of a time limit, and of the grace after
// it, finds both at once. Its handler is cancelled first, and has the grace from
// then on.
func TestGraceBeginsWhenHandlerHears(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := &lane{w: &Worker{config: config{grace: time.Second}}, ackWait: time.Hour}
	l.sources = []*source{{lane: l}}
	l.held.init()
	l.draining.Store(true) // it asks for no more
	d := &delivery{phase: phaseRunning, confirmed: now, extended: now, limit: now.Add(-time.Minute)}
	l.held.add(d)
	l.tend(now, 0)
	if d.phase != phaseRunning || !errors.Is(d.ctx.cause, ErrTimeLimit) || !d.limit.Equal(now) {
		t.Errorf("phase %v, cause %v, its grace runs from %v, want it cancelled for %v and still running, from %v",
			d.phase, d.ctx.cause, d.limit, ErrTimeLimit, now)
	}
}
