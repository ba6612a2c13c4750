package chaos

import (
	"time"
)

// Names of faults.
const (
	KillWorker  = "kill-worker"  // SIGKILL
	StopWorker  = "stop-worker"  // SIGSTOP, then SIGCONT
	TermWorker  = "term-worker"  // SIGTERM: it drains, and another takes its place
	CutWorker   = "cut-worker"   // its connection is closed, and no other is let through
	HoleWorker  = "hole-worker"  // its connection stays open and carries nothing
	CutPublish  = "cut-publish"  // as CutWorker, of the publisher
	KillBroker  = "kill-broker"  // SIGKILL, started again later
	StopBroker  = "stop-broker"  // SIGSTOP, then SIGCONT
	CutRoutes   = "cut-routes"   // one broker is closed off from the others
	HoleRoutes  = "hole-routes"  // one broker's routes stay open and carry nothing
	RefuseDead  = "refuse-dead"  // DEAD takes no more
	RefuseRetry = "refuse-retry" // RETRY takes no more
	TaskKills   = "task-kills"   // a task killed the process that ran it, and its neighbours' runs with it
)

// Windows of the rule that explains a run (see explain).
const (
	// An acknowledgement that was sent this long before a fault is through.
	settle = 2 * time.Second
	// A broker that is back settles down: clients reconnect, a leader is elected,
	// and until then acknowledgements are dropped.
	aftershockOne   = 3 * time.Second
	aftershockThree = 12 * time.Second
	// A worker asks what refused it again after at most this, and its client
	// reconnects within it.
	afterRefusal = 6 * time.Second
)

// broker reports whether the fault is one of a broker, which hits every process.
func (f *fault) broker() bool {
	switch f.name {
	case KillBroker, StopBroker, CutRoutes, HoleRoutes:
		return true
	}
	return false
}

// after is how long the fault goes on having effect when it is over.
func (f *fault) after(l *Limits) int64 {
	switch f.name {
	case RefuseDead, RefuseRetry:
		return int64(afterRefusal)
	case KillWorker, TaskKills:
		return 0
	}
	switch {
	case f.broker() && l.Brokers > 1:
		return int64(aftershockThree)
	case f.broker():
		return int64(aftershockOne)
	}
	return int64(settle)
}

// breaks reports whether the fault can keep a process from holding the lease of
// r, or the broker from hearing how r ended.
func (f *fault) breaks(r *Run) bool {
	switch f.name {
	case KillWorker, StopWorker, TaskKills:
		return r.in(f.pid)
	case CutWorker, HoleWorker:
		return f.target == r.Proc
	}
	return f.broker()
}

// delays reports whether the fault can keep r from being settled once it has ended.
func (f *fault) delays(r *Run) bool {
	return f.name == RefuseDead || f.name == RefuseRetry || f.breaks(r)
}

// explain returns the name of a fault that can have made the broker hand out
// again what r ran, or "". The rule: the fault broke r's process, its link, or a
// broker, at a time between r's start and the end of its settling. Settling takes
// at most 2 s after the handler's return; where a fault of the same kinds, or a
// stream that refuses, falls into that time, it ends only when that fault has
// passed and its aftershock.
func (h *history) explain(r *Run) string {
	end := r.over()
	if end == 0 {
		end = h.last
	}
	end += int64(settle)
	for {
		was := end
		for i := range h.faults {
			f := &h.faults[i]
			if past := f.over + f.after(&h.limits); f.delays(r) && f.begin <= end && past > end && past > r.over() {
				end = past
			}
		}
		if end == was {
			break
		}
	}
	for i := range h.faults {
		if f := &h.faults[i]; f.breaks(r) && f.begin <= end && f.over+f.after(&h.limits) >= r.Start {
			return f.name
		}
	}
	return ""
}

// explainPublish returns the name of a fault that can have made a publish store
// its task twice: its answer was lost, the task was worked off, and the broker
// forgot that it ever had it.
func (h *history) explainPublish(s *story) string {
	answered := s.answered
	if answered == 0 {
		answered = h.last
	}
	for i := range h.faults {
		f := &h.faults[i]
		if (f.broker() || f.name == CutPublish) && f.begin <= answered && f.over+f.after(&h.limits) >= s.intended {
			return f.name
		}
	}
	return ""
}

// stopped is how long r's process did not run while r was under way.
func (h *history) stopped(r *Run) time.Duration {
	var sum int64
	for i := range h.faults {
		f := &h.faults[i]
		if f.name == StopWorker && r.in(f.pid) {
			sum += max(0, min(f.over, r.End)-max(f.begin, r.Start))
		}
	}
	return time.Duration(sum)
}
