// Package supervise runs a fleet on one machine: the broker inside this process,
// and every process of every service as a child of it. It is what `drover up` and
// `drover demo` stand on.
//
// # Semantics
//
// A child is the same binary, started as `drover run <service>`, so what runs on
// a laptop is what runs in production. It is started again whenever it ends:
// after a delay that doubles while it keeps ending, and at once when it asked for
// that with exit code 75. One that ends with exit code 78, because of its flags or
// its environment, stays down, and the others go on. A task that kills its process
// kills no neighbour.
//
// Children run in process groups of their own, so that ctrl-C in a terminal
// reaches the supervisor alone, which then drains them. Each also watches its
// standard input, whose other end only the supervisor holds: however the
// supervisor ends, its children end with it (see [EndWithParent]).
//
// The broker keeps its streams in the state folder, and a lock there keeps a
// second supervisor out.
//
// # Concurrency
//
// All methods of a [Supervisor] are safe for concurrent use, except that Stop is
// called once. It waits for everything that Start started.
package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/service/admin"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/streams"
)

// Config says what to run. Dir, Fleet and Command are required.
type Config struct {
	Dir     string         // state folder; it is made when it does not exist
	Port    int            // of the broker on 127.0.0.1; 0 means 4222, -1 any free one
	Fleet   *streams.Fleet // applied to the broker before the first process starts
	Command []string       // what to start: this and then the name of the service

	FleetFile string         // handed to the children; "" means the built-in one, which Fleet then has to be
	Extra     []string       // services that take no tasks and are not in Fleet
	Scale     map[string]int // processes by service; without an entry 1, with 0 none
	Env       []string       // KEY=VALUE for the children, over this process's environment
	Drain     time.Duration  // for running tasks, when a child is asked to end; 0 means 25 s
	Admin     string         // HOST:PORT of the supervisor's own /healthz, /readyz and /metrics; "" for none

	Logger *slog.Logger // of the broker and the supervisor; nil means slog.Default
	// Events is told what an operator may want to read, one call at a time. It must
	// not block, nor call the supervisor. nil logs it to Logger.
	Events func(Event)
}

// ErrRefused is why a process stays down: it has ended with exit code 78, and with
// the same flags and environment it would again.
var ErrRefused = errors.New("not started again: wrong flags or environment")

const (
	defaultDrain = 25 * time.Second
	afterDrain   = 16 * time.Second // what a worker allows itself to settle in after its drain limit, and a second
	startLimit   = 15 * time.Second // for connecting to the broker and applying the fleet
)

// Supervisor is a running fleet. It is made by [Start].
type Supervisor struct {
	config    Config
	log       *slog.Logger
	begun     time.Time
	lock      *os.File
	broker    *embed.Server
	js        jetstream.JetStream
	admin     *admin.Port
	unmeasure func(context.Context) error // ends what the admin port shows
	lanes     *laneCache
	processes []*process

	events   sync.Mutex
	stopping chan struct{}   // closed by Stop
	killCtx  context.Context //nolint:containedctx // the children live in it, not a call
	kill     context.CancelFunc
	wg       sync.WaitGroup
}

