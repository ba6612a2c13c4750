package fleet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// Process is what a process of the fleet says of itself. Service and Instance are
// its name, and tokens as [task.CheckToken] has them.
type Process struct {
	Service  string    `json:"service"`
	Instance string    `json:"instance"` // service.instance.id of its telemetry
	Version  string    `json:"version"`
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	At       time.Time `json:"at"`             // when it said this, by its own clock
	Pool     string    `json:"pool,omitempty"` // "all", "live" or "retry"; "" without a worker
	Settled  int64     `json:"settled"`        // tasks that it brought to a verdict
	Draining bool      `json:"draining"`       // it is about to end
	NotReady string    `json:"not_ready,omitempty"`
	Lanes    []Lane    `json:"lanes,omitempty"`
	Busy     []Busy    `json:"busy,omitempty"`

	Confined *Confined  `json:"confined,omitempty"` // nil without isolated kinds
	Isolated []Isolated `json:"isolated,omitempty"`
}

// Lane is what a process does in one lane.
type Lane struct {
	Class   task.Class `json:"class"`
	Retry   bool       `json:"retry"`   // of due retries
	Slots   int        `json:"slots"`   // handlers that may run at once
	Running int        `json:"running"` // handlers that run
	Held    int        `json:"held"`    // tasks under a lease, running or not
	Leaked  int        `json:"leaked"`  // slots lost to handlers that ignore their cancelled context
}

// Busy is how many tasks of one kind run in a process.
type Busy struct {
	Kind    string  `json:"kind"`
	Running int     `json:"running"`
	Longest float64 `json:"longest_seconds"` // how long the first of them has run
}

// Confined is how a process holds the tasks of its isolated kinds.
type Confined struct {
	Memory    string `json:"memory"`    // "cgroup", "rlimit" or "none"
	Processes string `json:"processes"` // "cgroup", "environment" or "group"
}

// Isolated counts tasks of an isolated kind whose process ended without a verdict,
// since their worker started.
type Isolated struct {
	Kind   string `json:"kind"`
	OOM    int64  `json:"oom"`    // reached their memory cap
	Killed int64  `json:"killed"` // reached another limit
	Died   int64  `json:"died"`   // by themselves, or by someone else
}

const (
	// AnnounceEvery is how often a process renews its entry, give or take a tenth,
	// so that a fleet that was started at once does not write at once.
	AnnounceEvery = 10 * time.Second

	// AnnounceTTL is how long an entry outlives its last renewal: long enough for
	// the election of a leader.
	AnnounceTTL = 30 * time.Second

	ghostAfter  = 10 * AnnounceTTL // with room for clocks that differ
	endLimit    = 3 * time.Second  // for deleting the entry: a process that ends does not wait long for that
	deniedEvery = 10 * time.Minute // between tries at what the credentials do not allow
)

// Announcement is what [Announce] needs to know.
type Announcement struct {
	// Self returns the entry as it is now, without At. It is required.
	Self func() Process

	// Changed has the entry renewed at once; nil never does.
	Changed <-chan struct{}

	// Trouble is told when renewing fails for the first time, and with nil when it
	// works again. nil ignores it.
	Trouble func(error)
}

// Announce keeps the entry of this process in FLEET until ctx is done, and then
// deletes it. It goes on through errors, which it tells a.Trouble: that nobody
// knows of a process is no reason for it to stop. It returns why the entry could
// not be deleted; the broker then does within [AnnounceTTL].
func Announce(ctx context.Context, js jetstream.JetStream, a Announcement) error {
	failing, written := false, false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-timer.C:
		case <-a.Changed:
		case <-ctx.Done():
			continue
		}
		err := Put(ctx, js, a.Self())
		if ctx.Err() != nil {
			written = true // or it is not known
			break
		}
		if a.Trouble != nil && (err != nil) != failing {
			a.Trouble(err)
		}
		failing, written = err != nil, written || err == nil
		timer.Reset(renewIn(err))
	}
	if !written {
		return nil
	}
	p := a.Self()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if err := Remove(ctx, js, p.Service, p.Instance); err != nil {
		return fmt.Errorf("delete the entry of %s %s: %w", p.Service, p.Instance, err)
	}
	return nil
}

// renewIn is how long to wait after a write that ended in err.
func renewIn(err error) time.Duration {
	every := AnnounceEvery
	if errors.Is(err, broker.ErrDenied) {
		every = deniedEvery // each try is an error in the broker's log, and in ours
	}
	return every*9/10 + rand.N(every/5)
}

// Put writes the entry of p, for [AnnounceTTL]. It returns an error wrapping
// [record.ErrNoBucket] or [broker.ErrDenied], or one of the broker.
func Put(ctx context.Context, js jetstream.JetStream, p Process) error {
	key, err := processKey(p.Service, p.Instance)
	if err == nil {
		p.At = time.Now().UTC()
		_, err = bucket(js).Put(ctx, key, p, AnnounceTTL, record.Any)
	}
	if err != nil {
		return fmt.Errorf("announce %s %s: %w", p.Service, p.Instance, err)
	}
	return nil
}

// Remove deletes the entry of a process, if there is one.
func Remove(ctx context.Context, js jetstream.JetStream, service, instance string) error {
	key, err := processKey(service, instance)
	if err != nil {
		return err
	}
	return bucket(js).Delete(ctx, key, record.Any)
}

// Processes returns the processes of the fleet, or of one service when service is
// not "", those that spoke last at the end. An entry that cannot be read is an
// error in its place. An error wrapping [record.ErrNoBucket] or [broker.ErrDenied] is the only
// element. A [Ghost] is left out.
func Processes(ctx context.Context, js jetstream.JetStream, service string) iter.Seq2[Process, error] {
	filter := "process.>"
	if service != "" {
		filter = "process." + task.Token(service) + ".>"
	}
	return func(yield func(Process, error) bool) {
		for e, err := range record.List[Process](ctx, bucket(js), filter) {
			if err == nil && Ghost(e.Written) {
				continue
			}
			if !yield(e.Value, err) {
				return
			}
		}
	}
}

// Ghost reports whether the entry of a process, written then by the broker's clock, is
// of none: it was not renewed for five minutes, and is there all the same (see package
// record).
func Ghost(written time.Time) bool { return time.Since(written) > ghostAfter }

func processKey(service, instance string) (string, error) {
	for _, t := range []string{service, instance} {
		if err := task.CheckToken(t); err != nil {
			return "", err
		}
	}
	return "process." + service + "." + instance, nil
}
