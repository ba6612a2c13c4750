package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
)

// deaths are dead letters of one kind and reason.
type deaths struct {
	kind   string
	reason task.Reason
	all    []backlog.Task
}

// buried groups dead letters, the largest group first.
func buried(of []backlog.Task) []deaths {
	at := map[string]int{}
	var out []deaths
	for _, t := range of {
		key := t.Subject.Kind() + " " + string(t.Reason)
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key], out = i, append(out, deaths{kind: t.Subject.Kind(), reason: t.Reason})
		}
		out[i].all = append(out[i].all, t)
	}
	slices.SortStableFunc(out, func(a, b deaths) int {
		return cmp.Or(cmp.Compare(len(b.all), len(a.all)), cmp.Compare(a.kind, b.kind))
	})
	return out
}

// since counts those that died after a time.
func since(of []backlog.Task, at time.Time) (n int) {
	for _, t := range of {
		if diedAt(t).After(at) {
			n++
		}
	}
	return n
}

func diedAt(t backlog.Task) time.Time {
	if t.DiedAt.IsZero() {
		return t.Stored.Time
	}
	return t.DiedAt
}

// lookTasks is whether tasks fail, by kind and reason.
func lookTasks(s *snapshot) ([]Finding, Check) {
	if s.stream(task.RetryStream) == nil || s.stream(task.DeadStream) == nil {
		return nil, skip("RETRY and DEAD could not both be read")
	}
	explained := map[string]bool{} // stored messages that a destination answers for
	all := s.failures()
	for _, g := range blamed(all) {
		for _, f := range g.all {
			explained[place(f.task)] = true
		}
	}
	if g, n := unreachable(all); n > 0 {
		for _, f := range g.all {
			explained[place(f.task)] = true
		}
	}
	var now, before []backlog.Task
	for _, t := range s.dead.tasks {
		if s.now.Sub(diedAt(t)) <= recent {
			now = append(now, t)
		} else {
			before = append(before, t)
		}
	}
	var out []Finding
	for _, d := range buried(now) {
		if f, ok := s.died(d); ok {
			if d.reason != task.CrashLoop { // each of which has ended several processes
				f = f.few()
			}
			out = append(out, f)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(all), func(f failure) bool { return explained[place(f.task)] })
	for _, g := range by(rest, kindOf) {
		if len(g.all) >= manyFail || g.count(isDead) > 0 {
			out = append(out, s.fails(g).few())
		}
	}
	out = append(out, s.deathsUnderway()...)
	out = append(out, s.putOff()...)
	out = append(out, s.heldBack()...)
	if n := len(before); n > 0 {
		out = append(out, s.leftOver(before, max(s.dead.total, uint64(len(s.dead.tasks)))-uint64(len(now))))
	}
	text := fmt.Sprintf("%s, %d of them died within %v; %s for a retry",
		some(s.dead.total, "dead letter", "dead letters"), len(now), recent, tasksWait(s.timers.total))
	return out, Check{Text: text}
}

func place(t backlog.Task) string {
	return fmt.Sprintf("%s %d", t.Stored.Stream, t.Stored.Sequence)
}

// pace compares the deaths of the last minutes with those before.
func (s *snapshot) pace(of []backlog.Task) string {
	last := since(of, s.now.Add(-justNow))
	return fmt.Sprintf("%d in the last %v, %d in the %v before (DEAD, %v looked at)", last, justNow, len(of)-last, recent-justNow, s.dead)
}

// died is the finding for those whose reason says what is wrong.
func (s *snapshot) died(d deaths) (Finding, bool) {
	n := uint64(len(d.all))
	service, _, _ := strings.Cut(d.kind, ".")
	look := "drover dead ls --reason " + string(d.reason) + " --kind " + d.kind
	redrive := "drover dead redrive --all --kind " + d.kind + " --reason " + string(d.reason) + " --yes"
	if _, _, err := task.SplitKind(d.kind); err != nil { // an action that is none cannot be asked for
		look, redrive = "drover dead ls --reason "+string(d.reason), "drover dead redrive ID"
	}
	example := d.all[len(d.all)-1]
	last := plain(example.LastError())
	kind := plain(d.kind)
	switch d.reason {
	case task.UnknownKind:
		return find("unknown-kind", kind, fmt.Sprintf("the workers of %s do not know %s: producer and worker are of different versions", service, kind), n).
			seen(s.pace(d.all), last).
			follows("Every such task is dead-lettered at once; nothing is lost.").
			remedy("release a "+service+" that has a handler for "+kind+", then: "+redrive, "if the kind is misspelt: mend the producer; "+look), true
	case task.Undecodable:
		return find("undecodable", kind, fmt.Sprintf("tasks of %s cannot be decoded", kind), n).seen(s.pace(d.all), last).
			follows("They are dead-lettered without being run.").
			remedy(look+"   # and drover dead show ID", "see which producer publishes them: docs/wire.md says what a body has to be"), true
	case task.CrashLoop:
		return find("crash-loop", kind, fmt.Sprintf("%s kills the processes that run it", kind), n).seen(s.pace(d.all), last).
			follows("Each such task ends some processes, the last one alone in a child, before it is dead-lettered; others are run again.").
			remedy("drover dead show "+quoted(example.ID)+"   # when it died; compare with the exits and the memory of "+service,
				"mend the handler, then: "+redrive), true
	case task.Expired:
		return find("expired", kind, fmt.Sprintf("tasks of %s pass their deadline before they start", kind), n).seen(s.pace(d.all)).
			follows("They are not run.").
			remedy("drover lanes   # why do they wait?", redrive+"   # if they are still worth doing"), true
	default: // failed and permanent are grouped with those that wait for a retry
		return Finding{}, false
	}
}

// fails is a kind whose failures no destination explains.
func (s *snapshot) fails(g group) Finding {
	dead := g.count(isDead)
	text, n := g.most(func(f failure) string { return plain(f.text) })
	f := find("tasks-fail", g.name, fmt.Sprintf("%s fails", g.name), uint64(len(g.all))).
		seen(s.failed(g), fmt.Sprintf("%s: %s", some(uint64(n), "time", "times"), text))
	var died []backlog.Task
	for _, x := range g.all {
		if x.dead {
			died = append(died, x.task)
		}
	}
	if len(died) > 0 {
		f = f.seen("deaths: " + s.pace(died))
	}
	follows := "These tasks are retried with growing delays, and die when their attempts are spent."
	if dead == len(g.all) {
		follows = "These tasks are dead: nothing runs them again until somebody redrives them."
	}
	return f.follows(follows).remedy("drover dead ls --kind "+g.name+"   # and drover dead show ID: attempts, errors, trace",
		"drover tasks ls --state retry --kind "+g.name,
		"after mending the cause: drover dead redrive --all --kind "+g.name+" --yes")
}

// deathsUnderway are tasks in RETRY whose processes have died under them: a crash
// loop before it is one.
func (s *snapshot) deathsUnderway() []Finding {
	n := map[string][]backlog.Task{}
	for _, t := range slices.Concat(s.timers.tasks, s.due.tasks) {
		if t.Reason == task.Suspect || t.Deaths >= 2 {
			n[t.Subject.Kind()] = append(n[t.Subject.Kind()], t)
		}
	}
	var out []Finding
	for kind, all := range n {
		service, _, _ := strings.Cut(kind, ".")
		out = append(out, find("crash-loop", plain(kind), fmt.Sprintf("%s kills the processes that run it", plain(kind)), uint64(len(all))).
			seen(fmt.Sprintf("%s in RETRY whose processes died %d times and more", tasks(uint64(len(all))), all[0].Deaths), plain(all[0].LastError())).
			follows("Each such task ends some processes, the last one alone in a child, before it is dead-lettered; others are run again.").
			remedy("look at how the processes of "+service+" ended: exit codes and memory", "drover tasks show "+quoted(all[0].ID)))
	}
	return out
}

// putOff are tasks whose handlers were asked to come back later.
func (s *snapshot) putOff() []Finding {
	n := map[string]uint64{}
	for _, t := range s.timers.tasks {
		if t.Reason == task.PutOff {
			n[t.Subject.Kind()]++
		}
	}
	var out []Finding
	for kind, count := range n {
		if count < manyFail {
			continue
		}
		out = append(out, find("put-off", kind, fmt.Sprintf("what %s calls asks it to come back later", kind), count).
			seen(fmt.Sprintf("%s in RETRY %s by the handler, as 429 and Retry-After ask (%v looked at)", tasks(count), verb(int(count), "is put off", "are put off"), s.timers)).
			follows("They wait for as long as they were told, without burning attempts.").
			remedy("drover tasks ls --state retry --kind "+kind, "call the destination less often, or ask for a higher quota"))
	}
	return out
}

// holder is what holds tasks back on purpose.
type holder struct {
	name, wrong, seen, follows, look, mend string

	after time.Duration // from which on it is too long; 0 for the objective of the class
}

// holders are by the reason of their tasks' last move.
var holders = map[task.Reason]holder{
	task.Circuit: {
		name: "breaker-open", wrong: "%s waits until a destination can be called again", seen: "because its breaker is open",
		follows: "They go out spread once a probe succeeds, without having burnt attempts; those of other destinations go on.",
		look:    "drover breakers   # which, since when, and what it answered",
		mend:    "see to the destination; its probes find out when it is well",
		after:   time.Minute, // whatever its tasks can wait for: who is called is down
	},
	task.Limited: {
		name: "rate-limit", wrong: "%s comes faster than its rate limit lets it run", seen: "because of its rate limit",
		follows: "They run as the limit allows, without burning attempts; if more come than it allows, they wait longer and longer.",
		look:    "drover limits --waiting   # which keys, and how many tasks are in line",
		mend:    "publish less, or raise the limit where its handler is registered",
	},
	task.Cap: {
		name: "cap", wrong: "%s waits for a resource whose permits are all in use", seen: "because of its cap",
		follows: "They run when a permit is free, without burning attempts.",
		look:    "drover caps   # which resource, and who holds its permits",
		mend:    "see what holds permits for so long, or raise the cap where its handlers are registered",
	},
}

// heldBack are tasks that a breaker, a rate limit or a cap holds back for longer than
// they should wait to start.
func (s *snapshot) heldBack() []Finding {
	type group struct {
		kind   string
		reason task.Reason
	}
	n, longest := map[group]uint64{}, map[group]time.Duration{}
	for _, t := range slices.Concat(s.timers.tasks, s.due.tasks) {
		h, held := holders[t.Reason]
		class, known := s.fleet.Class(t.Subject.Class)
		if !held || !known {
			continue
		}
		if t.Reason == task.Circuit && s.open != nil && !s.open[t.Subject.Service] {
			continue // it has closed: they come at the time that they were given
		}
		for _, w := range t.Waits {
			g := group{t.Subject.Kind(), w.Reason}
			if waits := s.now.Sub(w.First); w.Reason == t.Reason && waits > cmp.Or(h.after, class.WaitObjective) {
				n[g]++
				longest[g] = max(longest[g], waits)
			}
		}
	}
	var out []Finding
	for g, count := range n {
		if count < manyFail {
			continue
		}
		h := holders[g.reason]
		out = append(out, find(h.name, g.kind, fmt.Sprintf(h.wrong, g.kind), count).
			seen(fmt.Sprintf("%s in RETRY %s held back %s, the first for %v now (%v looked at)", tasks(count), verb(int(count), "is", "are"), h.seen, longest[g].Round(time.Second), s.timers)).
			follows(h.follows).remedy(h.look, h.mend))
	}
	return out
}

// leftOver are dead letters from before that nobody has dealt with.
func (s *snapshot) leftOver(sampled []backlog.Task, total uint64) Finding {
	var parts []string
	for _, d := range buried(sampled) {
		parts = append(parts, fmt.Sprintf("%d %s %s", len(d.all), plain(d.kind), d.reason))
	}
	return find("dead-letters", "stream DEAD", some(total, "dead letter waits", "dead letters wait")+" for a decision", total).
		seen(head(parts, 6)+fmt.Sprintf(" (DEAD, %v looked at)", s.dead)).
		follows("Nothing runs them again, and nothing removes them.").
		remedy("drover dead ls", "drover dead show ID   # then redrive or discard")
}
