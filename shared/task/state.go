package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// State is all that travels with a task beside its arguments: what its subject,
// its headers and its place in the stream say.
type State struct {
	Subject    Subject
	ID         string
	Generation int       // redrives so far
	Attempt    int       // attempts that failed in this generation
	Hop        int       // moves in this generation
	Deaths     int       // deaths recorded by earlier moves, not counting redeliveries of this message
	EnqueuedAt time.Time // by the publisher, or when the broker stored it
	Deadline   time.Time // zero: none
	Encoding   string    // of the body: "" or [EncodingZstd]
	Ref        string    // name of the body in BODIES; "" when it is in the message
	Errors     []Failure // of this generation, oldest first: the first and the last nine
	Waits      []Wait    // of this generation: when it was put off without an attempt
	Prev       string    // traceparent of the previous attempt; "" for none
	Reason     Reason    // of the last move; "" when there was none
	DiedAt     time.Time // when it was dead-lettered; zero while it lives
}

// Failure is one attempt that ended in an error, or one death.
type Failure struct {
	Attempt int       `json:"attempt"` // 1 for the first
	At      time.Time `json:"at"`
	Error   string    `json:"error"`           // at most 1 KiB
	Trace   string    `json:"trace,omitempty"` // traceparent of the attempt
}

// Stored is where and when the broker stored a message.
type Stored struct {
	Stream   string
	Sequence uint64
	Time     time.Time
}

// ErrBadHeader is returned when a header of a task does not parse.
var ErrBadHeader = errors.New("bad header")

// ReadState reads the state of a message delivered from a TASKS stream, RETRY or
// DEAD. The error wraps [ErrBadSubject] or [ErrBadHeader]; the state is then
// still filled in as far as it can be read, always with an id, so that the task
// can be dead-lettered.
func ReadState(subject string, h nats.Header, at Stored) (State, error) {
	r := reader{}
	s := &r.State
	msgID := ""
	moved := !strings.HasPrefix(subject, "tasks.")
	published, _, _ := cutPartition(subject)
	if moved { // only the runtime may publish to RETRY and DEAD, so its word is taken
		published = get(h, HeaderSubject)
	}
	var err error
	if s.Subject, err = ParseSubject(published); err != nil {
		r.errs = append(r.errs, err)
		if moved && !(legal(string(s.Subject.Class)) && legal(s.Subject.Service)) {
			s.Subject = movedFrom(subject)
		}
	}
	s.EnqueuedAt = at.Time
	for name, values := range h { // once over what there is: looking up each name takes ten times as long
		if len(values) == 0 || values[0] == "" {
			continue
		}
		switch v := values[0]; name {
		case HeaderMsgID:
			msgID = v
		case HeaderID:
			s.ID = v
		case HeaderEnqueuedAt:
			r.time(name, v, &s.EnqueuedAt)
		case HeaderDeadline:
			r.time(name, v, &s.Deadline)
		case HeaderDiedAt:
			r.time(name, v, &s.DiedAt)
		case HeaderGeneration:
			r.count(name, v, &s.Generation)
		case HeaderAttempt:
			r.count(name, v, &s.Attempt)
		case HeaderHop:
			r.count(name, v, &s.Hop)
		case HeaderDeaths:
			r.count(name, v, &s.Deaths)
		case HeaderErrors:
			r.failures(name, v)
		case HeaderWaits:
			r.waits(name, v)
		case HeaderEncoding:
			if s.Encoding = v; v != EncodingZstd {
				r.errs = append(r.errs, fmt.Errorf("%w %s: %q, want zstd or none", ErrBadHeader, name, v))
			}
		case HeaderRef:
			s.Ref = v
		case HeaderPrev:
			s.Prev = v
		case HeaderReason:
			s.Reason = Reason(v)
		}
	}
	if s.ID == "" && !moved { // the broker's id of a move is not the task's
		s.ID = msgID
	}
	if s.ID == "" {
		s.ID = at.Stream + "-" + strconv.FormatUint(at.Sequence, 10) + "-" + strconv.FormatInt(at.Time.UnixNano(), 36)
	}
	return r.State, errors.Join(r.errs...)
}

// reader collects what ReadState reads, and what it cannot.
type reader struct {
	State
	errs []error
}

func (r *reader) time(name, v string, to *time.Time) {
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w %s: %w", ErrBadHeader, name, err))
		return
	}
	*to = t
}

