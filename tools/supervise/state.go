package supervise

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/streams"
)

// State is what a fleet is doing now.
type State struct {
	Since     time.Time // when the supervisor was started
	Processes []Process // in the order of the fleet file
	Lanes     []streams.Lane
	Err       error // why lanes are missing; nil when none is
}

// Process is the state of one process of a service.
type Process struct {
	Name     string    `json:"name"`            // such as "email-1"
	Service  string    `json:"service"`         // such as "email"
	PID      int       `json:"pid,omitempty"`   // 0 while it is not running
	Since    time.Time `json:"since,omitzero"`  // when this life of it began; zero before the first
	Restarts int       `json:"restarts"`        // lives that ended unasked; those that wanted a fresh process do not count
	Ready    bool      `json:"ready"`           // it takes tasks
	Status   string    `json:"status"`          // in a word or two, and when it is not ready, why
	Admin    string    `json:"admin,omitempty"` // address of its admin port; "" until it is open
	Log      string    `json:"log"`             // path of its log file
}

// Words of Process.Status, beside reasons.
const (
	statusStarting = "starting"
	statusReady    = "ready"
	statusDraining = "draining"
	statusDrained  = "drained"
	statusKilled   = "killed"
)

// Processes is the part of State that asks nobody.
func (s *Supervisor) Processes() []Process {
	out := make([]Process, len(s.processes))
	for i, p := range s.processes {
		out[i] = p.snapshot()
	}
	return out
}

// State returns what the fleet is doing. Its lanes may be that old: the broker is
// asked once for all who want to know.
func (s *Supervisor) State(ctx context.Context, age time.Duration) State {
	lanes, err := s.lanes.get(ctx, age)
	return State{Since: s.begun, Processes: s.Processes(), Lanes: lanes, Err: err}
}

// laneCache asks the consumers' leaders for the state of the lanes, on behalf of
// everybody who wants to know it: screen, metrics, probes.
type laneCache struct {
	js    jetstream.JetStream
	fleet *streams.Fleet

	mu    sync.Mutex // held while the broker is asked, so that it is asked once
	lanes []streams.Lane
	err   error
	at    time.Time
}

const lanesLimit = 5 * time.Second

// get returns lanes that are at most that old. The slice is shared: not to be changed.
func (c *laneCache) get(ctx context.Context, age time.Duration) ([]streams.Lane, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) >= age {
		ctx, cancel := context.WithTimeout(ctx, lanesLimit)
		defer cancel()
		c.lanes, c.err = streams.Lanes(ctx, c.js, c.fleet)
		c.at = time.Now()
	}
	return c.lanes, c.err
}
