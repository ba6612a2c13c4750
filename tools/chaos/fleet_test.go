package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/chaos"
)

// fleet is what a test of this package breaks: brokers, workers and a publisher,
// each in a process of its own.
type fleet struct {
	tb      testing.TB
	setup   setup
	dir     string // of the ledger
	ledger  *chaos.Writer
	nodes   []*natstest.Broker
	cluster *natstest.Cluster // nil when there is one broker
	js      jetstream.JetStream
	workers []*member
	links   []*member // whose links are cut, beside the workers'
	exits   sync.WaitGroup
	faults  int
	open    []*active
	deck    []faultKind
	only    []string // kinds of faults; nil for all
}

// member is one place for a process, which may be filled by one after the other.
type member struct {
	name, role string
	link       *natstest.Link
	proc       *natstest.Process
	away       bool // it is not to be started again now
}

const slots = 8

// small is the setup of short tests on one broker.
func small(seed uint64) setup {
	return setup{
		Limits: chaos.Limits{
			Brokers: 1, AckWait: 2 * time.Second, TimeLimit: 3 * time.Second, Grace: time.Second, Attempts: 4, MaxDeliver: 3,
		},
		Slots: slots, Base: 200 * time.Millisecond, Drain: 2 * time.Second, Seed: seed, PerSec: 60, Work: 20 * time.Millisecond, Killers: 2,
	}
}

// newFleet starts the brokers, and makes the topology. Nothing works yet.
func newFleet(tb testing.TB, s setup) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, setup: s, dir: tb.TempDir()}
	var err error
	if f.ledger, err = chaos.Open(f.dir, "driver"); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		f.exits.Wait()
		_ = f.ledger.Close()
	})
	f.write(chaos.Event{What: chaos.Setup, Seed: s.Seed, Limits: &s.Limits})
	if s.Brokers == 1 {
		f.nodes = []*natstest.Broker{natstest.StartBroker(tb)}
	} else {
		f.cluster = natstest.StartCluster(tb)
		f.nodes = f.cluster.Nodes[:]
	}
	f.js = f.connect()
	cfg := &streams.Fleet{
		Replicas: s.Brokers, AllowShortAckWait: true,
		Classes: []streams.Class{{
			Name: task.Default, AckWait: s.AckWait, TimeLimit: s.TimeLimit, Attempts: s.Attempts, MaxDeliver: s.MaxDeliver,
			WaitObjective: time.Second, Slots: s.Slots, Backoff: streams.Backoff{Base: s.Base, Cap: 4 * s.Base},
		}},
		Services: []streams.Service{{Name: service, Classes: []task.Class{task.Default}, Processes: 4}},
	}
	if _, err := streams.Apply(tb.Context(), f.js, cfg); err != nil {
		tb.Fatal(err)
	}
	return f
}

func (f *fleet) urls() []string {
	var urls []string
	for _, n := range f.nodes {
		urls = append(urls, n.URL)
	}
	return urls
}

// connect is the driver's own connection, past all links. It notices soon when
// its broker is stopped.
func (f *fleet) connect() jetstream.JetStream {
	f.tb.Helper()
	nc, err := nats.Connect(strings.Join(f.urls(), ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ReconnectBufSize(-1), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(2*time.Second))
	if err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		f.tb.Fatal(err)
	}
	return js
}

func (f *fleet) write(e chaos.Event) {
	f.tb.Helper()
	if err := f.ledger.Write(e); err != nil {
		f.tb.Fatal(err)
	}
}

// worker adds a worker.
func (f *fleet) worker() *member {
	f.tb.Helper()
	m := f.member(fmt.Sprintf("worker-%d", len(f.workers)+1), "worker")
	f.workers = append(f.workers, m)
	return m
}

func (f *fleet) member(name, role string) *member {
	f.tb.Helper()
	m := &member{name: name, role: role, link: natstest.StartLink(f.tb, f.urls()...)}
	f.start(m)
	return m
}

// start fills m's place with a new process, and has its end written down.
func (f *fleet) start(m *member) {
	f.tb.Helper()
	p := natstest.Spawn(f.tb, m.role, envURL+"="+m.link.URL(), envDir+"="+f.dir, envProc+"="+m.name, f.setup.env())
	m.proc, m.away = p, false
	f.write(chaos.Event{What: chaos.Up, Proc: m.name, PID: p.PID()})
	f.exits.Go(func() { // it ends: whatever is left is killed with the test
		<-p.Done()
		if err := f.ledger.Write(chaos.Event{What: chaos.Exit, Proc: m.name, PID: p.PID(), Code: p.ExitCode()}); err != nil {
			f.tb.Error(err)
		}
	})
}

// supervise starts again what has ended.
func (f *fleet) supervise() {
	f.tb.Helper()
	for _, m := range f.workers {
		if m.away {
			continue
		}
		select {
		case <-m.proc.Done():
			f.start(m)
		default:
		}
	}
}

// rest waits until nothing is left to do, supervising, and gives up when it does not
// become less for limit: faults leave a backlog, which takes as long as it takes. It
// reports whether nothing is left.
func (f *fleet) rest(limit time.Duration) bool {
	f.tb.Helper()
	still, least := 0, uint64(math.MaxUint64)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		f.supervise()
		left, err := f.left()
		if err == nil && left < least {
			least, deadline = left, time.Now().Add(limit)
		}
		if err == nil && left == 0 {
			still++
		} else {
			still = 0
		}
		if still == 3 {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// left is how many messages are in the streams that are empty at rest.
func (f *fleet) left() (n uint64, err error) {
	ctx, cancel := context.WithTimeout(f.tb.Context(), 2*time.Second)
	defer cancel()
	for _, name := range []string{task.Default.Stream(), task.RetryStream} {
		s, err := f.js.Stream(ctx, name)
		if err != nil {
			return 0, err
		}
		n += s.CachedInfo().State.Msgs
	}
	return n, nil
}

// stop ends the workers as an operator does.
func (f *fleet) stop() {
	f.tb.Helper()
	for _, m := range f.workers {
		m.away = true
		select {
		case <-m.proc.Done():
			continue
		default:
		}
		m.proc.Signal(syscall.SIGTERM)
	}
	for _, m := range f.workers {
		select {
		case <-m.proc.Done():
		case <-time.After(time.Minute):
			f.tb.Errorf("%s does not end", m.name)
		}
	}
}

// finish waits for the end of all tasks, writes down what is left, and returns
// what the checker says.
func (f *fleet) finish(limit time.Duration) *chaos.Report {
	f.tb.Helper()
	if f.rest(limit) {
		f.write(chaos.Event{What: chaos.Quiet})
	}
	f.stop()
	f.exits.Wait()
	f.inventory()
	r, err := chaos.Check(f.dir)
	if err != nil {
		f.tb.Fatal(err)
	}
	return r
}

// insist repeats do until it succeeds: a broker may be away or electing a leader.
func (f *fleet) insist(what string, do func(context.Context) error) {
	f.tb.Helper()
	var errs error
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(f.tb.Context(), 3*time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		errs = errors.Join(errs, err)
		if time.Now().After(deadline) {
			f.tb.Fatalf("%s: %v", what, errs)
		}
	}
}
