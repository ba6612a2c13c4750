package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
)

const (
	recent   = 15 * time.Minute // how far back a failure is one of now
	justNow  = 5 * time.Minute  // the window whose rate of deaths is compared with what was before
	manyFail = 5                // failures from which on a destination or a kind is called failing
	mostly   = 0.5              // the share of a kind's failures that one destination must have
)

// failure is one task whose last attempt has failed not long ago.
type failure struct {
	task backlog.Task
	at   time.Time
	text string
	host string // that the text names; "" for none
	what string // that the host does
	link bool
	dead bool
}

// failures are those of now: tasks that wait for a retry, and those that died of
// their attempts.
func (s *snapshot) failures() []failure {
	var out []failure
	add := func(t backlog.Task, dead bool) {
		n := len(t.Errors)
		if n == 0 {
			return
		}
		last := t.Errors[n-1]
		if s.now.Sub(last.At) > recent {
			return
		}
		f := failure{task: t, at: last.At, text: last.Error, host: hostOf(last.Error), dead: dead}
		f.what, f.link = causeOf(last.Error)
		out = append(out, f)
	}
	for _, t := range s.timers.tasks {
		if t.Reason == task.Retried || t.Reason == task.Circuit { // which it failed into, if it has failed
			add(t, false)
		}
	}
	for _, t := range s.dead.tasks {
		if t.Reason == task.Failed || t.Reason == task.Permanent {
			add(t, true)
		}
	}
	return out
}

// group is failures that have something in common.
type group struct {
	name string
	all  []failure
}

// by groups failures, the largest first.
func by(all []failure, key func(failure) string) []group {
	at := map[string]int{}
	var out []group
	for _, f := range all {
		k := key(f)
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k], out = i, append(out, group{name: k})
		}
		out[i].all = append(out[i].all, f)
	}
	slices.SortStableFunc(out, func(a, b group) int {
		return cmp.Or(cmp.Compare(len(b.all), len(a.all)), cmp.Compare(a.name, b.name))
	})
	return out
}

func kindOf(f failure) string { return f.task.Subject.Kind() }

// most is what most of g do, with its number.
func (g group) most(key func(failure) string) (string, int) {
	b := by(g.all, key)
	return b[0].name, len(b[0].all)
}

func (g group) count(is func(failure) bool) (n int) {
	for _, f := range g.all {
		if is(f) {
			n++
		}
	}
	return n
}

func isDead(f failure) bool { return f.dead }

// blamed are the destinations that are to blame for failures, with those.
func blamed(all []failure) []group {
	ofKind := map[string]int{}
	for _, f := range all {
		ofKind[kindOf(f)]++
	}
	var out []group
	for _, g := range by(all, func(f failure) string { return f.host }) {
		whole := 0
		for _, k := range by(g.all, kindOf) {
			whole += ofKind[k.name]
		}
		if g.name != "" && len(g.all) >= manyFail && float64(len(g.all)) >= mostly*float64(whole) {
			out = append(out, g)
		}
	}
	return out
}

// unreachable are failures to connect, when they are of so many destinations that
// the common cause is on this side.
func unreachable(all []failure) (group, int) {
	var g group
	hosts := map[string]bool{}
	for _, f := range all {
		if f.link && f.host != "" {
			g.all = append(g.all, f)
			hosts[f.host] = true
		}
	}
	const many = 3 // destinations
	if len(hosts) < many || float64(len(g.all)) < 0.8*float64(len(all)) || len(g.all) < manyFail {
		return group{}, 0
	}
	for _, h := range by(g.all, func(f failure) string { return f.host }) {
		if float64(len(h.all)) > 0.8*float64(len(g.all)) {
			return group{}, 0 // one of them is to blame, not the network
		}
	}
	return g, len(hosts)
}

// lookDestinations is whether failures have one destination in common.
func lookDestinations(s *snapshot) ([]Finding, Check) {
	if s.stream(task.RetryStream) == nil && s.stream(task.DeadStream) == nil {
		return nil, skip("neither RETRY nor DEAD could be read")
	}
	all := s.failures()
	var out []Finding
	groups := blamed(all)
	if g, hosts := unreachable(all); hosts > 0 {
		what, _ := g.most(func(f failure) string { return f.what })
		out = append(out, find("network", "network", fmt.Sprintf("connections to %d destinations fail at once: it is the network or the DNS of the workers", hosts), uint64(len(g.all))).
			seen(s.failed(g), fmt.Sprintf("most often: the destination %s", what)).
			follows("Tasks that call out are retried, and die when their attempts are spent.").
			remedy("from a worker's machine or container: look up and connect to one of the destinations", "see to DNS, proxy, firewall and routes there; then: drover dead redrive --all --reason failed --yes"))
		groups = nil
	}
	for _, g := range groups {
		what, n := g.most(func(f failure) string { return f.what })
		kinds := by(g.all, kindOf)
		of := 0
		for _, f := range all {
			if kindOf(f) == kinds[0].name {
				of++
			}
		}
		f := find("destination", g.name, fmt.Sprintf("%s %s: this is not the fleet", plain(g.name), what), uint64(len(g.all))).
			seen(fmt.Sprintf("%s of %d of %s %s it; %s it %s", some(uint64(len(kinds[0].all)), "failure", "failures"), of, kinds[0].name,
				verb(len(kinds[0].all), "names", "name"), some(uint64(n), "time", "times"), what),
				s.failed(g), "the last: "+plain(latest(g.all).text)).
			follows("Tasks for it are retried with growing delays, and die when their attempts are spent; tasks for others are not touched.").
			remedy(fmt.Sprintf("ask whoever runs %s, or call it from a worker's machine", g.name),
				fmt.Sprintf("when it is back: drover dead redrive --all --kind %s --text %s --yes", kinds[0].name, quoted(g.name)))
		out = append(out, f)
	}
	return out, Check{Text: fmt.Sprintf("%s within %v, %s named in them", some(uint64(len(all)), "failure", "failures"), recent,
		some(uint64(countHosts(all)), "destination", "destinations"))}
}

func countHosts(all []failure) int {
	hosts := map[string]bool{}
	for _, f := range all {
		if f.host != "" {
			hosts[f.host] = true
		}
	}
	return len(hosts)
}

// failed says where the failures of g were seen.
func (s *snapshot) failed(g group) string {
	dead := g.count(isDead)
	return fmt.Sprintf("%s for a retry (RETRY, %v looked at), %s dead (DEAD, %v looked at)",
		some(uint64(len(g.all)-dead), "waits", "wait"), s.timers, some(uint64(dead), "is", "are"), s.dead)
}

func latest(all []failure) failure {
	return slices.MaxFunc(all, func(a, b failure) int { return a.at.Compare(b.at) })
}

// quoted is a word for a shell.
func quoted(word string) string { return "'" + screenSafe(word) + "'" }
