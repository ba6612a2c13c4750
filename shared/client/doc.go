// Package client publishes tasks.
//
// # Semantics
//
// A task that was published without an error is stored by the broker, once: a
// publish whose answer was lost is repeated under the same id, and the broker
// drops what it has already. That holds for ten minutes, the broker's dedupe
// window, and not across a restart of the broker for a task that was worked in
// between. An error is one of three kinds, and says which:
//
//   - it wraps [ErrUnknown]: the task may be stored or not. The [Receipt] holds its
//     id: publish it again with [ID] and nothing runs twice;
//   - it wraps another error of this package, or one of package task: nothing is
//     stored, and publishing the same again gives the same error until something
//     is changed;
//   - anything else, such as the context's error: nothing was stored.
//
// A body above 4 KiB is compressed when that makes it smaller. One that is still
// above 256 KiB goes to the object store BODIES, and the task carries its name.
// It is put there before the task, and removed again if the task is refused; if
// the process ends in between, an object stays that no task refers to.
//
// The time a task was enqueued at is the one at which the broker stored it.
//
// # Patience
//
// A broker that is away, elects a leader or does not answer is tried again until
// the context ends. When the context has no deadline, [Client.Publish] tries for
// 30 s, and [PublishAll] until nothing was answered for 30 s. A task whose fate is
// unknown is never sent again later than 5 minutes after its first try, whatever
// the context says, because the broker would take it for a new one.
//
// # Back pressure
//
// A class that is full refuses, and keeps what it has; other classes go on. The
// error is a [*FullError], with what is stored, how fast that is worked off and
// when to try again. With [WaitForRoom] the client does that by itself, for a time
// that the caller bounds. How full a stream is is asked at most once a second,
// however many are refused; a connection that may not read the stream's info gets
// the error without figures.
//
// # Traces
//
// Every task is published under a PRODUCER span "publish <kind>", whose context
// travels with it. Without a tracer provider the context of the caller's span
// travels instead, and without that none.
//
// # Concurrency
//
// A [Client] is safe for concurrent use. It starts nothing that outlives a call,
// and needs no closing.
package client
