package worker

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/task"
)

// Status is what a worker is doing at one moment.
type Status struct {
	Pool     Pool
	Lanes    []LaneStatus // in the order of the classes, a live lane before its retries; none until Run has bound them
	Busy     []Busy       // by kind; none when nothing runs
	Settled  int64        // deliveries that ended in a verdict since Run began
	Draining bool         // it takes no more tasks
	Ready    error        // what [Worker.Ready] returns

	Confinement Confinement    // of isolated tasks
	Isolated    []IsolatedKind // by kind; none when no kind is isolated
}

// LaneStatus is one lane of a [Status].
type LaneStatus struct {
	Class   task.Class
	Retry   bool // of due retries
	Slots   int  // handlers that may run at once
	Running int  // handlers that run, without those that were abandoned
	Held    int  // tasks under a lease, running or not
	Leaked  int  // slots lost to handlers that ignore their cancelled context
}

// Busy is how many handlers of one kind run.
type Busy struct {
	Kind    string
	Running int
	Longest time.Duration // how long the first of them has run
}

// Status returns what the worker is doing. It may be called at any time. It
// looks at every task that is held, so ask every few seconds, not for each task.
func (w *Worker) Status() Status {
	s := Status{Pool: w.pool, Ready: w.Ready()}
	w.mu.Lock()
	starting := errors.Is(w.status, errStarting)
	s.Draining = errors.Is(w.status, ErrDraining)
	s.Confinement = w.confinement
	w.mu.Unlock()
	if starting {
		return s
	}
	now := time.Now()
	busy := map[string]Busy{}
	for _, l := range w.lanes {
		s.Lanes = append(s.Lanes, l.status(now, busy))
		s.Settled += l.settled()
	}
	for _, b := range busy {
		s.Busy = append(s.Busy, b)
	}
	s.Isolated = w.isolated()
	slices.SortFunc(s.Busy, func(a, b Busy) int { return cmp.Or(b.Running-a.Running, cmp.Compare(a.Kind, b.Kind)) })
	return s
}

// status adds what runs here to busy.
func (l *lane) status(now time.Time, busy map[string]Busy) LaneStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	for d := l.held.first(); d != nil; d = l.held.after(d) {
		if d.phase != phaseRunning {
			continue
		}
		k := d.run.kind
		b := busy[k.name]
		b.Kind = k.name
		b.Running++
		begun := d.ctx.deadline.Add(-k.limit(l.class)) // which saves every task the keeping of it
		b.Longest = max(b.Longest, now.Sub(begun))
		busy[k.name] = b
	}
	return LaneStatus{
		Class: l.class.Name, Retry: l.kind == retryLane,
		Slots: l.slots, Running: l.running, Held: l.held.n, Leaked: l.leaked,
	}
}

// settled counts the deliveries of the lane that ended in a verdict.
func (l *lane) settled() int64 {
	n := l.ended()
	for _, lb := range l.byKind {
		n -= lb.settled[lost].Load()
	}
	return n
}

// ended counts the deliveries that the lane holds no more, whatever became of them.
func (l *lane) ended() (n int64) {
	for _, lb := range l.byKind {
		for i := range lb.settled {
			n += lb.settled[i].Load()
		}
	}
	return n
}
