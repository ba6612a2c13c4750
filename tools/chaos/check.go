package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kinds of violations.
const (
	Lost            = "lost"              // acknowledged to its publisher, and neither done nor a dead letter
	BothEnds        = "both-ends"         // done, and a dead letter
	TwoLetters      = "two-letters"       // more than one dead letter
	LeftOver        = "left-over"         // still in a stream when all was to be over
	Stranger        = "stranger"          // ran, and was never published
	AttemptSkipped  = "attempt-skipped"   // ran as an attempt whose predecessor did not fail
	AttemptRepeated = "attempt-repeated"  // ran again as an attempt that had failed
	OverAttempts    = "over-attempts"     // ran as an attempt that its class does not allow
	RanAfterDone    = "ran-after-done"    // ran again as an attempt that was done
	RanBeside       = "ran-beside"        // ran while the same attempt was under way elsewhere
	RanEarly        = "ran-early"         // ran before it was due, or more often than it was put off or given back
	RanWhileWaiting = "ran-while-waiting" // an older copy ran while the task waited on its timer
	RanAfterDeath   = "ran-after-death"   // ran when its dead letter was stored
	OverTime        = "over-time"         // went on beyond its time limit and the grace
	LeaseWithout    = "lease-lost"        // lost its lease, and nothing was broken
	TooManyDeaths   = "too-many-deaths"   // killed more processes than max-deliver allows
	WrongDeath      = "wrong-death"       // its runs do not bear out the reason that its dead letter gives
	NoHistory       = "no-history"        // a dead letter without what led to it
	NoBody          = "no-body"           // a dead letter whose body is gone
	Crashed         = "crashed"           // a process ended by itself
	NeverQuiet      = "never-quiet"       // the fleet did not come to rest in time
)

// Violation is one promise that was not kept.
type Violation struct {
	Kind string
	ID   string // of the task; "" for one of the whole fleet
	Text string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Kind, v.ID, v.Text) }

// timerSlack is by how much a timer may be early: it is set by the wall clock,
// which is slewed, and compared with one that is not.
const timerSlack = 20 * time.Millisecond

// checker judges one history.
type checker struct {
	*history
	violations []Violation
	extra      map[string]map[string]int // how often, by what was run again and what explains it
	extras     int
}

func (c *checker) fail(kind, id, format string, args ...any) {
	c.violations = append(c.violations, Violation{kind, id, fmt.Sprintf(format, args...)})
}

func (c *checker) check() {
	for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
		s := c.tasks[id]
		slices.SortFunc(s.runs, func(a, b *Run) int { return cmp.Compare(a.Start, b.Start) })
		c.ends(s)
		c.runs(s)
		c.deaths(s)
		for i := range s.letters {
			c.letter(s, &s.letters[i])
		}
		for _, r := range s.runs {
			c.run(s, r)
		}
	}
	for _, e := range c.crashes {
		c.fail(Crashed, "", "%s (pid %d) ended with code %d, and nothing was done to it", e.Proc, e.PID, e.Code)
	}
	if !c.quiet {
		c.fail(NeverQuiet, "", "tasks were left when the time for the last of them was over")
	}
}

// ends holds that a task that was acknowledged came to one end.
func (c *checker) ends(s *story) {
	done := s.done()
	if s.intended == 0 {
		c.fail(Stranger, s.id, "it is in the ledger %d times, and nobody published it", len(s.runs)+len(s.letters))
	}
	if s.published == Refused && len(s.runs)+len(s.letters) > 0 {
		c.fail(Stranger, s.id, "its publisher was told that it is not stored")
	}
	switch {
	case s.published == Stored && done == nil && len(s.letters) == 0 && len(s.left) == 0:
		c.fail(Lost, s.id, "it was acknowledged, ran %d times, and is nowhere", len(s.runs))
	case done != nil && len(s.letters) > 0:
		c.fail(BothEnds, s.id, "%s was done with it %v after the start, and it is dead of %s", done.Proc, c.since(done.End), s.letters[0].Reason)
	}
	if len(s.letters) > 1 {
		c.fail(TwoLetters, s.id, "it has %d dead letters", len(s.letters))
	}
	for _, e := range s.left {
		c.fail(LeftOver, s.id, "message %d of %s was never taken", e.Sequence, e.Stream)
	}
}

