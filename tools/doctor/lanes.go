package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/streams"
)

const manyAgain = 3 // tasks in flight that were handed out before, from which on it is no accident

// lookLanes is whether tasks that wait are taken.
func lookLanes(s *snapshot) ([]Finding, Check) {
	var out []Finding
	var depth uint64
	read, held := 0, 0
	paused := map[string][]*laneState{} // by service
	for _, l := range s.lanes {
		if l.second == nil {
			continue
		}
		read++
		depth += l.second.NumPending
		held += l.second.NumAckPending
		if l.second.Paused {
			paused[l.want.Service] = append(paused[l.want.Service], l)
		} else if f, ok := s.lane(l); ok {
			out = append(out, f)
		}
		if n := min(l.first.NumRedelivered, l.second.NumRedelivered); n >= manyAgain {
			out = append(out, s.redelivered(l, n))
		}
	}
	for _, service := range slices.Sorted(maps.Keys(paused)) {
		out = append(out, s.paused(service, paused[service]))
	}
	if read == 0 {
		return nil, skip("no consumer could be read")
	}
	return out, Check{Text: fmt.Sprintf("%d of %d read, %s, %s in flight", read, len(s.lanes), tasksWait(depth), tasks(uint64(held)))}
}

// lane says what is wrong with one lane, if anything is.
func (s *snapshot) lane(l *laneState) (Finding, bool) {
	held := l.second.NumAckPending
	stands := l.pulls() == 0 && l.moved() == 0
	idle, delivered := l.idle()
	limited := l.part(func(p *laneState) bool {
		limit := p.second.Config.MaxAckPending
		return p.depth() > 0 && limit > 0 && p.second.NumAckPending >= limit
	})
	stalled := l.part(func(p *laneState) bool { return p.depth() > 0 && min(p.first.NumWaiting, p.second.NumWaiting) > 0 })
	asking := l.part(func(p *laneState) bool { return p.depth() > 0 && p.second.NumWaiting > 0 })
	switch {
	case l.depth() == 0:
		// Tasks whose worker died wait for somebody to ask, and look like running ones.
		if held > 0 && stands && !s.alive(l.want.Service) && delivered && idle > 2*l.class.AckWait {
			return s.nobody(l), true
		}
	case stands && (held == 0 || !s.alive(l.want.Service) || idle > l.class.TimeLimit+l.class.AckWait):
		return s.nobody(l), true
	case limited != nil:
		return s.limited(limited), true
	case l.moved() == 0 && stalled != nil:
		return s.stalled(stalled), true
	case l.wait() <= l.late():
	case held > 0 && asking == nil:
		return s.busy(l), true
	default:
		return s.behind(l), true
	}
	return Finding{}, false
}

func (s *snapshot) nobody(l *laneState) Finding {
	service := l.want.Service
	n := l.depth() + uint64(l.second.NumAckPending)
	f := find("lane-nobody", l.name(), fmt.Sprintf("no worker takes %s tasks of %s", l.want.Class, service), n).seen(l.figures())
	if l.want.Retry {
		f.Wrong = fmt.Sprintf("no worker takes the retries of %s tasks of %s", l.want.Class, service)
	}
	switch {
	case s.alive(service):
		f = f.seen(fmt.Sprintf("workers of %s live: none of them serves this lane, or all its slots are leaked", service)).
			remedy(s.start(service, " --class "+string(l.want.Class), "or without --class and --pool, for all of them"))
	case l.second.NumAckPending > 0:
		f = f.seen("no lane of "+service+" has an open pull: whoever was handed those in flight has died or hangs").
			remedy(s.start(service, "", ""), "look at how the processes of "+service+" ended: their exit codes, and memory")
	default:
		f = f.seen("no lane of "+service+" has an open pull: no process of it is connected").
			remedy(s.start(service, "", ""), "see why the deployment of "+service+" does not run")
	}
	return f.follows("These tasks wait until there is one; nothing is lost.")
}

