package task

// Headers of a task. All are optional for a publisher; docs/wire.md says what
// each means. The names are case-sensitive, as all NATS headers.
const (
	HeaderMsgID      = "Nats-Msg-Id"      // the id, and the broker's dedupe key
	HeaderID         = "Task-Id"          // the id, where Nats-Msg-Id is taken or stripped
	HeaderEnqueuedAt = "Task-Enqueued-At" // RFC 3339 with nanoseconds; without it the stored time
	HeaderDeadline   = "Task-Deadline"    // RFC 3339: not worth starting after
	HeaderEncoding   = "Task-Encoding"    // "zstd", or absent
	HeaderRef        = "Task-Ref"         // the body's name in BODIES; the message body is empty
)

// Headers that the runtime writes when it moves a task. A publisher that sets
// them only fools itself.
const (
	HeaderSubject    = "Task-Subject"    // where it was published
	HeaderAttempt    = "Task-Attempt"    // attempts that failed
	HeaderHop        = "Task-Hop"        // moves made in this generation
	HeaderDeaths     = "Task-Deaths"     // deliveries that ended in no verdict
	HeaderGeneration = "Task-Generation" // redrives so far
	HeaderErrors     = "Task-Errors"     // JSON: the first failure and the last nine
	HeaderWaits      = "Task-Waits"      // JSON: how often it was put off without an attempt, by reason
	HeaderPrev       = "Task-Prev"       // traceparent of the previous attempt
	HeaderReason     = "Task-Reason"     // why it was moved last
	HeaderDiedAt     = "Task-Died-At"    // RFC 3339: when it was dead-lettered
	HeaderEdited     = "Task-Edited"     // the act of an operator who edited its arguments
)

// Headers of the broker's message schedules (ADR-51 of the NATS project).
const (
	HeaderSchedule       = "Nats-Schedule"        // "@at <RFC 3339 with nanoseconds>"
	HeaderScheduleTarget = "Nats-Schedule-Target" // where it fires to
)

// EncodingZstd is the value of Task-Encoding for a zstd-compressed body.
const EncodingZstd = "zstd"
