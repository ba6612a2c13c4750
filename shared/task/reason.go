package task

// Reason says why a task was moved. It is kept in Task-Reason, and is a label of
// metrics, so the set is closed.
type Reason string

// Reasons for a move to RETRY.
const (
	Retried  Reason = "retry"      // the attempt failed and there are more
	PutOff   Reason = "after"      // the handler asked for a later time
	GaveBack Reason = "given-back" // the process is shutting down
	Circuit  Reason = "circuit"    // the breaker of its destination is open
	Cap      Reason = "cap"        // all permits of a resource that it needs are in use
	Limited  Reason = "limit"      // the rate limit of its key is used up
	Suspect  Reason = "suspect"    // its workers keep dying: from now on it runs in a child
)

// Reasons for a move to DEAD.
const (
	Failed      Reason = "failed"       // every attempt ended in an error
	Permanent   Reason = "permanent"    // the handler said that no attempt can mend it
	CrashLoop   Reason = "crash-loop"   // it keeps killing the process that runs it
	Undecodable Reason = "undecodable"  // subject, headers or body do not pass the guard
	UnknownKind Reason = "unknown-kind" // the service has no handler for it
	Expired     Reason = "expired"      // its deadline had passed before it could start
)
