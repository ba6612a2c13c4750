package chaos_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/chaos"
)

// active is a fault that is not over.
type active struct {
	n      int
	name   string
	target string
	until  time.Time
	mend   func()
}

// faultKind is one kind of fault: on whom it falls, how long it lasts, and how it
// is made and mended.
type faultKind struct {
	name   string
	weight int
	ready  func(*fleet, *rand.Rand) *victim // nil: not now
	lasts  func(*fleet, *rand.Rand) time.Duration

	cluster bool // it takes more than one broker
}

// victim is what a fault is about to fall on.
type victim struct {
	target string
	pid    int
	begin  func()
	mend   func() // called when it has lasted; may be nil
}

// between draws a duration, as parts of ack-wait.
func between(from, to float64) func(*fleet, *rand.Rand) time.Duration {
	return func(f *fleet, rng *rand.Rand) time.Duration {
		return time.Duration((from + (to-from)*rng.Float64()) * float64(f.setup.AckWait))
	}
}

// either draws one of two durations: shorter than a lease, or longer.
func either(a, b func(*fleet, *rand.Rand) time.Duration) func(*fleet, *rand.Rand) time.Duration {
	return func(f *fleet, rng *rand.Rand) time.Duration {
		if rng.IntN(2) == 0 {
			return a(f, rng)
		}
		return b(f, rng)
	}
}

// Faults, and how often each is drawn beside the others.
var faultKinds = []faultKind{
	{chaos.KillWorker, 4, onWorker((*fleet).killWorker), between(0.05, 0.5), false},
	{chaos.StopWorker, 4, onWorker((*fleet).stopWorker), either(between(0.1, 0.5), between(1.2, 2)), false},
	{chaos.TermWorker, 2, onWorker((*fleet).termWorker), between(0, 0), false},
	{chaos.CutWorker, 2, onWorker((*fleet).cutWorker), either(between(0.1, 0.5), between(1.2, 2)), false},
	{chaos.HoleWorker, 2, onWorker((*fleet).holeWorker), either(between(0.1, 0.5), between(1.2, 2)), false},
	{chaos.CutPublish, 1, (*fleet).cutPublish, between(0.1, 1), false},
	{chaos.KillBroker, 3, onBroker((*fleet).killBroker), between(0.1, 0.8), false},
	{chaos.StopBroker, 2, onBroker((*fleet).stopBroker), between(0.1, 0.8), false},
	{chaos.CutRoutes, 2, onCluster((*fleet).cutRoutes), between(0.2, 0.8), true},
	{chaos.HoleRoutes, 2, onCluster((*fleet).holeRoutes), between(0.2, 0.8), true},
	{chaos.RefuseDead, 1, (*fleet).refuseDead, between(0.5, 1.5), false},
	{chaos.RefuseRetry, 1, (*fleet).refuseRetry, between(0.5, 1.5), false},
}

func onWorker(strike func(*fleet, *member) *victim) func(*fleet, *rand.Rand) *victim {
	return func(f *fleet, rng *rand.Rand) *victim {
		m := f.workers[rng.IntN(len(f.workers))]
		whole := 0
		for _, w := range f.workers {
			if !w.away && !f.busy(w.name) {
				whole++
			}
		}
		select {
		case <-m.proc.Done():
			return nil
		default:
		}
		if m.away || f.busy(m.name) || whole < 2 { // one is left to work
			return nil
		}
		return strike(f, m)
	}
}

func (f *fleet) killWorker(m *member) *victim {
	return &victim{
		target: m.name, pid: m.proc.PID(),
		begin: func() { m.away = true; m.proc.Kill() },
		mend:  func() { m.away = false },
	}
}

func (f *fleet) stopWorker(m *member) *victim {
	p := m.proc
	return &victim{
		target: m.name, pid: p.PID(),
		begin: func() { f.freeze(p.PID()) },
		mend:  func() { _ = syscall.Kill(p.PID(), syscall.SIGCONT) }, // a task may have killed it
	}
}

