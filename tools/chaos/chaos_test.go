package chaos_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/tools/chaos"
)

// A fleet whose brokers, workers and links break at random loses no task, and runs
// none more often than what broke explains. Without flags it is short: 20 faults
// on one broker.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	s, most, gap := small(seed), 20, 1500*time.Millisecond
	limit := time.Minute
	if *chaosFor > 0 {
		most, limit = 1<<30, *chaosFor
	}
	if *chaosBrokers == 3 {
		s = large(seed)
		gap = 6 * time.Second
	}
	s.PerSec, gap = cmp.Or(*chaosRate, s.PerSec), cmp.Or(*chaosGap, gap)
	again := fmt.Sprintf("go test ./tools/chaos -run 'TestChaos$' -chaos.for %v -chaos.seed %d -chaos.brokers %d -chaos.rate %d -chaos.faults %q -chaos.gap %v -v",
		*chaosFor, seed, s.Brokers, s.PerSec, *chaosFaults, gap)
	t.Logf("seed %d; once more: %s", seed, again)

	f := newFleet(t, s)
	stopTimers := f.watchTimers()
	for range 3 {
		f.worker()
	}
	publisher := f.member("publisher", "publisher")
	f.links = append(f.links, publisher)
	if *chaosFaults != "" {
		f.only = strings.Split(*chaosFaults, ",")
	}
	f.wreck(rand.New(rand.NewPCG(seed, 0)), most, gap, limit)
	publisher.proc.Stop() // which completes what it has begun
	if !f.rest(quietWithin(s)) {
		t.Errorf("there is work left, and no less of it after %v", quietWithin(s))
	}
	stopTimers()
	r := f.finish(time.Second)
	f.judge(r, again)
	if *chaosFaults == "" && len(r.Faults) < 5 {
		t.Errorf("%d kinds of faults, want 5 or more: %v", len(r.Faults), r.Faults)
	}
}

// large is the setup on three brokers: with the ack-wait that outlives an election.
func large(seed uint64) setup {
	return setup{
		Limits: chaos.Limits{
			Brokers: 3, AckWait: 20 * time.Second, TimeLimit: 15 * time.Second, Grace: 2 * time.Second, Attempts: 4, MaxDeliver: 3,
		},
		Slots: slots, Base: 500 * time.Millisecond, Drain: 5 * time.Second, Seed: seed, PerSec: 60, Work: 20 * time.Millisecond, Killers: 1,
	}
}

// quietWithin is how long the last tasks may take: one that kills its process
// three times takes three times ack-wait.
func quietWithin(s setup) time.Duration {
	return 6*s.AckWait + 2*s.TimeLimit + 30*time.Second
}

// judge reports, and fails the test when a promise was not kept.
func (f *fleet) judge(r *chaos.Report, again string) {
	f.tb.Helper()
	var b strings.Builder
	if _, err := r.WriteTo(&b); err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Log("\n" + b.String())
	if len(r.Violations) > 0 {
		if *chaosKeep != "" {
			if err := os.CopyFS(*chaosKeep, os.DirFS(f.dir)); err != nil {
				f.tb.Error(err)
			}
		}
		f.tb.Errorf("%d promises were not kept; once more: %s", len(r.Violations), again)
	}
}
