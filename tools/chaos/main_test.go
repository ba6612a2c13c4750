package chaos_test

import (
	"flag"
	"testing"

	"github.com/droverhq/drover/shared/natstest"
)

// Flags of a long run; without -chaos.for the short form of CI is run.
var (
	chaosFor     = flag.Duration("chaos.for", 0, "how long faults are made; 0 means 20 faults")
	chaosSeed    = flag.Uint64("chaos.seed", 0, "seed of tasks and faults; 0 means a new one")
	chaosRate    = flag.Int("chaos.rate", 0, "tasks published in a second; 0 means 60 on one broker, 100 on three")
	chaosFaults  = flag.String("chaos.faults", "", "kinds of faults, separated by commas; empty means all")
	chaosGap     = flag.Duration("chaos.gap", 0, "between two faults on average; 0 means 1.5s on one broker, 6s on three")
	chaosKeep    = flag.String("chaos.keep", "", "folder that the ledger of a failed run is copied to")
	chaosBrokers = flag.Int("chaos.brokers", 1, "brokers: 1 or 3")
)

// roles are the processes that the tests of this package start; a file that needs
// one adds it here.
var roles = map[string]func() int{}

func TestMain(m *testing.M) {
	natstest.Main(m, roles)
}
