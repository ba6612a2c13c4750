package chaos

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what the checker found in one ledger.
type Report struct {
	Seed       uint64
	Limits     Limits
	Violations []Violation // none: every promise was kept
	Faults     map[string]int
	Stored     int // tasks whose publish was acknowledged
	Unknown    int // tasks whose publish ended in doubt
	Refused    int
	Done       int            // tasks that ended well
	Dead       map[string]int // dead letters by reason
	Runs       int
	Extra      map[string]map[string]int // runs without a right, by what they followed and the fault that explains them
	ExtraRuns  int
	Orphans    []string // tasks that are done and whose bodies are still in BODIES
	Torn       int
	Took       time.Duration // from the first publish to the last task done
	Rate       float64       // tasks done in a second of that
	Longest    time.Duration // in which tasks were published and none was done
	Stalls     map[string][]time.Duration

	ledger  *Ledger
	history *history
}

// Check reads the ledger in dir and judges it. It needs nothing else. The error is
// of reading alone; what is wrong with the fleet is in Violations.
func Check(dir string) (*Report, error) {
	l, err := Read(dir)
	if err != nil {
		return nil, err
	}
	return judge(l), nil
}

func judge(l *Ledger) *Report {
	h := newHistory(l)
	c := &checker{history: h, extra: map[string]map[string]int{}}
	c.check()
	r := &Report{
		Seed: h.seed, Limits: h.limits, Violations: c.violations, Extra: c.extra, ExtraRuns: c.extras, Torn: l.Torn,
		Faults: map[string]int{}, Dead: map[string]int{}, Stalls: map[string][]time.Duration{}, ledger: l, history: h,
	}
	r.count()
	r.time()
	return r
}

func (r *Report) count() {
	for i := range r.history.faults {
		r.Faults[r.history.faults[i].name]++
	}
	for _, id := range slices.Sorted(maps.Keys(r.history.tasks)) {
		s := r.history.tasks[id]
		switch s.published {
		case Stored:
			r.Stored++
		case Unknown:
			r.Unknown++
		case Refused:
			r.Refused++
		default: // the publisher's last words
		}
		r.Runs += len(s.runs)
		if s.done() != nil {
			r.Done++
			if s.bodies > 0 && len(s.letters) == 0 {
				r.Orphans = append(r.Orphans, id)
			}
		}
		for i := range s.letters {
			r.Dead[s.letters[i].Reason]++
		}
	}
}

// time measures how fast the fleet was, and how long it stood still.
func (r *Report) time() {
	h := r.history
	if len(h.stored) == 0 || len(h.ends) == 0 {
		return
	}
	first, until := h.stored[0], h.stored[len(h.stored)-1]
	r.Took = time.Duration(h.ends[len(h.ends)-1] - first)
	r.Rate = float64(len(h.ends)) / r.Took.Seconds()
	r.Longest = longestGap(h.ends, first, until)
	for i := range h.faults {
		f := &h.faults[i]
		if f.begin < until {
			r.Stalls[f.name] = append(r.Stalls[f.name], longestGap(h.ends, f.begin, min(until, f.over+f.after(&h.limits))))
		}
	}
}

// longestGap is the longest time between two of the ends, from one time to another.
func longestGap(ends []int64, from, to int64) time.Duration {
	longest, last := int64(0), from
	for _, t := range ends {
		if t < from {
			continue
		}
		longest = max(longest, t-last)
		last = t
		if t > to {
			break
		}
	}
	return time.Duration(longest)
}

// Rates are tasks done in a second around the faults of one kind: in the ten
// seconds before, while it lasts, and in the ten seconds after.
type Rates struct{ Before, During, After float64 }

const around = 10 * time.Second

// Rates returns the median rates around the faults of a kind that began and were
// over while tasks were published; the zero value when there were none.
func (r *Report) Rates(kind string) Rates {
	h := r.history
	var before, during, after []float64
	for i := range h.faults {
		f := &h.faults[i]
		if f.name != kind || len(h.stored) == 0 || f.over+int64(around) > h.stored[len(h.stored)-1] {
			continue
		}
		before = append(before, rate(h.ends, f.begin-int64(around), f.begin))
		during = append(during, rate(h.ends, f.begin, f.over))
		after = append(after, rate(h.ends, f.over, f.over+int64(around)))
	}
	return Rates{median(before), median(during), median(after)}
}

func rate(at []int64, from, to int64) float64 {
	n := 0
	for _, t := range at {
		if from <= t && t < to {
			n++
		}
	}
	return float64(n) / max(time.Duration(to-from).Seconds(), 1e-3)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// Has reports whether a violation of this kind was found.
func (r *Report) Has(kind string) bool {
	return slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Kind == kind })
}