func (r *reader) count(name, v string, to *int) {
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w %s: %q is not a count", ErrBadHeader, name, v))
		return
	}
	*to = int(n) // it fits 31 bits
}

func (r *reader) failures(name, v string) {
	var f []Failure
	if err := json.Unmarshal([]byte(v), &f); err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w %s: %w", ErrBadHeader, name, err))
		return
	}
	r.Errors = f
}

func get(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

const (
	maxFailureText = 1 << 10  // bytes of one failure's text
	maxFailures    = 10       // kept: the first and the last nine
	maxOwnHeaders  = 32 << 10 // bytes of Task-Errors at most
	maxHeaders     = 60 << 10 // bytes of all headers; the broker refuses more than 64 KiB - 1
)

// Fail records one more failure. Its text is cut to 1 KiB; of many failures the
// first and the last nine are kept.
func (s *State) Fail(f Failure) {
	if len(f.Error) > maxFailureText {
		f.Error = strings.ToValidUTF8(f.Error[:maxFailureText-len("…")], "") + "…"
	}
	errs := slices.Concat(s.Errors, []Failure{f}) // a copy: another state may share them
	if len(errs) > maxFailures {
		errs = append(errs[:1:1], errs[len(errs)-maxFailures+1:]...)
	}
	s.Errors = errs
}

// LastError is the text of the last failure, and "" when there is none.
func (s *State) LastError() string {
	if n := len(s.Errors); n > 0 {
		return s.Errors[n-1].Error
	}
	return ""
}

// Header returns the headers of a move: those of h, without the ones that the
// broker acts upon (Nats-*), and s written over them. When they would not fit the
// broker's limit of 64 KiB, the oldest failures go first.
func (s *State) Header(h nats.Header) nats.Header {
	out := make(nats.Header, len(h)+8)
	size := 0
	for k, v := range h {
		if len(k) >= 5 && strings.EqualFold(k[:5], "Nats-") {
			continue
		}
		out[k] = v
		for _, v := range v {
			size += len(k) + len(v) + 4
		}
	}
	set := func(name, v string) {
		for _, old := range out[name] {
			size -= len(name) + len(old) + 4
		}
		delete(out, name)
		if v != "" {
			out[name] = []string{v}
			size += len(name) + len(v) + 4
		}
	}
	set(HeaderID, s.ID)
	set(HeaderSubject, s.Subject.String())
	set(HeaderEnqueuedAt, stamp(s.EnqueuedAt))
	if !s.Deadline.IsZero() { // one that did not parse stays as it came
		set(HeaderDeadline, stamp(s.Deadline))
	}
	set(HeaderGeneration, count(s.Generation))
	set(HeaderAttempt, count(s.Attempt))
	set(HeaderHop, count(s.Hop))
	set(HeaderDeaths, count(s.Deaths))
	set(HeaderWaits, s.waitsHeader())
	set(HeaderPrev, s.Prev)
	set(HeaderReason, string(s.Reason))
	set(HeaderDiedAt, stamp(s.DiedAt))
	set(HeaderErrors, "")
	set(HeaderErrors, s.failures(min(maxOwnHeaders, maxHeaders-size)))
	return out
}

// failures is Task-Errors in at most limit bytes, or "" when not even the last
// one fits.
func (s *State) failures(limit int) string {
	for errs := s.Errors; len(errs) > 0; errs = errs[1:] {
		b, err := json.Marshal(errs)
		if err == nil && len(b) <= limit {
			return string(b)
		}
	}
	return ""
}

// MoveID is the broker's dedupe key of the move that s describes. It is derived
// from the delivered message alone, so that only a redelivery of that message
// collides with it; the kind and class are part of it because one id may be used
// for two of them.
func (s *State) MoveID() string {
	return string(s.Subject.Class) + "." + s.Subject.Kind() + ":" + key(s.ID, s.Generation) + ":" + strconv.Itoa(s.Hop)
}

// RedriveID is the broker's dedupe key of the generation after s. Its first word
// keeps it apart from the keys of explicit ids, "<service>.<action>:<id>".
func (s *State) RedriveID() string {
	return "redrive:" + s.Subject.Kind() + ":" + key(s.ID, s.Generation+1)
}

// Later reports whether s is further along than t, of the same task.
func (s *State) Later(t *State) bool {
	return s.Generation > t.Generation || s.Generation == t.Generation && s.Hop > t.Hop
}

func key(id string, generation int) string { return id + ":" + strconv.Itoa(generation) }

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
