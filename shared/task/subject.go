package task

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Class says how soon a task should start. Each class has its own stream,
// consumers and slots.
type Class string

// The four classes of the default fleet. Another fleet file may name others.
const (
	Urgent  Class = "urgent"  // a person waits: password reset, payment webhook
	Default Class = "default" // seconds are fine: mail, webhook, image
	Slow    Class = "slow"    // minutes of work: report, export, import
	Bulk    Class = "bulk"    // as capacity allows: full sync, backfill
)

// Streams and buckets, by the names that the nats CLI shows.
const (
	RetryStream    = "RETRY"      // timers and due retries
	DeadStream     = "DEAD"       // dead letters
	AdvisoryStream = "ADVISORIES" // what the broker gave up on
	AuditStream    = "AUDIT"      // what operators did
	BodiesBucket   = "BODIES"     // object store of bodies too large for a message
	FleetBucket    = "FLEET"      // key-value: which processes run, what is paused, whose turn it is to be recycled
	AlertsBucket   = "ALERTS"     // key-value: which kinds of death people were told of
	BreakersBucket = "BREAKERS"   // key-value: which destinations are left alone
	LimitsBucket   = "LIMITS"     // key-value: how much of each limit is in use

	// BreakersSubject, with the service after it, is where its processes tell each
	// other what failed. No stream keeps it.
	BreakersSubject = "breakers."

	// DeadletterService reads what went wrong with the tasks of all services, with
	// durables of that name. It takes none itself, so no fleet file names it.
	DeadletterService = "deadletter"
)

// Stream is the name of the class's stream, such as TASKS_URGENT.
func (c Class) Stream() string { return "TASKS_" + strings.ToUpper(string(c)) }

// RetryConsumer is the name of the durable consumer of one service's due retries
// of class c.
func (c Class) RetryConsumer(service string) string { return string(c) + "-" + service }

// ErrBadSubject is returned when a subject, kind or token is not of the form
// that docs/wire.md prescribes. The text says which part and why.
var ErrBadSubject = errors.New("bad subject")

const maxToken = 64 // bytes in one subject token

// CheckToken returns an error wrapping [ErrBadSubject] unless s is a legal
// subject token: 1 to 64 of A-Z, a-z, 0-9, "_" and "-". Anything else could act
// as a wildcard, split the subject, or be refused by the broker.
func CheckToken(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: a token is empty", ErrBadSubject)
	case len(s) > maxToken:
		return fmt.Errorf("%w: token %.20q… has %d bytes, %d are allowed", ErrBadSubject, s, len(s), maxToken)
	}
	if !legal(s) {
		return fmt.Errorf("%w: token %q has a character outside A-Z a-z 0-9 _ -", ErrBadSubject, s)
	}
	return nil
}

func legal(s string) bool {
	if s == "" || len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		if !inToken[s[i]] {
			return false
		}
	}
	return true
}

// inToken says which bytes a token may have. A table, because every task that a
// worker takes is asked (BenchmarkReadState).
var inToken = func() (in [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") {
		in[c] = true
	}
	return in
}()

