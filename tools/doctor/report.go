package doctor

import (
	"cmp"
	"slices"
)

// Severity says how bad a finding is.
type Severity string

// Severities, the worst first.
const (
	Stopped Severity = "stopped" // work stands still, or is refused or lost
	Failing Severity = "failing" // tasks run and end in errors
	Slow    Severity = "slow"    // tasks wait longer than they are meant to
	Notice  Severity = "notice"  // it works, and somebody should look
)

var severities = []Severity{Stopped, Failing, Slow, Notice}

// Report is what an examination found.
type Report struct {
	Healthy  bool      `json:"healthy"`  // there are no findings
	Findings []Finding `json:"findings"` // the worst first; causes before what follows from them
	Checks   []Check   `json:"checks"`   // what was looked at, in that order
	Took     float64   `json:"took_seconds"`
}

// Finding is one thing that is wrong.
type Finding struct {
	Name     string   `json:"name"` // as rules lists it, stable
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`   // what it is about, such as urgent/email or stream DEAD
	Wrong    string   `json:"wrong"`    // in one line
	Evidence []string `json:"evidence"` // figures, and where they are from
	Follows  string   `json:"follows"`  // for those who use the fleet
	Remedy   []string `json:"remedy"`   // commands or lines of configuration, the likeliest first
	Count    uint64   `json:"count"`    // tasks or objects concerned; 0 when there is nothing to count
}

// Check is one line on what was looked at.
type Check struct {
	Subject  string `json:"subject"`
	Text     string `json:"text"`
	Findings int    `json:"findings"`
	Skipped  bool   `json:"skipped"` // it could not be looked at; Text says why
}

// skip is the line of what could not be looked at.
func skip(why string) Check { return Check{Text: why, Skipped: true} }

// rule is what a name of a finding stands for.
type rule struct {
	name     string
	severity Severity
}

// rules are all findings that there are. Among findings of one severity the
// earlier rule comes first: what can be the cause of another stands before it.
var rules = []rule{
	{"broker-localhost", Stopped},
	{"broker-name", Stopped},
	{"broker-refused", Stopped},
	{"broker-tls", Stopped},
	{"broker-credentials", Stopped},
	{"broker-timeout", Stopped},
	{"broker-not-nats", Stopped},
	{"broker-unreachable", Stopped},
	{"broker-too-old", Stopped},
	{"jetstream-off", Stopped},
	{"inbox-denied", Stopped},
	{"account-full", Stopped},
	{"stream-silent", Stopped},
	{"stream-full", Stopped},
	{"topology-missing", Stopped},
	{"topology-broken", Stopped},
	{"lane-nobody", Stopped},
	{"lane-stalled", Stopped},

	{"crash-loop", Failing},
	{"unknown-kind", Failing},
	{"undecodable", Failing},
	{"body-missing", Failing},
	{"network", Failing},
	{"destination", Failing},
	{"breaker-open", Failing},
	{"tasks-fail", Failing},
	{"expired", Failing},
	{"timers-stuck", Failing},
	{"stray", Failing},
	{"given-up", Failing},

	{"lane-paused", Slow},
	{"process-not-ready", Slow},
	{"deadletter-away", Slow},
	{"slots-leaked", Slow},
	{"lane-limit", Slow},
	{"lane-busy", Slow},
	{"lane-behind", Slow},
	{"lane-redelivered", Slow},
	{"put-off", Slow},
	{"rate-limit", Slow},
	{"cap", Slow},

	{"not-seen", Notice},
	{"replica-behind", Notice},
	{"clock", Notice},
	{"account-filling", Notice},
	{"stream-filling", Notice},
	{"retry-room", Notice},
	{"short-lease", Notice},
	{"topology-drift", Notice},
	{"topology-extra", Notice},
	{"dead-letters", Notice},
}

// find is a finding of the rule called name.
func find(name, object, wrong string, count uint64) Finding {
	i := rank(name)
	f := Finding{Name: name, Object: object, Wrong: wrong, Count: count}
	if i < len(rules) {
		f.Severity = rules[i].severity
	}
	return f
}

// few makes what is no more than an accident something for the morning.
func (f Finding) few() Finding {
	if f.Severity == Failing && f.Count < manyFail {
		f.Severity = Slow
	}
	return f
}

func rank(name string) int {
	if i := slices.IndexFunc(rules, func(r rule) bool { return r.name == name }); i >= 0 {
		return i
	}
	return len(rules)
}

// seen, follows and remedy fill in the rest of a finding.
func (f Finding) seen(evidence ...string) Finding {
	f.Evidence = append(f.Evidence, evidence...)
	return f
}

func (f Finding) follows(text string) Finding {
	f.Follows = text
	return f
}

func (f Finding) remedy(lines ...string) Finding {
	f.Remedy = append(f.Remedy, lines...)
	return f
}

// sort puts the worst first.
func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity)),
			cmp.Compare(rank(a.Name), rank(b.Name)),
			cmp.Compare(b.Count, a.Count),
		)
	})
}