// freeze stops a process where it is.
func (f *fleet) freeze(pid int) {
	f.tb.Helper()
	_ = syscall.Kill(pid, syscall.SIGSTOP) // a task may have killed it
	natstest.WaitStopped(f.tb, pid)
}

func (f *fleet) termWorker(m *member) *victim {
	return &victim{target: m.name, pid: m.proc.PID(), begin: func() { m.proc.Signal(syscall.SIGTERM) }}
}

func (f *fleet) cutWorker(m *member) *victim {
	return &victim{target: m.name, begin: m.link.Cut, mend: m.link.Mend}
}

func (f *fleet) holeWorker(m *member) *victim {
	return &victim{target: m.name, begin: m.link.BlackHole, mend: m.link.Mend}
}

func (f *fleet) cutPublish(rng *rand.Rand) *victim {
	if len(f.links) == 0 {
		return nil
	}
	m := f.links[rng.IntN(len(f.links))]
	if f.busy(m.name) {
		return nil
	}
	return &victim{target: m.name, begin: m.link.Cut, mend: m.link.Mend}
}

// onBroker draws a broker, when all are whole: two must be left of three.
func onBroker(strike func(*fleet, int) *victim) func(*fleet, *rand.Rand) *victim {
	return func(f *fleet, rng *rand.Rand) *victim {
		if f.brokerBusy() || f.busy(task.DeadStream) || f.busy(task.RetryStream) {
			return nil
		}
		return strike(f, f.drawBroker(rng))
	}
}

func onCluster(strike func(*fleet, int) *victim) func(*fleet, *rand.Rand) *victim {
	return func(f *fleet, rng *rand.Rand) *victim {
		if f.cluster == nil {
			return nil
		}
		return onBroker(strike)(f, rng)
	}
}

// drawBroker returns the leader of the tasks' stream half of the time: that is
// where it hurts.
func (f *fleet) drawBroker(rng *rand.Rand) int {
	n := rng.IntN(len(f.nodes))
	if f.cluster != nil && rng.IntN(2) == 0 {
		if l := f.cluster.Leader(f.tb, f.js, task.Default.Stream()); l >= 0 {
			return l
		}
	}
	return n
}

func brokerName(i int) string { return "broker-" + string(rune('1'+i)) }

// whole waits until the brokers are one cluster again: the next fault of a broker
// must not meet one that is behind.
func (f *fleet) whole() {
	if f.cluster != nil {
		f.cluster.Wait(f.tb)
	}
}

func (f *fleet) killBroker(i int) *victim {
	b := f.nodes[i]
	return &victim{target: brokerName(i), pid: b.PID(), begin: b.Kill, mend: func() { b.Restart(f.tb); f.whole() }}
}

func (f *fleet) stopBroker(i int) *victim {
	b := f.nodes[i]
	return &victim{
		target: brokerName(i), pid: b.PID(),
		begin: func() { f.freeze(b.PID()) },
		mend:  func() { b.Signal(syscall.SIGCONT); f.whole() },
	}
}

func (f *fleet) cutRoutes(i int) *victim {
	return &victim{target: brokerName(i), begin: func() { f.cluster.Cut(i) }, mend: func() { f.cluster.Mend(i); f.whole() }}
}

func (f *fleet) holeRoutes(i int) *victim {
	return &victim{target: brokerName(i), begin: func() { f.cluster.BlackHole(i) }, mend: func() { f.cluster.Mend(i); f.whole() }}
}

// refuseDead leaves DEAD no room for one letter more.
func (f *fleet) refuseDead(*rand.Rand) *victim {
	if f.busy(task.DeadStream) || f.brokerBusy() {
		return nil
	}
	return &victim{
		target: task.DeadStream,
		begin: func() {
			f.change(task.DeadStream, func(c *jetstream.StreamConfig, s *jetstream.StreamState) { c.MaxMsgs = max(1, int64(s.Msgs)) })
		},
		mend: func() {
			f.change(task.DeadStream, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.MaxMsgs = -1 })
		},
	}
}