// Start starts the broker, applies the fleet and starts every process. The
// processes are not ready yet when it returns: see [Supervisor.WaitReady].
//
// It returns an error wrapping [ErrInUse] when another supervisor has the state
// folder, [embed.ErrPortTaken] when the broker's port is in use, and
// [streams.ErrRefused] when the fleet asks for a change that would lose tasks.
func Start(ctx context.Context, c Config) (*Supervisor, error) {
	if c.Dir == "" || c.Fleet == nil || len(c.Command) == 0 {
		return nil, errors.New("start fleet: a state folder, a fleet and a command are needed")
	}
	c.Drain = cmp.Or(c.Drain, defaultDrain)
	s := &Supervisor{config: c, log: c.Logger, begun: time.Now(), stopping: make(chan struct{})}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.killCtx, s.kill = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.start(ctx); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

func (s *Supervisor) start(ctx context.Context) (err error) {
	c := &s.config
	fleet, err := c.scaled()
	if err != nil {
		return err
	}
	if s.lock, err = lock(c.Dir); err != nil {
		return err
	}
	if s.broker, err = embed.Start(embed.Config{Dir: filepath.Join(c.Dir, "broker"), Port: c.Port, Logger: s.log}); err != nil {
		if errors.Is(err, embed.ErrPortTaken) {
			return fmt.Errorf("%w%s", err, occupant(ctx, cmp.Or(c.Port, defaultPort)))
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if s.js, err = broker.Connect(ctx, broker.Options{URL: s.broker.URL(), Name: "drover-up", Logger: s.log}); err != nil {
		return err
	}
	changes, err := streams.Apply(ctx, s.js, fleet)
	if err != nil {
		return fmt.Errorf("apply fleet: %w", err)
	}
	for _, c := range changes {
		if c.Action == streams.Update { // of what an earlier fleet file has left
			s.log.WarnContext(ctx, "the fleet file is not the one of before", slog.String("change", strings.Join(strings.Fields(c.String()), " ")))
		}
	}
	s.lanes = &laneCache{js: s.js, fleet: fleet}
	if c.Admin != "" {
		if err := s.listen(ctx, c.Admin); err != nil {
			return err
		}
	}
	for _, service := range c.services() {
		for n := range c.processes(service) {
			p, err := newProcess(s, service, n+1)
			if err != nil {
				return err
			}
			s.processes = append(s.processes, p)
		}
	}
	for _, p := range s.processes {
		s.wg.Go(p.run)
	}
	return nil
}

// services are those to run, by name.
func (c *Config) services() []string {
	out := slices.Clone(c.Extra)
	for _, s := range c.Fleet.Services {
		out = append(out, s.Name)
	}
	return out
}

// processes is how many processes of a service to run.
func (c *Config) processes(service string) int {
	if n, ok := c.Scale[service]; ok {
		return n
	}
	return 1
}

// scaled is the fleet with room in its consumers for all processes.
func (c *Config) scaled() (*streams.Fleet, error) {
	fleet := *c.Fleet
	fleet.Services = slices.Clone(c.Fleet.Services)
	for name, n := range c.Scale {
		i := slices.IndexFunc(fleet.Services, func(s streams.Service) bool { return s.Name == name })
		extra := slices.Contains(c.Extra, name)
		if i < 0 && !extra {
			return nil, fmt.Errorf("scale %s: the fleet file has no such service, only %s", name, names(fleet.Services))
		}
		if n < 0 || n > maxProcesses {
			return nil, fmt.Errorf("scale %s: %d processes, want 0 to %d", name, n, maxProcesses)
		}
		if extra {
			continue
		}
		fleet.Services[i].Processes = max(n, fleet.Services[i].Processes)
	}
	return &fleet, nil
}

const maxProcesses = 64 // of one service on one machine

func names(services []streams.Service) string {
	out := make([]string, len(services))
	for i, s := range services {
		out[i] = s.Name
	}
	return strings.Join(out, ", ")
}

// URL is where clients find the broker.
func (s *Supervisor) URL() string { return s.broker.URL() }

// JetStream is the supervisor's own connection, open until Stop.
func (s *Supervisor) JetStream() jetstream.JetStream { return s.js }

// Admin is the address of the supervisor's admin port, "" when it has none.
func (s *Supervisor) Admin() string {
	if s.admin == nil {
		return ""
	}
	return s.admin.Addr()
}

// Logs is the folder with one log file for each process.
func (s *Supervisor) Logs() string { return filepath.Join(s.config.Dir, "logs") }

// WaitReady returns once every process has been ready or stays down, with the
// error of [Supervisor.Refused]; or with one that names those that are not ready
// when ctx is done.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	for _, p := range s.processes {
		select {
		case <-p.ready:
		case <-p.down:
		case <-ctx.Done():
			return fmt.Errorf("wait for the fleet: %w", s.unready())
		}
	}
	return s.Refused()
}

// Refused is an error wrapping [ErrRefused] for each process that stays down, with
// what it said; nil when there is none.
func (s *Supervisor) Refused() error {
	var errs []error
	for _, p := range s.processes {
		p.mu.Lock()
		refused := p.refused
		p.mu.Unlock()
		if refused != "" {
			errs = append(errs, fmt.Errorf("%s is %w: %s", p.name, ErrRefused, refused))
		}
	}
	return errors.Join(errs...)
}

// unready says which processes are not ready now, and why; nil when all are.
func (s *Supervisor) unready() error {
	var errs []error
	for _, p := range s.processes {
		if st := p.snapshot(); !st.Ready {
			errs = append(errs, fmt.Errorf("%s is not ready: %s", st.Name, st.Status))
		}
	}
	return errors.Join(errs...)
}

// Stop asks every process to drain, waits for that, and then ends the broker.
// What has not ended when the drain limit and what a worker needs to settle are
// over, or when ctx is done, is killed; the error names it.
func (s *Supervisor) Stop(ctx context.Context) error {
	close(s.stopping)
	stop := context.AfterFunc(ctx, s.kill)
	defer stop()
	late := time.AfterFunc(s.config.Drain+afterDrain, s.kill)
	defer late.Stop()
	s.wg.Wait()
	var killed []string
	for _, p := range s.processes {
		if p.snapshot().Status == statusKilled {
			killed = append(killed, p.name)
		}
	}
	s.close(ctx)
	if killed != nil {
		return fmt.Errorf("stop fleet: %s did not drain and had to be killed: their tasks run again once their lease is over",
			strings.Join(killed, ", "))
	}
	return nil
}

// close undoes start, as far as it came. No process runs any more.
func (s *Supervisor) close(ctx context.Context) {
	s.kill()
	s.closeAdmin(ctx)
	for _, p := range s.processes {
		p.log.close()
	}
	if s.js != nil {
		s.js.Conn().Close()
	}
	if s.broker != nil {
		s.broker.Shutdown()
	}
	if s.lock != nil {
		_ = s.lock.Close() // which frees it
	}
}

func (s *Supervisor) stopped() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// childName is how a process is called in messages and log files.
func childName(service string, n int) string { return service + "-" + strconv.Itoa(n) }