// start is the command that starts a process of a service, with flags, and a note.
func (s *snapshot) start(service, flags, note string) string {
	command, notes := "drover run "+service, []string{}
	if !slices.Contains(s.contained, service) {
		command, notes = "./"+service, append(notes, "its own binary, which is not part of this command")
	}
	if note != "" {
		notes = append(notes, note)
	}
	if len(notes) == 0 {
		return command + flags
	}
	return command + flags + "   # " + strings.Join(notes, "; ")
}

func (s *snapshot) stalled(l *laneState) Finding {
	return find("lane-stalled", l.name(), fmt.Sprintf("the broker hands out no %s tasks of %s although workers ask", l.want.Class, l.want.Service), l.depth()).
		seen(l.figures()).follows("These tasks wait, and workers have nothing to do.").
		remedy(fmt.Sprintf("nats consumer cluster step-down %s %s   # on a cluster: another leader", l.want.Stream, l.want.Config.Durable),
			"look at the log of nats-server for "+l.want.Stream)
}

// paused is what is paused of one service: lanes of one class, or of several.
func (s *snapshot) paused(service string, lanes []*laneState) Finding {
	var shares, ends, why []string
	waiting := uint64(0)
	add := func(to *[]string, text string) {
		if !slices.Contains(*to, text) {
			*to = append(*to, text)
		}
	}
	for _, l := range lanes {
		add(&shares, fmt.Sprintf("%s/%s", l.want.Class, service))
		waiting += l.second.NumPending
		if until := l.second.Config.PauseUntil; until != nil {
			add(&ends, fmt.Sprintf("until %s, in %v", until.UTC().Format(time.RFC3339), l.second.PauseRemaining.Round(time.Second)))
		}
		if p, ok := s.presence.pause(l.want.Class, service); ok {
			add(&why, fmt.Sprintf("paused by %s at %s: %s (bucket FLEET)", plain(cmp.Or(p.By, "somebody")), p.At.UTC().Format(time.RFC3339), plain(cmp.Or(p.Reason, "no reason given"))))
		}
	}
	f := find("lane-paused", head(shares, 3), strings.Join(shares, ", ")+verb(len(shares), " is", " are")+" paused", waiting)
	for _, l := range lanes {
		if l.second.NumPending > 0 || len(lanes) == 1 {
			f = f.seen(l.figures())
		}
	}
	return f.seen(ends...).seen(why...).
		follows("Their tasks wait until they are resumed; so does one whose worker dies meanwhile.").
		remedy("drover resume " + strings.Join(shares, " "))
}

func (s *snapshot) limited(l *laneState) Finding {
	return find("lane-limit", l.name(), fmt.Sprintf("%s: as many tasks are in flight as the consumer allows", l.name()), l.depth()).
		seen(l.figures(), fmt.Sprintf("max ack pending %d", l.second.Config.MaxAckPending)).
		follows("Workers beyond that get nothing, and tasks wait although there are slots.").
		remedy(fmt.Sprintf("processes: N   # of service %s in the fleet file: as many as run; then: drover streams apply", l.want.Service))
}

func (s *snapshot) busy(l *laneState) Finding {
	kinds := kindsOf(l.held)
	f := find("lane-busy", l.name(), fmt.Sprintf("all slots of %s are taken, and tasks wait for one", l.name()), l.depth()).
		seen(l.figures(), "in flight: "+kinds+" (direct get, "+l.held.String()+")")
	if running := s.presence.busy(l.want.Service); running != "" {
		f = f.seen(running)
	}
	slots := l.class.Slots
	if l.want.Retry {
		slots = retrySlots(l.class)
	}
	if idle, ok := l.idle(); ok && l.moved() == 0 {
		f = f.seen(fmt.Sprintf("nothing was handed out for %v", idle.Round(100*time.Millisecond)))
	}
	return f.follows(fmt.Sprintf("New %s tasks of %s start when one that runs ends, for which it has up to %v; the objective is %v.", l.want.Class, l.want.Service, l.class.TimeLimit, l.class.WaitObjective)).
		remedy("see what its handlers wait for: the traces of "+firstKind(l.held)+", and the pools and limits of what it calls",
			fmt.Sprintf("more processes of %s (up to `processes` of the fleet file, each with %s)", l.want.Service, some(uint64(slots), "slot", "slots")),
			fmt.Sprintf("slots: N   # of class %s in the fleet file, if the handlers wait more than they compute; or a class of its own for slow kinds", l.want.Class))
}

