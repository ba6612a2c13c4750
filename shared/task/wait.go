package task

import (
	"encoding/json"
	"fmt"
	"time"
)

// Wait is how often a task waited for one reason without an attempt, in one
// generation.
type Wait struct {
	Reason Reason    `json:"reason"`
	Times  int       `json:"times"`
	First  time.Time `json:"first"` // when it was put off for the first time
	Last   time.Time `json:"last"`  // and for the last
}

const maxWaits = 20 // reasons; there are fewer, but others may write headers

// Wait records that the task is put off until later for a reason that burns no
// attempt. Other reasons for a move leave no trace here: failures and deaths are in
// Errors, and a drain says nothing about the task.
func (s *State) Wait(r Reason, at time.Time) {
	switch r {
	case Retried, GaveBack, Suspect, Failed, Permanent, CrashLoop, Undecodable, UnknownKind, Expired:
		return
	default: // what else may be put off
	}
	waits := make([]Wait, 0, len(s.Waits)+1) // another state may share them
	found := false
	for _, w := range s.Waits {
		if w.Reason == r {
			w.Times++
			w.Last, found = at, true
		}
		waits = append(waits, w)
	}
	if !found && len(waits) < maxWaits {
		waits = append(waits, Wait{Reason: r, Times: 1, First: at, Last: at})
	}
	s.Waits = waits
}

func (r *reader) waits(name, v string) {
	var w []Wait
	if err := json.Unmarshal([]byte(v), &w); err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w %s: %w", ErrBadHeader, name, err))
		return
	}
	if len(w) > maxWaits {
		r.errs = append(r.errs, fmt.Errorf("%w %s: %d reasons, want at most %d", ErrBadHeader, name, len(w), maxWaits))
		return
	}
	r.Waits = w
}

// waitsHeader is Task-Waits, or "" when there is none.
func (s *State) waitsHeader() string {
	if len(s.Waits) == 0 {
		return ""
	}
	utc := make([]Wait, len(s.Waits))
	for i, w := range s.Waits {
		w.First, w.Last = w.First.UTC(), w.Last.UTC()
		utc[i] = w
	}
	b, err := json.Marshal(utc)
	if err != nil { // a year that JSON does not write
		return ""
	}
	return string(b)
}
