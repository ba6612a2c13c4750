package worker_test

import "flag"

// whole has tests hold the figures of docs/scenarios.md, at full size and for as long
// as they say, where a run of all tests holds about a tenth of them.
var whole = flag.Bool("whole", false, "hold the figures of docs/scenarios.md at full size: minutes")
