// Package audit keeps a trail of who did what to a fleet: which dead letters were
// redriven, edited or discarded, what was paused, by whom and why. The trail is the
// stream AUDIT, which package streams makes; nobody can delete from it.
//
// # Semantics
//
// One act makes two entries or more, which share an Entry.Act. [Record] stores the
// first, of phase [Intent], before anything is done: an act whose intent cannot be
// stored must not be done. An act on many things stores a [Part] before each batch
// of them, with their ids, so that everything that was touched stands in the trail
// however the act ended. The last entry is the [Outcome], with counts and the error.
// An act without an outcome was cut short, or its outcome could not be stored: its
// intent and its parts say what it may have done.
//
//	act, err := audit.Record(ctx, js, audit.Entry{Verb: "pause", Targets: []string{"bulk/email"}, Reason: why})
//	if err != nil {
//		return err // nothing was done
//	}
//	err = pause(ctx)
//	_, aerr := audit.Record(ctx, js, act.Outcome(nil, err))
//
// A verb is one to four words of A-Z, a-z, 0-9, "_" and "-", joined by dots, from the
// general to the special: "dead.redrive", "pause". Whoever adds an act names its
// verb. Entries hold ids, counts and reasons, never the arguments of tasks.
//
// An entry is stored once, however often its publish is repeated.
//
// # Concurrency
//
// All functions are safe for concurrent use. Entries are values that share their
// slices and maps with their copies.
package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/task"
)

var (
	// ErrNoStream is returned when the stream AUDIT does not exist.
	ErrNoStream = errors.New("there is no stream AUDIT: create it with `drover streams apply`")
	// ErrNotStored is returned by [Record] when the entry could not be stored, for
	// whatever reason. The act must not be done.
	ErrNotStored = errors.New("the audit trail does not take it, so nothing is done")
	// ErrEntry is returned when an entry or a filter is not legal.
	ErrEntry = errors.New("bad audit entry")
	// ErrDenied is returned when the credentials do not allow it.
	ErrDenied = errors.New("the broker does not allow it")
)

// Phase says which entry of an act this is.
type Phase string

// The phases of an act, in their order.
const (
	Intent  Phase = "intent"  // before it
	Part    Phase = "part"    // before each batch of an act on many things
	Outcome Phase = "outcome" // after it
)

// Entry is one line of the trail. [Record] fills in what is empty of Time, Act, By
// and Phase.
type Entry struct {
	Sequence uint64         `json:"sequence,omitempty"` // in AUDIT; set by [List]
	Time     time.Time      `json:"time"`               // by the clock of who acts
	Act      string         `json:"act"`                // the same in all entries of one act
	By       string         `json:"by"`                 // who: user@host, or what they call themselves
	Verb     string         `json:"verb"`               // such as dead.redrive
	Phase    Phase          `json:"phase"`              // empty means [Intent]
	Targets  []string       `json:"targets,omitempty"`  // ids of what it is done to; at most [MaxTargets]
	Filter   string         `json:"filter,omitempty"`   // what chose the targets, as one would type it
	Reason   string         `json:"reason,omitempty"`   // why, in the words of who did it
	Counts   map[string]int `json:"counts,omitempty"`   // how many, by what became of them
	Old      string         `json:"old,omitempty"`      // fingerprint of what was there
	New      string         `json:"new,omitempty"`      // fingerprint of what took its place
	Error    string         `json:"error,omitempty"`    // of an outcome: why it is not whole
}

const (
	// MaxTargets is how many targets one entry may name. More are several parts.
	MaxTargets = 500

	maxText = 1 << 10 // bytes of each text in an entry
)

// Outcome returns the last entry of the act that e began.
func (e Entry) Outcome(counts map[string]int, err error) Entry {
	e.Phase, e.Time, e.Counts = Outcome, time.Time{}, maps.Clone(counts)
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

// Part returns an entry of the act that e began, on these targets.
func (e Entry) Part(targets []string) Entry {
	e.Phase, e.Time, e.Targets, e.Counts = Part, time.Time{}, targets, nil
	return e
}

// Me is who runs this process, as user@host.
func Me() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

// complete fills in what is empty, and cuts what is too long.
func (e Entry) complete() (Entry, error) {
	if err := checkVerb(e.Verb); err != nil {
		return e, err
	}
	if len(e.Targets) > MaxTargets {
		return e, fmt.Errorf("%w: %d targets, at most %d are allowed", ErrEntry, len(e.Targets), MaxTargets)
	}
	e.Sequence = 0
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	if e.Act == "" {
		e.Act = rand.Text()
	}
	if e.By == "" {
		e.By = Me()
	}
	if e.Phase == "" {
		e.Phase = Intent
	}
	for _, text := range []*string{&e.By, &e.Filter, &e.Reason, &e.Error} {
		if len(*text) > maxText {
			*text = strings.ToValidUTF8((*text)[:maxText-len("…")], "") + "…"
		}
	}
	return e, nil
}

const maxWords = 4 // of a verb

func checkVerb(verb string) error {
	words := strings.Split(verb, ".")
	if len(words) > maxWords {
		return fmt.Errorf("%w: verb %q has more than %d words", ErrEntry, verb, maxWords)
	}
	for _, w := range words {
		if err := task.CheckToken(w); err != nil {
			return fmt.Errorf("%w: verb %q: %w", ErrEntry, verb, err)
		}
	}
	return nil
}