// Token returns s when it is a legal subject token, and else a hash of it that
// is: task ids come from anywhere, and must not shape a subject.
func Token(s string) string {
	if legal(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "h-" + hex.EncodeToString(sum[:20])
}

// SplitKind returns the service and action of a kind, or an error wrapping
// [ErrBadSubject].
func SplitKind(kind string) (service, action string, err error) {
	service, action, ok := strings.Cut(kind, ".")
	if !ok {
		return "", "", fmt.Errorf("kind %q: %w: want <service>.<action>", kind, ErrBadSubject)
	}
	if err := errors.Join(CheckToken(service), CheckToken(action)); err != nil {
		return "", "", fmt.Errorf("kind %q: %w", kind, err)
	}
	return service, action, nil
}

// Subject is where a task was published: tasks.<class>.<service>.<action>,
// followed by .<tenant> when it belongs to one.
type Subject struct {
	Class   Class
	Service string
	Action  string
	Tenant  string // empty when there is none
}

// Kind is "<service>.<action>".
func (s Subject) Kind() string { return s.Service + "." + s.Action }

// Check returns an error wrapping [ErrBadSubject] unless every token is legal.
func (s Subject) Check() error {
	err := errors.Join(CheckToken(string(s.Class)), CheckToken(s.Service), CheckToken(s.Action))
	if s.Tenant != "" {
		err = errors.Join(err, CheckToken(s.Tenant))
	}
	return err
}

// String is the subject on the wire. It is only meaningful when Check passes.
func (s Subject) String() string {
	if s.Tenant == "" {
		return "tasks." + string(s.Class) + "." + s.Service + "." + s.Action
	}
	return "tasks." + string(s.Class) + "." + s.Service + "." + s.Action + "." + s.Tenant
}

// RetryWait is the subject of the broker timer of the task with this id.
func (s Subject) RetryWait(id string) string { return "retry.wait." + s.suffix(id) }

// RetryReady is where the task with this id becomes due.
func (s Subject) RetryReady(id string) string { return "retry.ready." + s.suffix(id) }

// Retry matches the task with this id wherever it is in RETRY.
func (s Subject) Retry(id string) string { return "retry.*." + s.suffix(id) }

// Dead is where the dead letter of the task with this id is kept.
func (s Subject) Dead(id string) string { return "dead." + s.suffix(id) }

func (s Subject) suffix(id string) string {
	return string(s.Class) + "." + s.Service + "." + Token(s.Action) + "." + Token(id)
}

// Filter matches all tasks of one service in one class.
func Filter(c Class, service string) string { return "tasks." + string(c) + "." + service + ".>" }

// RetryFilter matches the due retries of one service in one class.
func RetryFilter(c Class, service string) string {
	return "retry.ready." + string(c) + "." + service + ".>"
}

// ParseSubject reads a subject of the form that [Subject.String] writes: as it is
// published, and not as a fair class stores it, which is for [ReadState]. On an
// error, which wraps [ErrBadSubject], class and service are still filled in when
// the subject has them, so that the task can be dead-lettered where it belongs.
func ParseSubject(subject string) (Subject, error) {
	rest, ok := strings.CutPrefix(subject, "tasks.")
	if !ok {
		return Subject{}, fmt.Errorf("%w %q: want tasks.<class>.<service>.<action>[.<tenant>]", ErrBadSubject, subject)
	}
	class, rest, _ := strings.Cut(rest, ".")
	service, rest, _ := strings.Cut(rest, ".")
	action, tenant, hasTenant := strings.Cut(rest, ".")
	s := Subject{Class: Class(class), Service: service, Action: action, Tenant: tenant}
	if legal(class) && legal(service) && legal(action) && (!hasTenant || legal(tenant)) {
		return s, nil
	}
	s.Action, s.Tenant = rest, "" // as a whole, so that Token keeps it apart from others
	return s, fmt.Errorf("%w %q: want tasks.<class>.<service>.<action>[.<tenant>], each of A-Z a-z 0-9 _ -", ErrBadSubject, subject)
}

// movedFrom is what a subject of RETRY or DEAD says of where its task was
// published: class, service and action as a token, for a message whose
// Task-Subject says less. It is empty when subject is none of these.
func movedFrom(subject string) Subject {
	suffix := ""
	for _, lane := range []string{"retry.ready.", "retry.wait.", "dead."} {
		if rest, ok := strings.CutPrefix(subject, lane); ok {
			suffix = rest
		}
	}
	part := strings.SplitN(suffix, ".", 4) // the fourth is the id
	if len(part) < 3 {
		return Subject{}
	}
	return Subject{Class: Class(part[0]), Service: part[1], Action: part[2]}
}
