package doctor

import (
	"fmt"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
)

const stuckAfter = 30 * time.Second // past its time that a timer is stuck: after a restart the broker takes 2 s

// lookTimers is whether timers fire, and whether what they fire to is served.
func lookTimers(s *snapshot) ([]Finding, Check) {
	if s.stream(task.RetryStream) == nil {
		return nil, skip("RETRY could not be read")
	}
	var out []Finding
	var stuck []backlog.Task
	for _, t := range s.timers.tasks {
		if !t.DueAt.IsZero() && s.now.Sub(t.DueAt) > stuckAfter {
			stuck = append(stuck, t)
		}
	}
	if n := len(stuck); n > 0 {
		first := slices.MinFunc(stuck, func(a, b backlog.Task) int { return a.DueAt.Compare(b.DueAt) })
		out = append(out, find("timers-stuck", "stream RETRY", "timers of retries do not fire", uint64(n)).
			seen(fmt.Sprintf("%s past their time, the first (%s %s) by %v (RETRY, %v looked at)", some(uint64(n), "is", "are"), first.Subject.Kind(), plain(first.ID), s.now.Sub(first.DueAt).Round(time.Second), s.timers)).
			follows("These retries do not run.").
			remedy("drover streams plan   # RETRY must have schedules", "nats stream cluster step-down RETRY   # on a cluster: another leader; on one node restart nats-server"))
	}
	if f, ok := s.strays(); ok {
		out = append(out, f)
	}
	return out, Check{Text: fmt.Sprintf("%s, %v looked at; %s due", some(s.timers.total, "timer", "timers"), s.timers, some(s.due.total, "retry is", "retries are"))}
}

// strays are tasks in RETRY that no consumer of the fleet takes.
func (s *snapshot) strays() (Finding, bool) {
	served := map[string]bool{}
	for _, c := range s.topology.Consumers {
		served[string(c.Class)+"/"+c.Service] = true
	}
	n := map[string]int{}
	for _, t := range slices.Concat(s.timers.tasks, s.due.tasks) {
		if at := string(t.Subject.Class) + "/" + t.Subject.Service; !served[at] {
			n[at]++
		}
	}
	if len(n) == 0 {
		return Finding{}, false
	}
	var names []string
	total := 0
	for at, k := range n {
		names = append(names, fmt.Sprintf("%d of %s", k, plain(at)))
		total += k
	}
	slices.Sort(names)
	return find("stray", "stream RETRY", "retries wait for services or classes that the fleet file does not have", uint64(total)).
		seen(head(names, 5)+fmt.Sprintf(" (RETRY, %v of timers and %v of due ones looked at)", s.timers, s.due)).
		follows("Nobody runs them.").
		remedy("put the service or class back into the fleet file, then: drover streams apply", "drover tasks ls --state due"), true
}
