// Package backlog reads the tasks that are in a fleet's streams: those that wait,
// those that workers hold, timers, due retries and dead letters.
//
// # Semantics
//
// Everything is read by direct get: no consumer is made, nothing is taken or
// delayed. A replica may answer, so what was stored or settled a moment ago may be
// missing or still there.
//
// Whether a worker holds a task is not stored with it. It follows from its
// consumer, which goes forward through its stream and removes what is settled: a
// task at or before the last delivery that is still there was handed out and is
// not settled. Nobody can say by whom, or whether that worker still lives.
//
// Every look is bounded, and what it returns says how far it went.
//
// # Concurrency
//
// Functions are safe for concurrent use. A [Task] shares its header and body with
// its copies; they must not be changed.
package backlog
