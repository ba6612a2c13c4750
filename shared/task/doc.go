// Package task is what travels through Drover: the kinds of work, the subjects
// and headers they are published under, and the guarded msgpack of their bodies.
// It holds every name that is part of the wire; docs/wire.md is its contract for
// other languages.
//
// # Glossary
//
// One word per thing, here and everywhere else:
//
//   - task: one piece of work: a subject, headers, and a msgpack map of arguments.
//   - kind: what the task does, "<service>.<action>", such as "email.send".
//   - service: the process that runs all kinds with its name in front.
//   - class: how soon a task should start ([Urgent] to [Bulk]). A class has its
//     own stream, consumers and slots, so one class cannot delay another.
//   - lane: one service's share of one class, or of the retries of that class: a
//     durable consumer and the slots that work it.
//   - tenant: on whose behalf a task runs; any token.
//   - partition: the tenants of a class that take turns together. A class with
//     partitions is fair between tenants: its lane has a durable consumer for each.
//   - slot: room for one running handler.
//   - lease: the time that the broker leaves a delivery with one worker before
//     it gives it to another; extended while the task is held.
//   - attempt: one run of the handler that ended in an error.
//   - death: a delivery that ended in no verdict, because its process died or hung.
//   - move: publishing a task to RETRY or DEAD and then acknowledging the original.
//   - hop: how many moves a task has made in this generation.
//   - generation: 0 as published, one more for each redrive.
//   - dead letter: a task that was moved to DEAD, with its history.
//   - redrive: publishing a dead letter again as the next generation.
//
// # Concurrency
//
// Everything here is a value or a pure function, safe for concurrent use.
package task
