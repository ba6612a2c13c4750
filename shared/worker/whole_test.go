package worker_test

import (
	"flag"
	"time"
)

// whole has tests hold the figures of docs/scenarios.md, at full size and for as long
// as they say, where a run of all tests holds about a tenth of them.
var whole = flag.Bool("whole", false, "hold the figures of docs/scenarios.md at full size: minutes")

// outage is for how long the broker is away.
func outage() time.Duration {
	if *whole {
		return 20 * time.Second
	}
	return 2 * time.Second
}