// refuseRetry has RETRY take no subject that a worker publishes to. It cannot be
// full: a stream with timers would drop the oldest.
func (f *fleet) refuseRetry(*rand.Rand) *victim {
	if f.busy(task.RetryStream) || f.brokerBusy() {
		return nil
	}
	var subjects []string
	return &victim{
		target: task.RetryStream,
		begin: func() {
			f.change(task.RetryStream, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) {
				if len(c.Subjects) > 1 {
					subjects = c.Subjects
				}
				c.Subjects = []string{"retry.closed.>"}
			})
		},
		mend: func() {
			f.change(task.RetryStream, func(c *jetstream.StreamConfig, _ *jetstream.StreamState) { c.Subjects = subjects })
		},
	}
}

func (f *fleet) change(stream string, edit func(*jetstream.StreamConfig, *jetstream.StreamState)) {
	f.tb.Helper()
	f.insist("change "+stream, func(ctx context.Context) error {
		s, err := f.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo()
		edit(&info.Config, &info.State)
		_, err = f.js.UpdateStream(ctx, info.Config)
		return err
	})
}

func (f *fleet) busy(target string) bool {
	return slices.ContainsFunc(f.open, func(a *active) bool { return a.target == target })
}

func (f *fleet) brokerBusy() bool {
	for i := range f.nodes {
		if f.busy(brokerName(i)) {
			return true
		}
	}
	return false
}

// draw takes the next kind of fault from the deck, and a victim of it, or nil when
// that cannot be now: then the kind goes back under the deck.
func (f *fleet) draw(rng *rand.Rand) (string, *victim, time.Duration) {
	if len(f.deck) == 0 {
		f.deck = f.shuffled(rng)
	}
	k := f.deck[0]
	f.deck = f.deck[1:]
	v := k.ready(f, rng)
	if v == nil && (f.cluster != nil || !k.cluster) {
		f.deck = append(f.deck, k)
	}
	return k.name, v, k.lasts(f, rng)
}

// shuffled is every kind as often as its weight says, shuffled, and each once first:
// a short run shall meet them all.
func (f *fleet) shuffled(rng *rand.Rand) []faultKind {
	first := slices.DeleteFunc(slices.Clone(faultKinds), func(k faultKind) bool {
		return f.only != nil && !slices.Contains(f.only, k.name)
	})
	rng.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
	var rest []faultKind
	for _, k := range first {
		for range k.weight - 1 {
			rest = append(rest, k)
		}
	}
	rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return append(first, rest...)
}

// begin makes a fault: it is in the ledger before it is felt.
func (f *fleet) begin(name string, v *victim, lasts time.Duration) {
	f.tb.Helper()
	f.faults++
	f.write(chaos.Event{What: chaos.Begin, Proc: "driver", Fault: f.faults, Name: name, Target: v.target, PID: v.pid})
	v.begin()
	f.open = append(f.open, &active{n: f.faults, name: name, target: v.target, until: time.Now().Add(lasts), mend: v.mend})
}

// mendDue ends the faults whose time is over, or all.
func (f *fleet) mendDue(all bool) {
	f.tb.Helper()
	for _, a := range slices.Clone(f.open) {
		if !all && time.Now().Before(a.until) {
			continue
		}
		if a.mend != nil {
			a.mend()
		}
		f.write(chaos.Event{What: chaos.Over, Proc: "driver", Fault: a.n})
		f.open = slices.DeleteFunc(f.open, func(b *active) bool { return b == a })
	}
}

// wreck makes faults, one each gap on average, until it has made that many or the
// time is over, and mends the last of them.
func (f *fleet) wreck(rng *rand.Rand, most int, gap, limit time.Duration) {
	f.tb.Helper()
	next := time.Now().Add(gap)
	for end := time.Now().Add(limit); f.faults < most && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		f.supervise()
		f.mendDue(false)
		if time.Now().Before(next) {
			continue
		}
		name, v, lasts := f.draw(rng)
		if v == nil {
			continue
		}
		f.begin(name, v, lasts)
		next = time.Now().Add(time.Duration(rng.Int64N(int64(2 * gap))))
	}
	for len(f.open) > 0 {
		f.supervise()
		f.mendDue(false)
		time.Sleep(10 * time.Millisecond)
	}
}
