// Package chaos finds out whether the fleet keeps its promises while what it runs
// on breaks. Its tests publish tasks, work them in processes of their own, and
// kill, stop and cut off workers and brokers at random; every process writes what
// it did to a ledger, and a checker reads it when all is over. This package is the
// ledger and the checker; what breaks things is in its tests.
//
//	task chaos -- -chaos.for 30m -chaos.seed 7
//	go test ./tools/chaos -v -run 'TestChaos$' -chaos.brokers 3 -chaos.for 5m
//	go test ./tools/chaos -v -run 'TestChaos$' -chaos.brokers 3 -chaos.for 5m -chaos.rate 167 -chaos.faults kill-broker -chaos.gap 25s
//
// # Semantics
//
// The checker holds the fleet to this:
//
//   - A task whose publish was acknowledged comes to one end: a run of it is done,
//     or it is in DEAD, and nothing of it is left elsewhere.
//   - Every run has a right to be. A publish gives one, to the first attempt; an
//     attempt that failed gives one to the next; one that was put off, given back,
//     or died with its process gives one to the same attempt; one that is done
//     gives none.
//   - A run without a right is extra. It is allowed when a fault explains it: one
//     that broke the process, the link or a broker of an earlier run of the same
//     attempt, between that run's start and the end of its settling. How long
//     settling may take is said at explain.
//   - An attempt is counted when its handler returned an error, and only then, and
//     there are never more than the class allows. No fault explains otherwise.
//   - A run ends within its time limit and the grace. Who loses the lease without a
//     fault, or settles without it, is found out.
//   - While a task waits on its timer no older copy of it runs, and nothing of it
//     runs when it is dead.
//   - A dead letter tells its reason, and the runs bear it out; it has its history
//     and its body. A task that kills its process is dead after max-deliver and one
//     more.
//   - No process ends by itself.
//
// The rule of extra runs has a weak side: a fault may explain more than one.
//
// # Figures
//
// A stall is the longest time in which nothing was done, while a fault had effect.
package chaos
