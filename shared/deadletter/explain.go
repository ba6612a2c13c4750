package deadletter

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Explanation says for people what became of a task. It holds no argument of it.
type Explanation struct {
	Title   string // kind and id
	History []Step // oldest first
	Why     string // it is dead
	Next    []string
	Trace   string // id of the trace it was published in; "" when there is none
}

// Step is one thing that happened to a task.
type Step struct {
	At    time.Time // zero when it is not known
	Text  string
	Trace string // id of the trace of an attempt, when it is not Explanation.Trace
}

// Explain explains l.
func Explain(l Letter) Explanation {
	e := Explanation{Title: l.Subject.Kind() + " " + l.ID, Trace: traceID(telemetry.Traceparent(l.trace()))}
	e.Why, e.Next = verdict(&l)
	e.History = history(&l, e.Trace)
	if l.Problem != nil {
		e.Next = append(e.Next, "What could not be read of this letter: "+strings.ReplaceAll(l.Problem.Error(), "\n", "; ")+".")
	}
	return e
}

func history(l *Letter, trace string) []Step {
	published := "published to " + l.Subject.String()
	if l.Generation > 0 {
		published = fmt.Sprintf("published again by a redrive, as generation %d, to %s", l.Generation, l.Subject.String())
	}
	if !l.Deadline.IsZero() {
		published += ", not to be started after " + stamp(l.Deadline)
	}
	steps := []Step{{At: l.EnqueuedAt, Text: published}}
	waits, last := l.Waits, 0
	for _, f := range l.Errors {
		for len(waits) > 0 && waits[0].First.Before(f.At) {
			steps, waits = append(steps, waited(waits[0])), waits[1:]
		}
		if last > 0 && f.Attempt > last+1 {
			steps = append(steps, Step{Text: fmt.Sprintf("attempts %d to %d: not kept", last+1, f.Attempt-1)})
		}
		last = f.Attempt
		s := Step{At: f.At, Text: fmt.Sprintf("attempt %d: %s", f.Attempt, f.Error)}
		if id := traceID(f.Trace); id != trace {
			s.Trace = id
		}
		steps = append(steps, s)
	}
	for _, w := range waits {
		steps = append(steps, waited(w))
	}
	reason := string(l.Reason)
	if reason == "" {
		reason = "no reason given"
	}
	return append(steps, Step{At: l.DiedAt, Text: "dead-lettered: " + reason})
}

// waited is when a task was put off for one reason, without an attempt.
func waited(w task.Wait) Step {
	why := string(w.Reason)
	switch w.Reason {
	case task.Circuit:
		why += ": the breaker of its destination was open"
	case task.Cap:
		why += ": all permits of a resource were in use"
	case task.Limited:
		why += ": the rate limit of its key was used up"
	case task.PutOff:
		why += ": the handler asked for a later time"
	default: // the word says it
	}
	if w.Times == 1 {
		return Step{At: w.First, Text: "waited, " + why}
	}
	return Step{At: w.First, Text: fmt.Sprintf("waited %d times, the last time from %s, %s", w.Times, stamp(w.Last), why)}
}

