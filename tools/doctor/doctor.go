// Package doctor looks at a fleet from outside and says what is wrong with it: is
// it the broker, a stream, a class without workers, workers that wait, tasks that
// fail, or a destination?
//
// # Semantics
//
// [Examine] gathers what there is to see, once, and then asks every check what it
// makes of it. It only reads. Every call to the broker has a limit and the whole
// has one; what could not be seen in time, or is not allowed, is a finding of its
// own, so that silence is never taken for health.
//
// Figures are not from one instant. What looks like a lane that stands still is
// looked at twice, a moment apart, before it is called so.
//
// Thresholds are constants beside the check that uses them.
//
// # Concurrency
//
// Examine is safe for concurrent use.
package doctor

import (
	"cmp"
	"context"
	"time"

	"github.com/droverhq/drover/streams"
)

// Options say what to look at. Fleet is required.
type Options struct {
	Fleet *streams.Fleet
	URL   string // one or more, separated by commas; "" means broker.DefaultURL
	Creds string // path of a .creds file; "" for none
	NKey  string // path of an nkey seed file; "" for none
	User  string // whose key that is, which the permissions of its inbox go by; "" means streams.OperatorUser

	Contained []string // services that `drover run` can start; any other has a binary of its own

	Limit    time.Duration // of the whole examination; 0 means 10 s
	Interval time.Duration // between the two looks at the lanes; 0 means 1 s
	Host     Host          // what is known of this machine; see [ThisHost]
}

const (
	defaultLimit    = 10 * time.Second
	defaultInterval = time.Second // pulls of a worker that is alive are there again by then
)

// Examine looks at the fleet and reports. It always returns a report: a broker
// that cannot be reached is a finding like any other. Its error is that of a fleet
// that is no fleet.
func Examine(ctx context.Context, o Options) (Report, error) {
	if err := o.Fleet.Validate(); err != nil {
		return Report{}, err
	}
	o.Limit, o.Interval = cmp.Or(o.Limit, defaultLimit), cmp.Or(o.Interval, defaultInterval)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Limit, errSlow)
	defer cancel()
	start := time.Now()
	s := gather(ctx, o)
	r := Report{Findings: []Finding{}, Checks: []Check{}} // for JSON: [] says that there are none
	for _, c := range checks {
		findings, line := c.look(s)
		r.Findings = append(r.Findings, findings...)
		line.Subject, line.Findings = c.subject, len(findings)
		r.Checks = append(r.Checks, line)
		if s.connectErr != nil {
			break // its line says that nothing else could be looked at
		}
	}
	r.sort()
	r.Healthy = len(r.Findings) == 0
	r.Took = time.Since(start).Seconds()
	return r, nil
}

// check is one question about the fleet. Each has its own file, or shares that of
// its noun.
type check struct {
	subject string
	look    func(*snapshot) ([]Finding, Check)
}

// checks are all of them, in the order in which a person would ask.
var checks = []check{
	{"broker", lookBroker},
	{"clock", lookClock},
	{"storage", lookStorage},
	{"streams", lookStreams},
	{"cluster", lookCluster},
	{"topology", lookTopology},
	{"processes", lookProcesses},
	{"lanes", lookLanes},
	{"tasks", lookTasks},
	{"destinations", lookDestinations},
	{"timers", lookTimers},
	{"bodies", lookBodies},
	{"given up", lookAdvisories},
	{"answers", lookUnseen},
}
