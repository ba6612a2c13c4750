package semaphore_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/semaphore"
)

// fleet is the processes of a test, and the bucket that they share.
type fleet struct {
	tb     testing.TB
	now    time.Time
	record semaphore.Record
	above  bool // more than the cap may run
	seq    int
	all    []*process
}

// process is one of them, with a clock of its own.
type process struct {
	*semaphore.Semaphore

	fleet  *fleet
	offset time.Duration // of its clock
	own    int           // the cap that it was built with
	load   int           // tasks that it has
	runs   []time.Time   // when what it runs ends
	took   time.Duration // what a task takes
	done   int           // tasks that ended
	waits  int
	gone   bool      // killed
	told   int       // tasks that were told to end
	asleep time.Time // it stands still until then
	cut    time.Time // the broker is out of its reach until then
}

const lease = 20 * time.Second

func newFleet(tb testing.TB, caps ...int) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, now: time.Now(), record: semaphore.Record{Resource: "db:main"}}
	for i, n := range caps {
		f.add(fmt.Sprint("p", i), n)
	}
	return f
}

func (f *fleet) add(name string, n int) *process {
	p := &process{
		fleet: f, offset: time.Duration(len(f.all)) * time.Hour, took: time.Second, own: n,
		Semaphore: semaphore.New(semaphore.Config{Resource: "db:main", Process: name, Service: "test", Cap: n, Most: 32, Lease: lease}),
	}
	f.all = append(f.all, p)
	return p
}

func (p *process) time() time.Time { return p.fleet.now.Add(p.offset) }

// step is 50 ms of a process: it starts tasks, ends those that are due, and looks at
// the record. It is as the loops of package permit.
func (p *process) step(write func() outcome) {
	now := p.time()
	if p.gone || p.fleet.now.Before(p.asleep) {
		return
	}
	if p.Lapsed(now) {
		for range p.runs { // they hear that they are to end
			p.Release(0)
		}
		p.told += len(p.runs)
		p.runs = nil
	}
	var left []time.Time
	for _, end := range p.runs {
		if now.Before(end) {
			left = append(left, end)
			continue
		}
		p.Release(p.took)
		p.done++
	}
	p.runs = left
	for len(p.runs)+p.waits < p.load {
		switch p.Take(now) {
		case semaphore.Granted:
			p.runs = append(p.runs, now.Add(p.took))
			continue
		case semaphore.Wait:
			p.waits++
			continue
		case semaphore.Refused:
		}
		break
	}
	if p.Due(now) && !p.fleet.now.Before(p.cut) {
		p.look(now, write)
	}
	for ; p.waits > 0; p.waits-- {
		if p.Waited(now) == semaphore.Granted {
			p.runs = append(p.runs, now.Add(p.took))
		}
	}
}

// outcome is what becomes of a write.
type outcome int

const (
	stored  outcome = iota
	unheard         // it is stored, and its answer does not arrive
	refused         // another process was first
)

// look reads the record and writes it.
func (p *process) look(now time.Time, write func() outcome) {
	if next, ok := p.Next(p.fleet.record, now); ok {
		as := write()
		if as == refused {
			return
		}
		p.fleet.record = next
		p.fleet.seq++
		if as == stored {
			p.Written(next, now)
		}
	}
}

func always() outcome { return stored }

// run lets time pass, and checks that the cap holds all the while.
func (f *fleet) run(d time.Duration, write func() outcome) {
	f.tb.Helper()
	for end := f.now.Add(d); f.now.Before(end); f.now = f.now.Add(50 * time.Millisecond) {
		for _, p := range f.all {
			p.step(write)
		}
		f.check()
	}
}

// check counts what runs. What a process runs that stands still counts for as long as
// its lease can be good: afterwards it hears that it is to end before it does more.
func (f *fleet) check() {
	f.tb.Helper()
	n := 0
	for _, p := range f.all {
		if p.gone || f.now.Before(p.asleep) {
			continue
		}
		n += len(p.runs)
	}
	if most := f.all[0].own; n > most && !f.above {
		f.tb.Fatalf("%d tasks run at once, want at most %d: %+v", n, most, f.record)
	}
	if n := f.record.Held(); n > f.all[0].own {
		f.tb.Fatalf("%d permits are leased, want at most %d: %+v", n, f.all[0].own, f.record)
	}
}

func (f *fleet) running() []int {
	var out []int
	for _, p := range f.all {
		out = append(out, len(p.runs))
	}
	return out
}

// want fails the test unless as many tasks run in each process.
func (f *fleet) want(what string, want ...int) {
	f.tb.Helper()
	if got := f.running(); fmt.Sprint(got) != fmt.Sprint(want) {
		f.tb.Errorf("%s: %v tasks run, want %v: %+v", what, got, want, f.record)
	}
}