// verdict is why l is dead, and what its reader can do.
func verdict(l *Letter) (why string, next []string) {
	redrive := fmt.Sprintf("drover dead redrive %d", l.Sequence)
	discard := fmt.Sprintf("drover dead discard %d --why WHY", l.Sequence)
	service := l.Subject.Service
	switch l.Reason {
	case task.Failed:
		why = fmt.Sprintf("All %d attempts ended in an error.", l.Attempt)
		next = append(atLimit(l), "If the cause is mended, for example a destination that was down: "+redrive, "If the task is of no use any more: "+discard)
	case task.Permanent:
		why = "The handler said that no further attempt could mend it."
		next = []string{"Read the last error: the arguments or the state of something else are wrong.", "After mending that: " + redrive, "If the task was a mistake: " + discard}
	case task.CrashLoop:
		why = fmt.Sprintf("It was given to a process %d times, the last time to one of its own, and no process lived to say what became of it: killed, out of memory, or hung.", l.Deaths)
		next = []string{
			"Look for the exits of " + service + " at these times, and for its memory then.",
			"Before that is mended a redrive ends the same way, although it harms no other task. After it: " + redrive,
			"If the task is of no use any more: " + discard,
		}
	case task.Undecodable:
		why = "Its subject, headers or body do not pass the checks before decoding, or its body does not fit the handler's type, so it was not run."
		next = []string{
			"See what published it: a version of the producer that does not fit " + service + ", or something that is no task.",
			"After a release of " + service + " that reads it: " + redrive + ". Otherwise it comes back at once.",
			"If it is no task: " + discard,
		}
	case task.UnknownKind:
		why = fmt.Sprintf("The service %s has no handler for %s.", service, l.Subject.Kind())
		next = []string{"Release a " + service + " that has one, then: " + redrive, "If the kind is misspelt or gone: " + discard}
	case task.Expired:
		why = "Its deadline, " + stamp(l.Deadline) + ", had passed before it could start."
		if l.Deadline.IsZero() {
			why = "Its deadline had passed before it could start."
		}
		next = []string{"See why it waited: drover lanes", "If it is still worth doing, without a deadline: " + redrive, "Otherwise: " + discard}
	default:
		why = fmt.Sprintf("The reason %q is not one that this version knows.", l.Reason)
		next = []string{"Run it again: " + redrive, "Delete it: " + discard}
	}
	return why, next
}

// atLimit is what to do about a task of an isolated kind whose process ended without a
// verdict: its last error begins with how, after the time limit if that was it.
func atLimit(l *Letter) []string {
	if len(l.Errors) == 0 {
		return nil
	}
	last, service := l.Errors[len(l.Errors)-1].Error, l.Subject.Service
	if after, ok := strings.CutPrefix(last, "time limit reached ("); ok {
		_, last, _ = strings.Cut(after, "): ")
	}
	how, _, _ := strings.Cut(last, ": ")
	switch how {
	case "oom":
		return []string{
			"It ran in a process of its own, which took more memory than it may: look at the size of what its arguments name. It harmed no other task.",
			"If that is a size to be expected, release a " + service + " with more memory for " + l.Subject.Kind() + " (worker.Memory), or a machine or container with more.",
		}
	case "killed":
		return []string{
			"It ran in a process of its own, which was ended at the limit that the last error names: look for what makes it take so long, or so much.",
			"If that is to be expected, release a " + service + " with a higher limit for " + l.Subject.Kind() + " (worker.Timeout, worker.CPUTime, worker.TempSpace).",
		}
	case "died":
		return []string{"It ran in a process of its own, which ended before it had said what became of the task: the last error has the end of its output."}
	}
	return nil
}

// String is the explanation as text of several lines, without control characters.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, e.Title)
	for _, s := range e.History {
		at := strings.Repeat(" ", len(timeFormat))
		if !s.At.IsZero() {
			at = stamp(s.At)
		}
		text := strings.ReplaceAll(s.Text, "\n", "\n"+strings.Repeat(" ", len(timeFormat)+4))
		if s.Trace != "" {
			text += " (trace " + s.Trace + ")"
		}
		fmt.Fprintf(&b, "  %s  %s\n", at, text)
	}
	fmt.Fprintln(&b, e.Why)
	for _, n := range e.Next {
		fmt.Fprintln(&b, "- "+n)
	}
	if e.Trace != "" {
		fmt.Fprintln(&b, "Trace:", e.Trace)
	}
	return strings.Map(printable, b.String())
}

// printable keeps what an error says from steering a terminal.
func printable(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return unicode.ReplacementChar
	}
	return r
}

const timeFormat = "2006-01-02T15:04:05.000Z" // UTC, of one length

func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }

// traceID is the id of the trace in a traceparent; "" when it is none.
func traceID(traceparent string) string {
	if sc := telemetry.ParseTraceparent(traceparent); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}
