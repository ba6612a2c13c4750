package supervise

import (
	"log/slog"
	"time"
)

// Event is something that an operator may want to read.
type Event struct {
	At      time.Time
	Kind    EventKind
	Process string // such as "email-1"
	Service string
	Text    string // for people
}

// EventKind says what an Event is about.
type EventKind string

// Kinds of events.
const (
	Logged EventKind = "log"   // a process logged a warning or an error
	Ended  EventKind = "ended" // a process ended although nobody asked it to
)

func (s *Supervisor) tell(e Event) {
	e.At = time.Now()
	s.events.Lock()
	defer s.events.Unlock()
	if s.config.Events != nil {
		s.config.Events(e)
		return
	}
	s.log.Warn("a process of the fleet reports", slog.String("process", e.Process), slog.String("event", string(e.Kind)), slog.String("text", e.Text))
}
