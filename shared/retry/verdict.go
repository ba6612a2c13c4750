package retry

import (
	"errors"
	"fmt"
	"time"
)

// Permanent marks err as one that no further attempt can mend: the worker
// dead-letters the task at once, with err as the reason. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether err, or any error it wraps, was marked by [Permanent].
func IsPermanent(err error) bool {
	_, ok := errors.AsType[*permanentError](err)
	return ok
}

// After asks for the task to be run again in d, without burning an attempt: the
// destination said when (HTTP 429 with Retry-After), or it is closed for now.
// d is bounded by the worker to between 0 and [MaxAfter]. err says why and is
// kept in the trace of the task; a nil err is allowed.
func After(d time.Duration, err error) error {
	return &afterError{d: min(max(d, 0), MaxAfter), err: err}
}

// MaxAfter is the longest delay that [After] grants. A longer one is cut to it.
const MaxAfter = 24 * time.Hour

// AsAfter returns the delay of an error made by [After], and whether err is or
// wraps one.
func AsAfter(err error) (time.Duration, bool) {
	a, ok := errors.AsType[*afterError](err)
	if !ok {
		return 0, false
	}
	return a.d, true
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

type afterError struct {
	d   time.Duration
	err error
}

func (e *afterError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("again after %v", e.d)
	}
	return fmt.Sprintf("again after %v: %v", e.d, e.err)
}

func (e *afterError) Unwrap() error { return e.err }
