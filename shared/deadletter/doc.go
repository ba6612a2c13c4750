// Package deadletter counts, explains, redrives, edits and discards dead letters:
// tasks that were moved to DEAD with their history, because no worker could finish
// them.
//
// # Semantics
//
// Letters are read by direct get, so that listing them makes no consumer and
// disturbs no one. A replica may answer: what died or was redriven a moment ago
// may be missing or still there. What changes something asks the leader.
//
// [Redrive] publishes a letter to where the task was published first, as its next
// generation: same id, same arguments, no attempts behind it, a new trace that
// links to the old one. It is stored before the letter is deleted, and the broker
// drops a second publish of one generation, so that redriving a letter several
// times, at once or again after a crash, makes one task. That holds for ten
// minutes, the dedupe window, and not across a restart of the broker: a crash
// between storing and deleting, followed by a later redrive of the same letter,
// runs the generation twice, with one idempotency key (task.Info.Key).
//
// A redriven task has no deadline: the one it had is why it died, or has passed
// since. Its time of enqueueing is that of the redrive.
//
// Any letter may be redriven, also one that died as undecodable: it is checked
// again before anything decodes it, and comes back when it still does not pass.
// Only a letter that does not say where its task was published cannot.
//
// [Amend] redrives a letter with other arguments, which a [Document] shows as JSON
// and takes back without losing what JSON has no word for. A [Canary] redrives many:
// a few first, and the others when these did not fail again. [Groups] counts letters
// by their [Fingerprint], the cause of their death.
//
// A letter that was damaged, or written by something else than Drover, is listed
// like any other, with what could not be read in Letter.Problem.
//
// # Concurrency
//
// All functions are safe for concurrent use. A [Letter] is a value that shares its
// header and body with its copies; they must not be changed.
package deadletter
