// Command deadletter is the deadletter service: it moves what the broker gave up
// on to DEAD, finds what is stranded, and raises alerts.
package main

import (
	"github.com/droverhq/drover/services/cmd/deadletter/deadletterd"
	"github.com/droverhq/drover/services/service"
)

func main() { service.Main(deadletterd.Service()) }