// Who is alone has all permits; who comes later gets as many as the others, without
// anything being stopped; who has no use for its own leaves them to the others.
func TestShares(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 12, 12, 12)
	f.all[0].load = 20
	f.run(2*time.Second, always)
	f.want("alone", 12, 0, 0)
	f.all[1].load = 20
	f.run(4*time.Second, always)
	f.want("two", 6, 6, 0)
	f.all[2].load = 2
	f.run(6*time.Second, always)
	f.want("one wants little", 5, 5, 2)
	f.all[0].load = 0
	f.run(8*time.Second, always)
	f.want("one has no use any more", 0, 10, 2)
	f.all[1].load, f.all[2].load = 0, 0
	f.run(20*time.Second, always)
	if len(f.record.Holders) > 0 {
		t.Errorf("the record of a resource that nobody uses: %+v, want no holders", f.record)
	}
	writes := f.seq
	f.run(time.Hour, always)
	if f.seq != writes {
		t.Errorf("%d writes for a resource that nobody uses, want none", f.seq-writes)
	}
}

// A task does not cost a write: only what changes in the load does, and heartbeats.
func TestWritesAreFew(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 40, 40, 40)
	for _, p := range f.all {
		p.load, p.took = 32, 100*time.Millisecond
	}
	f.run(5*time.Second, always)
	before, done := f.seq, f.all[0].done
	f.run(time.Minute, always)
	if n := f.all[0].done - done; n < 3000 {
		t.Errorf("%d tasks in a minute, want 13 permits in use all the time", n)
	}
	if n := f.seq - before; n > 60 {
		t.Errorf("%d writes in a minute by three processes under full load, want less than one a second", n)
	}
}

// With fewer permits than processes each gets its turn, and little is lost by that.
func TestTurns(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, 1, 1)
	for _, p := range f.all {
		p.load, p.took = 4, 100*time.Millisecond
	}
	f.run(time.Minute, always)
	sum := 0
	for i, p := range f.all {
		sum += p.done
		if p.done < 100 {
			t.Errorf("process %d has run %d tasks in a minute, want a third of 600 or so", i, p.done)
		}
	}
	if sum < 300 {
		t.Errorf("%d tasks in a minute, want 600 or somewhat less", sum)
	}
}

// The permits of a process that is gone are free a lease after it was last heard of,
// and no sooner; what waits in the meantime does not stop the others.
func TestGone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, 4)
	f.all[0].load, f.all[0].took = 10, time.Hour
	f.run(time.Second, always)
	f.all[1].load = 10
	f.run(30*time.Second, always)
	f.want("before", 4, 0)
	f.all[0].gone = true
	killed := f.now
	for len(f.all[1].runs) == 0 {
		f.run(50*time.Millisecond, always)
	}
	took := f.now.Sub(killed)
	if took < lease*2/3-time.Second || took > lease+time.Second {
		t.Errorf("its permits are used again after %v, want a lease of %v after its last beat", took, lease)
	}
	f.run(time.Second, always)
	f.want("after", 4, 4)
}

// One that wants permits and dies before it has them is not waited for.
func TestGoneWhileItWaits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, 1)
	for _, p := range f.all {
		p.load, p.took = 4, 100*time.Millisecond
	}
	f.run(3*time.Second, always)
	for len(f.all[1].runs) > 0 { // it has given up its permit, and waits for its turn
		f.run(50*time.Millisecond, always)
	}
	f.all[1].gone = true
	before := f.all[0].done
	f.run(10*time.Second, always)
	if n := f.all[0].done - before; n < 60 {
		t.Errorf("%d tasks in 10 s beside a process that is gone, want 100 or somewhat less", n)
	}
}

// A process that stands still for longer than its lease finds that it is over, also
// when nobody has taken its permits, and starts again.
func TestStandsStill(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 2)
	f.all[0].load, f.all[0].took = 4, time.Hour
	f.run(time.Second, always)
	f.all[1].load = 4
	f.run(time.Second, always)
	f.all[0].asleep = f.now.Add(40 * time.Second)
	f.run(39*time.Second, always)
	f.want("while it sleeps", 2, 2)
	f.run(2*time.Second, always)
	if n := len(f.all[0].runs); n > 1 {
		t.Errorf("%d tasks of a process run that has overslept, want at most its share", n)
	}
	f.run(10*time.Second, always)
	f.want("shared again", 1, 1)
}

// A process that cannot reach the bucket uses what it has until its lease ends, and
// goes on when it can.
func TestCutOff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	p := f.all[0]
	p.load = 4
	f.run(10*time.Second, always)
	f.want("before", 2)
	p.cut = f.now.Add(40 * time.Second)
	f.run(lease/2, always)
	f.want("within the lease", 2)
	f.run(lease/2, always)
	f.want("after it", 0)
	f.run(lease+2*time.Second, always)
	f.want("back", 2)
}

