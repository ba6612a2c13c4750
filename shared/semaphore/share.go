package semaphore

import (
	"cmp"
	"slices"
	"strings"
)

// claim is what one process has use for.
type claim struct {
	process string
	want    int
	held    int
	served  uint64
}

// share returns how many of n permits each process is due: the same for all, except
// that nobody gets more than it wants and the others share what that leaves. What
// cannot be divided goes to who has more already, so that it does not wander; when
// there are fewer permits than processes, to who was served longest ago, so that
// everybody gets a turn. turns reports that this is so.
func share(n int, claims []claim) (due map[string]int, turns bool) {
	level, most := 0, 0
	for _, c := range claims {
		most = max(most, c.want)
	}
	for level < min(n, most) && fits(n, level+1, claims) {
		level++
	}
	due = map[string]int{}
	left := n
	var more []claim // who want more than that
	for _, c := range claims {
		due[c.process] = min(c.want, level)
		left -= min(c.want, level)
		if c.want > level {
			more = append(more, c)
		}
	}
	turns = level == 0
	slices.SortFunc(more, func(a, b claim) int {
		if turns {
			return cmp.Or(cmp.Compare(a.served, b.served), compare(a.process, b.process))
		}
		return cmp.Or(cmp.Compare(b.held, a.held), compare(a.process, b.process))
	})
	for _, c := range more[:min(max(left, 0), len(more))] {
		due[c.process]++
	}
	return due, turns && len(more) > 0
}

// fits reports whether every process can have as many as it wants, up to level.
func fits(n, level int, claims []claim) bool {
	for _, c := range claims {
		if n -= min(c.want, level); n < 0 {
			return false
		}
	}
	return true
}

func compare(a, b string) int { return strings.Compare(a, b) }
