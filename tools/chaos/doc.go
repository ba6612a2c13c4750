// Package chaos finds out whether the fleet keeps its promises while what it runs
// on breaks. Its tests publish tasks, work them in processes of their own, and
// kill, stop and cut off workers and brokers at random; every process writes what
// it did to a ledger, and a checker reads it when all is over.
//
//	go test ./tools/chaos -run Chaos -chaos.for 5m -chaos.seed 7 -chaos.brokers 3 -v
//
// This package is the ledger and the checker; the rest is in its tests.
package chaos