// Where processes disagree about the cap, the smaller one holds while its process
// wants or has permits.
func TestDisagreement(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10, 4)
	f.all[0].load = 20
	f.run(2*time.Second, always)
	f.want("alone", 10, 0)
	f.all[1].load = 20
	f.run(4*time.Second, always)
	f.want("both", 2, 2)
	if c := f.all[0].State().Cap; c != 4 {
		t.Errorf("the cap that holds is %d, want 4", c)
	}
	f.all[1].gone, f.all[1].runs = true, nil
	f.run(lease+4*time.Second, always)
	f.want("the other is gone", 10, 0)
}

// Somebody who lost the bucket, or went over the record, takes permits from nobody
// who can still believe in them: they are given up first.
func TestBucketMadeAnew(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	f.all[0].load, f.all[0].took = 4, time.Hour
	f.run(time.Second, always)
	f.record = semaphore.Record{}
	f.run(lease/2, always)
	if n := f.record.Held(); n != 4 {
		t.Errorf("%d permits stand in the new record, want those that are in use", n)
	}
	f.want("after", 4)
}

// Somebody who finds others in a bucket that was made anew ends what it runs: the cap
// holds again once all have looked.
func TestBucketIsTaken(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, 4)
	f.all[0].load, f.all[0].took = 4, time.Hour
	f.run(time.Second, always)
	f.record, f.above = semaphore.Record{}, true
	f.all[1].load, f.all[1].took = 4, time.Hour
	f.all[0].cut = f.now.Add(time.Second)
	f.run(2*time.Second, always)
	f.above = false
	f.run(time.Second, always)
	if f.all[0].told != 4 {
		t.Errorf("%d tasks were told to end, want 4", f.all[0].told)
	}
}

// A lease whose clock cannot be trusted is over at once, and made anew.
func TestLose(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	f.all[0].load = 4
	f.run(time.Second, always)
	f.all[0].Lose()
	f.run(50*time.Millisecond, always)
	if f.all[0].told != 4 {
		t.Errorf("%d tasks were told to end, want 4", f.all[0].told)
	}
	f.run(time.Second, always)
	f.want("a second later", 4)
}

// Whatever is killed, cut off, stands still or has no answer, never do more tasks run
// than the cap; and when all that ends, all permits are in use again.
func TestNeverAbove(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		n := 1 + r.IntN(12)
		f := newFleet(t, n)
		f.all[0].load = 0
		for i := range 1 + r.IntN(6) {
			f.add(fmt.Sprint("q", i), n)
		}
		write := func() outcome { return max(stored, outcome(r.IntN(12)-9)) }
		for range 30 {
			p := f.all[r.IntN(len(f.all))]
			switch r.IntN(6) {
			case 0, 1:
				p.load, p.took = r.IntN(20), time.Duration(1+r.IntN(10000))*time.Millisecond
			case 2:
				p.asleep = f.now.Add(time.Duration(r.IntN(60)) * time.Second)
			case 3:
				p.cut = f.now.Add(time.Duration(r.IntN(60)) * time.Second)
			case 4:
				p.gone = true
				f.add(fmt.Sprint("r", len(f.all)), n)
			case 5:
				f.all[len(f.all)-1].load = 5
			}
			f.run(time.Duration(r.IntN(15))*time.Second, write)
		}
		wanted := false
		for _, p := range f.all {
			p.cut, p.asleep, p.took = time.Time{}, time.Time{}, 500*time.Millisecond
			wanted = wanted || !p.gone && p.load >= n
		}
		f.run(2*lease, always)
		running := 0
		for _, p := range f.all {
			if !p.gone {
				running += len(p.runs)
			}
		}
		if wanted && running < n-1 && n > len(f.all) {
			t.Errorf("seed %d: %d tasks run at the end, want %d: %v %+v", seed, running, n, f.running(), f.record)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Tasks that were refused come back spread over the time that they will take.
func TestParked(t *testing.T) {
	t.Parallel()
	s := semaphore.New(semaphore.Config{Resource: "a", Process: "p", Cap: 1, Most: 1})
	now := time.Now()
	if d := s.Parked(0, false, now); d != 250*time.Millisecond {
		t.Errorf("Parked(0) = %v, want 250ms", d)
	}
	if d := s.Parked(1, false, now); d != 1250*time.Millisecond {
		t.Errorf("Parked(1) of the first = %v, want 1.25s", d)
	}
	for range 10_000 {
		s.Parked(rand.Float64(), false, now)
	}
	if d := s.Parked(1, false, now); d != 30250*time.Millisecond {
		t.Errorf("Parked(1) behind 10,000 = %v, want 30.25s", d)
	}
	if d := s.Parked(1, false, now.Add(time.Minute)); d != 1250*time.Millisecond {
		t.Errorf("Parked(1) a minute later = %v, want 1.25s", d)
	}
	if d := s.Parked(1, true, now.Add(2*time.Minute)); d != 5250*time.Millisecond {
		t.Errorf("Parked(1) without the record = %v, want 5.25s", d)
	}
}
