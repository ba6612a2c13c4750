package quota

import (
	"testing"
	"time"

	"github.com/droverhq/drover/shared/ratelimit"
)

// What a process holds is used from its time until its end, less what it may take
// to come to the start of the handler; what is kept for those in line is not for others.
func TestPop(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := ratelimit.Policy{Limit: 100, Per: 100 * time.Second} // good for 2 s, 1.02 s apart
	for _, tt := range []struct {
		name   string
		now    time.Duration // from the first of three slots
		err    time.Duration // of the clock
		wait   time.Duration
		back   bool
		inLine bool
		want   time.Duration // of the slot; -1 for none
		lost   int
	}{
		{name: "at its time", want: 0},
		{name: "before", now: -ms, want: -1},
		{name: "before, and can wait", now: -ms, wait: ms, want: 0},
		{name: "perhaps before", now: ms, err: 2 * ms, want: -1},
		{name: "just in time", now: 1980 * ms, want: 0},
		{name: "too late", now: 1981 * ms, want: 1020 * ms, lost: 1},
		{name: "perhaps too late", now: 1979 * ms, err: 2 * ms, want: 1020 * ms, lost: 1},
		{name: "after all of it", now: time.Hour, want: -1, lost: 3},
		{name: "for those in line", now: -ms, wait: ms, inLine: true, want: -1},
		{name: "who come back", now: -ms, wait: ms, inLine: true, back: true, want: 0},
	} {
		l := line{policy: p, held: []ratelimit.Slots{{First: begin, Step: p.Spacing(), N: 2}, {First: begin.Add(2 * p.Spacing()), Step: p.Spacing(), N: 1}}}
		now := begin.Add(tt.now)
		if tt.inLine {
			l.known = ratelimit.Schedule{Kept: begin, From: begin, Line: begin.Add(time.Minute), Step: time.Second}
		}
		slot, ok, lost := l.pop(reading{at: now, local: now, err: tt.err, ok: true}, tt.wait, tt.back)
		if got := slot.Sub(begin); ok != (tt.want >= 0) || ok && got != tt.want || lost != tt.lost {
			t.Errorf("%s: pop() = %v, %v, %d lost; want %v and %d lost", tt.name, got, ok, lost, tt.want, tt.lost)
		}
		if _, ok, _ := l.pop(reading{at: now, local: now}, time.Hour, true); ok {
			t.Errorf("%s: pop() gives a slot to a process that does not know the time", tt.name)
		}
	}
}
