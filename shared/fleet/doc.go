// Package fleet is how the processes of a fleet know of each other, and how an
// operator holds them: which processes there are and what they do, what is paused
// and why, and whose turn it is to be replaced. It keeps that in one bucket of the
// broker, FLEET, and stops consumers through the broker's own pause.
//
// # Semantics
//
// A process writes its entry every [AnnounceEvery] with a time to live of
// [AnnounceTTL]. It deletes the entry when it ends, and when it is killed the
// broker does, so whoever is listed was alive that long ago at most.
//
// A pause is a property of a consumer at the broker, which hands nothing out until
// its end and then goes on by itself: no worker has to know of it, and none that
// starts meanwhile can miss it. What is in flight runs on and is settled. A task
// whose worker dies during a pause is not handed to another one until the end. The
// record in FLEET only explains the pause; what counts is the broker's word.
//
// # Keys
//
//	process.<service>.<instance>   a [Process]
//	pause.<class>.<service>        a [Record]
//	recycle.<service>              who has the turn: see [TakeTurn]
//
// # Concurrency
//
// Functions are safe for concurrent use.
//
// # Errors
//
// [record.ErrNoBucket], [broker.ErrDenied] and [ErrTaken] are for callers that branch.
package fleet
