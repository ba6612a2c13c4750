package chaos

import "time"

// What says which kind of event a line of the ledger is.
type What string

// Events, by who writes them.
const (
	Setup What = "setup" // the driver, first: Setup, Seed

	Intend  What = "intend"  // the publisher, before it publishes: ID, Plan
	Stored  What = "stored"  // it was acknowledged: ID, Stream, Sequence
	Refused What = "refused" // it was not stored, for certain: ID, Text
	Unknown What = "unknown" // it may be stored or not: ID, Text

	Start What = "start" // a worker, when a handler begins: Run, ID, Generation, Attempt
	Dying What = "dying" // the handler is about to kill its process: Run
	End   What = "end"   // the handler returns: Run, Verdict, Text, Delay

	Up    What = "up"    // the driver, when a process has started: Proc, PID
	Exit  What = "exit"  // a process has ended: Proc, PID, Code
	Begin What = "begin" // a fault begins: Fault, Name, Target, PID
	Over  What = "over"  // and is over: Fault
	Timer What = "timer" // the driver saw a timer in RETRY: ID, Attempt, Since, Mono is when it saw it last

	Letter What = "letter" // the driver at the end: a dead letter: ID, Generation, Attempt, Reason, Failures, Wall
	Left   What = "left"   // a message that nobody took: ID, Stream
	Body   What = "body"   // a large body that is still there: ID
	Quiet  What = "quiet"  // nothing was left to do
)

// Verdicts of a run, as its handler returned it.
const (
	Done      = "done"
	Failed    = "failed"
	Panicked  = "panicked"
	TimeLimit = "time-limit" // cancelled for its time limit, or running on in spite of it
	Permanent = "permanent"
	PutOff    = "after"
	Drained   = "drained"
	LeaseLost = "lease-lost"
)

// Event is one line of a ledger. Which fields it has depends on What.
type Event struct {
	What What   `json:"what"`
	Mono int64  `json:"mono"` // ns of a clock that all processes of one machine share, and that never jumps
	Wall int64  `json:"wall"` // ns since 1970
	Proc string `json:"proc"` // who wrote it, such as "worker-2", or whom it is about
	PID  int    `json:"pid"`  // of that process
	PPID int    `json:"ppid,omitempty"`

	ID         string `json:"id,omitempty"`
	Generation int    `json:"gen,omitempty"`
	Attempt    int    `json:"attempt,omitempty"` // failed attempts before this run, or in all
	Run        string `json:"run,omitempty"`     // joins start and end
	Plan       string `json:"plan,omitempty"`    // what the task is meant to do
	Verdict    string `json:"verdict,omitempty"`
	Text       string `json:"text,omitempty"`
	Delay      int64  `json:"delay,omitempty"` // ns, of a put-off

	Stream   string `json:"stream,omitempty"`
	Sequence uint64 `json:"seq,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Failures int    `json:"failures,omitempty"` // in the history of a dead letter
	HasBody  bool   `json:"has_body,omitempty"` // of a dead letter: it can be read
	Since    int64  `json:"since,omitempty"`    // Mono when a timer was first seen

	Fault  int    `json:"fault,omitempty"`  // number of a fault
	Name   string `json:"name,omitempty"`   // its kind
	Target string `json:"target,omitempty"` // a process, or "broker-1"
	Code   int    `json:"code,omitempty"`   // exit code; -1 for a signal

	Seed   uint64  `json:"seed,omitempty"`
	Limits *Limits `json:"limits,omitempty"`
}

// Limits is what the fleet under test promises, for the checker to hold it to.
type Limits struct {
	Brokers    int
	AckWait    time.Duration
	TimeLimit  time.Duration
	Grace      time.Duration
	Attempts   int
	MaxDeliver int
}

// Plans: what a task does when it runs.
const (
	PlanWork      = "work"      // takes its time and is done
	PlanFail      = "fail"      // fails in its first attempts
	PlanHopeless  = "hopeless"  // fails in every attempt
	PlanPanic     = "panic"     // panics in its first attempt
	PlanHang      = "hang"      // waits in its first attempt until it is cancelled
	PlanStubborn  = "stubborn"  // waits in its first attempt and ignores that it is cancelled
	PlanPermanent = "permanent" // cannot be mended
	PlanPutOff    = "put-off"   // asks for a later time until it is old enough
	PlanStumble   = "stumble"   // kills its process the first time it runs
	PlanPoison    = "poison"    // kills its process each time it runs
	PlanLarge     = "large"     // has a body that goes to BODIES
)