func (s *snapshot) behind(l *laneState) Finding {
	f := find("lane-behind", l.name(), fmt.Sprintf("%s works, and does not keep up", l.name()), l.depth()).seen(l.figures())
	if took := l.second.TimeStamp.Sub(l.first.TimeStamp).Seconds(); took > 0 && l.moved() > 0 {
		rate := float64(l.moved()) / took
		f = f.seen(fmt.Sprintf("%.0f tasks/s are handed out: what waits takes %v", rate, (time.Duration(float64(l.depth())/rate) * time.Second).Round(time.Second)))
	}
	return f.follows(fmt.Sprintf("Tasks start after %v; the objective is %v.", l.wait().Round(time.Second), l.class.WaitObjective)).
		remedy(fmt.Sprintf("more processes of %s, up to `processes` of the fleet file", l.want.Service))
}

func (s *snapshot) redelivered(l *laneState, n int) Finding {
	f := find("lane-redelivered", l.name(), fmt.Sprintf("workers of %s die or hang with tasks in their hands", l.want.Service), uint64(n)).
		seen(fmt.Sprintf("%d of %d in flight %s handed out more than once (%s)", n, l.second.NumAckPending, verb(n, "was", "were"), l.source()))
	if grew := l.second.NumRedelivered - l.first.NumRedelivered; grew > 0 {
		f = f.seen(fmt.Sprintf("%d more within the last moment", grew))
	}
	if kinds := kindsOf(l.held); kinds != "" {
		f = f.seen("in flight: " + kinds)
	}
	return f.follows("Those tasks have started more than once, each time an ack-wait later.").
		remedy("look at how the processes of " + l.want.Service + " ended: exit codes, out of memory, or a machine that stands still")
}

// figures are those of the consumer.
func (l *laneState) figures() string {
	i := l.second
	first := ""
	if d := l.wait(); d > 0 {
		first = fmt.Sprintf(", the first for %v", d.Round(100*time.Millisecond))
	}
	return fmt.Sprintf("%s%s; %d in flight, %s (%s)", tasksWait(i.NumPending), first, i.NumAckPending,
		some(uint64(i.NumWaiting), "open pull", "open pulls"), l.source())
}

func retrySlots(c streams.Class) int { return cmp.Or(c.RetrySlots, max(2, c.Slots/4)) }

// kindsOf counts a sample by kind: "30 webhook.deliver, 2 webhook.ping".
func kindsOf(s sample) string {
	n := map[string]int{}
	for _, t := range s.tasks {
		n[t.Subject.Kind()]++
	}
	names := make([]string, 0, len(n))
	for k := range n {
		names = append(names, k)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(n[b], n[a]), cmp.Compare(a, b)) })
	var parts []string
	for _, k := range names {
		parts = append(parts, fmt.Sprintf("%d %s", n[k], k))
	}
	return head(parts, 5)
}

func firstKind(s sample) string {
	_, kind, _ := strings.Cut(kindsOf(sample{tasks: s.tasks}), " ")
	kind, _, _ = strings.Cut(kind, ",")
	return kind
}

func tasks(n uint64) string { return some(n, "task", "tasks") }

func tasksWait(n uint64) string { return some(n, "task waits", "tasks wait") }