func (s *story) done() *Run {
	for _, r := range s.runs {
		if r.Verdict == Done {
			return r
		}
	}
	return nil
}

// permit is the right to one run, which a publish or the end of another run gave.
type permit struct {
	attempt int
	from    int64 // Mono
	either  bool  // of this attempt or the next
}

// permits are the rights that the end of r gives. An attempt that failed gives
// one to the next attempt; one that was put off, given back, or died with its
// process gives one to the same; one that was done gives none.
func (c *checker) permits(s *story, r *Run) []permit {
	limit := int64(c.limits.TimeLimit)
	switch r.Verdict {
	case Done, Permanent:
		return nil
	case Failed, Panicked, TimeLimit:
		if r.Attempt+1 >= c.limits.Attempts {
			return nil
		}
		return []permit{{attempt: r.Attempt + 1, from: min(r.End, r.Start+limit)}}
	case PutOff:
		return []permit{{attempt: r.Attempt, from: r.End + r.Delay - int64(timerSlack)}}
	case Drained:
		if s.plan == PlanStubborn { // it was given back before it returned
			return []permit{{attempt: r.Attempt, from: r.Start}}
		}
		return []permit{{attempt: r.Attempt, from: r.End}}
	case LeaseLost: // it went to another while this process did not know
		return []permit{{attempt: r.Attempt, from: r.Start}}
	}
	if r.Child && r.Dead == 0 || s.plan == PlanStubborn { // killed by its parent at any time, or abandoned
		return []permit{{attempt: r.Attempt, from: r.Start, either: true}}
	}
	// Its handler never returned: its process died, or its child was killed for
	// its time limit, or it was abandoned first and its process died then.
	from := r.Dead
	late := from == 0 || from-r.Start > limit
	if late {
		from = min(cmp.Or(from, r.Start), r.Start+limit)
	}
	return []permit{{attempt: r.Attempt, from: from, either: late}}
}

// runs holds that every run had a right to be, or is explained by a fault.
func (c *checker) runs(s *story) {
	open := []permit{{from: s.intended}}
	used := map[int]permit{} // what could have been of either attempt, by the run that used it
	for i, r := range s.runs {
		right := func(p permit) bool {
			return p.from <= r.Start && (p.attempt == r.Attempt || p.either && p.attempt+1 == r.Attempt)
		}
		n := slices.IndexFunc(open, func(p permit) bool { return right(p) && !p.either })
		if n < 0 {
			n = slices.IndexFunc(open, right)
		}
		switch {
		case n >= 0:
			if open[n].either && open[n].attempt == r.Attempt {
				used[i] = open[n]
			}
			open = slices.Delete(open, n, n+1)
		default:
			c.withoutRight(s, i, used)
		}
		open = append(open, c.permits(s, r)...)
		if r.Attempt >= c.limits.Attempts {
			c.fail(OverAttempts, s.id, "it ran as attempt %d of %d", r.Attempt+1, c.limits.Attempts)
		}
	}
}

// withoutRight judges run i of s, for which no permit is left. If an earlier run
// used one that could have been for this attempt, it is that one that had none.
func (c *checker) withoutRight(s *story, i int, used map[int]permit) {
	r := s.runs[i]
	for n := range i {
		if p, ok := used[n]; ok && p.attempt+1 == r.Attempt && p.from <= r.Start {
			delete(used, n)
			i = n
			break
		}
	}
	c.extraRun(s, s.runs[i], s.runs[:i])
}

