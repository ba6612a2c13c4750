// Package streams is the topology of a fleet as values: which streams, consumers
// and buckets the broker has to hold for the classes and services that one file,
// fleet.yaml, describes.
//
// # Semantics
//
// A [Fleet] is read by [Default], [Load] or [Parse]; [Fleet.Topology] derives
// everything from it. [Plan] compares that with the broker, [Apply] carries the
// difference out, and [Check] is what a service asks at its start. Nothing here
// ever deletes: what the fleet no longer names is reported and stays, because it
// may hold tasks. A change that the broker cannot make without losing or
// stranding tasks is refused, with what to do first.
//
// Names and subjects are those of package task; each station of a task's path
// has a file here: tasks.go, retry.go, dead.go, advisories.go, audit.go,
// bodies.go, presence.go, alerts.go, breakers.go, limits.go, and consumers.go and
// watchers.go for the durables.
//
// # Concurrency
//
// Functions are safe for concurrent use. A Fleet is plain data: share it freely,
// change it only before it is shared.
//
// # Errors
//
// [ErrRefused] and [ErrDrift] are for callers that branch. Errors from the broker
// are wrapped with what was being done and, where it is known, what to do.
package streams

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

// Fleet describes a whole fleet. Fields that are zero take the defaults that
// their comments name; everything else is required. [Fleet.Validate] says what
// is missing.
type Fleet struct {
	Replicas          int  // copies of every stream: 1, 3 or 5; 0 means 1
	AllowShortAckWait bool // for tests: an ack-wait below [MinAckWait] does not outlive a leader election
	Classes           []Class
	Services          []Service
	Producers         []Producer // may be empty: then only operators can enqueue under permissions
	Dead              Store      // DEAD
	Bodies            Store      // BODIES
}

// Class is how soon a task should start, and the bounds within which it runs.
type Class struct {
	Name          task.Class
	AckWait       time.Duration // the lease on a delivery, not the duration of a task; at least [MinAckWait]
	TimeLimit     time.Duration // of one attempt
	Attempts      int           // handler runs that may end in an error, the first included
	MaxDeliver    int           // deliveries that may end in no verdict; below [BrokerMaxDeliver]
	WaitObjective time.Duration // how soon a task should start
	Slots         int           // handlers at once in one process, of one service
	RetrySlots    int           // the same for retries; 0 means max(2, Slots/4)
	MaxBytes      int64         // of the class's stream; 0 means 1 GiB
	Backoff       Backoff       // between attempts
	Partitions    int           // makes it fair between tenants: how many of them it has turns for, at most; 0 means it is not fair
}

// Fair reports whether the class is fair between tenants.
func (c Class) Fair() bool { return c.Partitions > 0 }

// Backoff bounds the delays between attempts, as [retry.Policy] explains.
type Backoff struct {
	Base time.Duration // upper bound of the first delay; 0 means 1 s
	Cap  time.Duration // upper bound of every delay; 0 means 10 min
}

// Retry is the class's retry policy.
func (c Class) Retry() retry.Policy {
	return retry.Policy{Base: c.Backoff.Base, Cap: c.Backoff.Cap, Attempts: c.Attempts}
}

// Service is one deployed worker service, and the classes it serves.
type Service struct {
	Name      string // the first token of its kinds
	Classes   []task.Class
	Processes int // the most that run at once, which sizes its consumers; 0 means 1
}

// Serves reports whether the service takes tasks of class c.
func (s Service) Serves(c task.Class) bool {
	return slices.Contains(s.Classes, c)
}

// Store bounds a stream or bucket that belongs to no class.
type Store struct {
	MaxBytes int64 // 0 means the default: 1 GiB for DEAD, 2 GiB for BODIES
}

const (
	// MinAckWait is the shortest ack-wait allowed without AllowShortAckWait. A
	// lease has to survive the election of a new leader, which takes 6 to 8 s.
	MinAckWait = 20 * time.Second

	// BrokerMaxDeliver is the MaxDeliver of every consumer. It is a backstop: the
	// worker gives a task up at its class's MaxDeliver, long before.
	BrokerMaxDeliver = 20

	// MaxMessage is the largest task, headers included, that a class's stream
	// takes, in bytes.
	MaxMessage = 512 << 10

	// Dedupe is how long a stream remembers the ids of what was published to it.
	Dedupe = 10 * time.Minute
)

//go:embed fleet.yaml
var defaultFleet []byte

// Default returns the fleet of the embedded fleet.yaml, a new copy each time.
func Default() *Fleet {
	f, err := Parse(defaultFleet)
	if err != nil {
		return &Fleet{} // which nothing accepts; a test holds that fleet.yaml parses
	}
	return f
}

// Load reads the fleet file at path. It replaces the embedded one as a whole:
// nothing is merged.
func Load(path string) (*Fleet, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read fleet file: %w", err)
	}
	f, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Class returns the class of that name and whether there is one.
func (f *Fleet) Class(name task.Class) (Class, bool) {
	for _, c := range f.Classes {
		if c.Name == name {
			return c, true
		}
	}
	return Class{}, false
}

// Service returns the service of that name and whether there is one.
func (f *Fleet) Service(name string) (Service, bool) {
	for _, s := range f.Services {
		if s.Name == name {
			return s, true
		}
	}
	return Service{}, false
}

const (
	defaultMaxBytes  = 1 << 30
	defaultBodies    = 2 << 30
	minRetrySlots    = 2
	retrySlotsDivide = 4
)

// withDefaults returns a copy of f with its zero fields filled in.
func (f *Fleet) withDefaults() *Fleet {
	out := *f
	out.Replicas = orDefault(f.Replicas, 1)
	out.Dead.MaxBytes = orDefault(f.Dead.MaxBytes, defaultMaxBytes)
	out.Bodies.MaxBytes = orDefault(f.Bodies.MaxBytes, defaultBodies)
	out.Classes = slices.Clone(f.Classes)
	for i := range out.Classes {
		c := &out.Classes[i]
		c.RetrySlots = orDefault(c.RetrySlots, max(minRetrySlots, c.Slots/retrySlotsDivide))
		c.MaxBytes = orDefault(c.MaxBytes, defaultMaxBytes)
		p := retry.Policy{Base: c.Backoff.Base, Cap: c.Backoff.Cap}.WithDefaults()
		c.Backoff = Backoff{Base: p.Base, Cap: p.Cap}
	}
	out.Services = slices.Clone(f.Services)
	for i := range out.Services {
		s := &out.Services[i]
		s.Processes = orDefault(s.Processes, 1)
	}
	return &out
}

// ready is f with defaults, or why it is not a fleet.
func (f *Fleet) ready() (*Fleet, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	return f.withDefaults(), nil
}

func orDefault[N int | int64](n, otherwise N) N {
	if n == 0 {
		return otherwise
	}
	return n
}
