package semaphore

import "time"

// demand remembers how many permits there was use for, over the last two spans of a
// length that fits the tasks: an idle permit of tasks that take minutes is worth
// keeping for longer than one of tasks that take milliseconds.
type demand struct {
	waiting     int // tasks that wait for a look
	now, before int // the most of either span
	turned      time.Time
	mean        time.Duration // for which a permit is in use
}

const (
	leastSpan = 2 * time.Second
	longest   = 30 * time.Second // span, and delay of a parked task
)

// span is a tenth of what a task takes, so that at most a fifth is lost by waiting
// for one that does not come.
func (d *demand) span() time.Duration { return min(max(d.mean/10, leastSpan), longest) }

func (d *demand) turn(now time.Time) {
	switch over := now.Sub(d.turned); {
	case over >= 2*d.span():
		d.now, d.before, d.turned = 0, 0, now
	case over >= d.span():
		d.now, d.before, d.turned = 0, d.now, now
	}
}

func (d *demand) uses(used int, now time.Time) {
	d.turn(now)
	d.now = max(d.now, used+d.waiting)
}

func (d *demand) refused(now time.Time) {
	d.turn(now)
	d.now++
}

// held takes for how long a permit was in use. One that took much longer than the
// others, as when a process stands still, says little of the next.
func (d *demand) held(ran time.Duration) {
	if d.mean == 0 {
		d.mean = ran
	}
	ran = min(ran, 4*d.mean)
	d.mean += (ran - d.mean) / 8
}

// of is how many permits there is use for.
func (d *demand) of(used int, now time.Time) int {
	d.turn(now)
	return max(d.now, d.before, used+d.waiting)
}

// parked counts the tasks that are to come again, by the second.
type parked struct {
	at     int64 // the second of the first one
	due    [int(longest/time.Second) + 2]int
	total  int
	latest time.Time
}

func (p *parked) forward(now time.Time) {
	for second := now.Unix(); p.at < second; p.at++ {
		if p.total == 0 {
			p.at = second
			return
		}
		i := p.at % int64(len(p.due))
		p.total -= p.due[i]
		p.due[i] = 0
	}
}

func (p *parked) add(due, now time.Time) {
	p.forward(now)
	p.due[due.Unix()%int64(len(p.due))]++
	p.total++
	if due.After(p.latest) {
		p.latest = due
	}
}

func (p *parked) count(now time.Time) int {
	p.forward(now)
	return p.total
}