// extraRun looks for the fault that explains a run without a right. It must have
// broken an earlier run of the same attempt: only that one's message can have
// been handed out again.
func (c *checker) extraRun(s *story, r *Run, before []*Run) {
	var last *Run
	by := ""
	for _, a := range before {
		if a.Attempt != r.Attempt {
			continue
		}
		last = a
		by = cmp.Or(by, c.explain(a))
	}
	if by == "" && r.Attempt == 0 && last != nil {
		by = c.explainPublish(s)
	}
	if last == nil {
		c.fail(AttemptSkipped, s.id, "%s ran it as attempt %d, and no attempt %d had failed", r.Proc, r.Attempt+1, r.Attempt)
		return
	}
	kind := RanAfterDone
	switch {
	case last.alive(r.Start):
		kind = RanBeside
	case last.Verdict == PutOff || last.Verdict == Drained || last.Verdict == "":
		kind = RanEarly
	case last.Verdict != Done:
		kind = AttemptRepeated
	}
	if by == "" {
		c.fail(kind, s.id, "%s ran attempt %d from %v on, after %s ran it from %v (%s), and no fault explains it",
			r.Proc, r.Attempt+1, c.since(r.Start), last.Proc, c.since(last.Start), cmp.Or(last.Verdict, "no end"))
		return
	}
	c.extras++
	if c.extra[kind] == nil {
		c.extra[kind] = map[string]int{}
	}
	c.extra[kind][by]++
}

// run holds what can be said of one run by itself.
func (c *checker) run(s *story, r *Run) {
	took := time.Duration(r.End - r.Start)
	most := c.limits.TimeLimit + c.limits.Grace + time.Second // for a machine that is busy
	if r.End != 0 && s.plan != PlanStubborn && took-c.stopped(r) > most {
		c.fail(OverTime, s.id, "%s ran it for %v, more than its time limit and grace (%v)", r.Proc, took, most)
	}
	if r.Verdict == LeaseLost && c.explain(r) == "" {
		c.fail(LeaseWithout, s.id, "%s lost its lease %v after the start, and no fault explains it", r.Proc, c.since(r.End))
	}
	for i := range s.timers {
		if t := &s.timers[i]; t.Since < r.Start && r.Start < t.Mono && !c.wasStopped(r) && !c.forked(s, r) {
			c.fail(RanWhileWaiting, s.id, "%s ran it at %v as attempt %d, while it waited on a timer from %v to %v as attempt %d",
				r.Proc, c.since(r.Start), r.Attempt+1, c.since(t.Since), c.since(t.Mono), t.Attempt+1)
		}
	}
}

// wasStopped reports whether r's process was stopped about when r began: it may
// have looked around before, and begun after.
func (c *checker) wasStopped(r *Run) bool {
	return slices.ContainsFunc(c.faults, func(f fault) bool {
		return f.name == StopWorker && r.in(f.pid) && f.begin <= r.Start && r.Start <= f.over+int64(settle)
	})
}

// forked reports whether a broker was killed between the first run of s and r. A
// broker rebuilds what it knows of message ids from the messages that it still
// has: a move whose answer was lost with it, and whose copy has been worked off
// since, is stored a second time.
func (c *checker) forked(s *story, r *Run) bool {
	return slices.ContainsFunc(c.faults, func(f fault) bool {
		return f.name == KillBroker && f.begin >= s.runs[0].Start && f.begin <= r.Start
	})
}

// deaths holds that a task which kills its process is given up in time. A fault
// that broke one of its runs may have kept that death from being counted.
func (c *checker) deaths(s *story) {
	n, allowed := 0, c.limits.MaxDeliver+1
	for _, r := range s.runs {
		if r.End != 0 {
			continue
		}
		n++
		if by := c.explain(r); by != "" && by != TaskKills {
			allowed++
		}
	}
	if n > allowed {
		c.fail(TooManyDeaths, s.id, "%d processes died of it or with it, %d are allowed", n, allowed)
	}
}
