package chaos

import (
	"time"
)

// letter holds that a dead letter tells the truth, and all of it.
func (c *checker) letter(s *story, l *Event) {
	if l.Failures == 0 || l.Reason == "" {
		c.fail(NoHistory, s.id, "its dead letter has reason %q and %d failures", l.Reason, l.Failures)
	}
	if !l.HasBody {
		c.fail(NoBody, s.id, "the body of its dead letter cannot be read")
	}
	if why := c.unfounded(s, l); why != "" {
		c.fail(WrongDeath, s.id, "it is dead of %s after %d attempts: %s", l.Reason, l.Attempt, why)
	}
	for _, r := range s.runs {
		// The letter's time is the broker's wall clock; a start before it is stored
		// and written to the ledger after it is not more than a second late.
		if r.Start > l.Mono+int64(time.Second) && !c.wasStopped(r) && !c.forked(s, r) {
			c.fail(RanAfterDeath, s.id, "%s ran it at %v, and its dead letter was stored at %v", r.Proc, c.since(r.Start), c.since(l.Mono))
		}
	}
}

// unfounded returns what the runs of a task lack for the reason of its letter.
func (c *checker) unfounded(s *story, l *Event) string {
	switch l.Reason {
	case "failed":
		if l.Attempt != c.limits.Attempts {
			return "its class allows another number"
		}
		failed := map[int]bool{}
		for _, r := range s.runs {
			switch r.Verdict {
			case Failed, Panicked, TimeLimit, "":
				failed[r.Attempt] = true
			}
		}
		if len(failed) != c.limits.Attempts {
			return "not that many failed"
		}
	case "permanent":
		for _, r := range s.runs {
			if r.Verdict == Permanent {
				return ""
			}
		}
		return "no run of it said so"
	case "crash-loop":
		// One that kills its process once may do so alone in a child, after others
		// have twice killed the one that it was in.
		if s.plan != PlanPoison && s.plan != PlanStumble {
			return "it kills no process"
		}
	default:
		return "no task of this test can die of that"
	}
	return ""
}