const maxStories = 5 // tasks whose whole story is told on failure

// WriteTo writes the report for people: what was done, what came of it, and the
// story of the tasks that came to harm.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	r.figures(&b)
	fmt.Fprintf(&b, "\n%d violations\n", len(r.Violations))
	told := map[string]bool{}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  %v\n", v)
		if v.ID != "" && len(told) < maxStories {
			told[v.ID] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(told)) {
		r.story(&b, id)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (r *Report) figures(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("seed", "%d", r.Seed)
	row("brokers", "%d, ack-wait %v, time limit %v, attempts %d, max-deliver %d",
		r.Limits.Brokers, r.Limits.AckWait, r.Limits.TimeLimit, r.Limits.Attempts, r.Limits.MaxDeliver)
	row("faults", "%d: %s", sum(r.Faults), counts(r.Faults))
	row("published", "%d acknowledged, %d in doubt, %d refused", r.Stored, r.Unknown, r.Refused)
	row("ended", "%d done, %d dead: %s", r.Done, sum(r.Dead), counts(r.Dead))
	row("runs", "%d, of which %d extra", r.Runs, r.ExtraRuns)
	for _, kind := range slices.Sorted(maps.Keys(r.Extra)) {
		row("  "+kind, "explained by %s", counts(r.Extra[kind]))
	}
	row("bodies", "%d orphans %s", len(r.Orphans), strings.Join(r.Orphans, " "))
	row("rate", "%.0f tasks/s over %v", r.Rate, r.Took.Round(100*time.Millisecond))
	row("stalls", "longest %v", r.Longest.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(r.Stalls)) {
		s := slices.Sorted(slices.Values(r.Stalls[name]))
		row("  "+name, "median %v, longest %v", s[len(s)/2].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond))
	}
	if v := r.Rates(KillBroker); v.Before > 0 {
		row("broker killed", "%.0f tasks/s before, %.0f until it was back, %.0f after", v.Before, v.During, v.After)
	}
	if r.Torn > 0 {
		row("torn lines", "%d", r.Torn)
	}
	_ = t.Flush() // to a strings.Builder
}

// story tells everything about one task, and the faults that fell into its life.
func (r *Report) story(b *strings.Builder, id string) {
	s := r.history.tasks[id]
	fmt.Fprintf(b, "\ntask %s (%s)\n", id, s.plan)
	from, to := s.intended, s.intended
	var own []Event
	runs := map[string]bool{}
	for i := range r.ledger.Events {
		e := &r.ledger.Events[i]
		if e.ID == id || runs[e.Run] {
			own = append(own, *e)
			to = max(to, e.Mono)
			if e.What == Start {
				runs[e.Run] = true
			}
		}
	}
	for i := range r.ledger.Events {
		if e := &r.ledger.Events[i]; (e.What == Begin || e.What == Over || e.What == Up || e.What == Exit) && e.Mono >= from && e.Mono <= to {
			own = append(own, *e)
		}
	}
	slices.SortStableFunc(own, func(a, b Event) int { return int(min(1, max(-1, a.Mono-b.Mono))) })
	for i := range own {
		e := &own[i]
		fmt.Fprintf(b, "  %12v  %-9s %s %s\n", r.history.since(e.Mono), e.What, e.Proc, e.detail())
	}
}

func (e *Event) detail() string {
	switch e.What {
	case Begin, Over:
		return fmt.Sprintf("%d %s %s", e.Fault, e.Name, e.Target)
	case Exit:
		return fmt.Sprintf("pid %d, code %d", e.PID, e.Code)
	case Up:
		return fmt.Sprintf("pid %d", e.PID)
	case Start:
		return fmt.Sprintf("pid %d of %d, attempt %d", e.PID, e.PPID, e.Attempt+1)
	case End:
		return fmt.Sprintf("pid %d, %s %s", e.PID, e.Verdict, e.Text)
	case Timer:
		return fmt.Sprintf("attempt %d, seen for %v", e.Attempt+1, time.Duration(e.Mono-e.Since).Round(time.Millisecond))
	case Letter:
		return fmt.Sprintf("%s after %d attempts, %d failures told", e.Reason, e.Attempt, e.Failures)
	case Stored, Left:
		return fmt.Sprintf("%s %d", e.Stream, e.Sequence)
	default:
		return e.Text
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func counts(m map[string]int) string {
	parts := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}
