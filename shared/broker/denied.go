package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrDenied is wrapped by [DeniedError].
var ErrDenied = errors.New("the broker does not allow it")

// DeniedError is a permission that the credentials of a connection lack. The
// broker answers a request that it does not allow with nothing: without this error
// it would look like a timeout.
type DeniedError struct {
	Verb    string // "publish" or "subscribe"
	Subject string // as the broker names it
}

// Error says what is missing and how it is granted.
func (e *DeniedError) Error() string {
	if e.Inbox() {
		inbox, _, _ := strings.Cut(e.Subject, ".")
		return fmt.Sprintf("%v: these credentials may not hear answers, which come to %s.>: the inbox goes by the user's name, "+
			"so keep the name that `drover keys` gave the key's file, such as drover.nk, and give a service its own key", ErrDenied, inbox)
	}
	return fmt.Sprintf("%v: these credentials lack permission to %s to %q: grant it; where `drover keys` writes the permissions, "+
		"run it with the fleet file of this version, and reload the broker", ErrDenied, e.Verb, e.Subject)
}

// Unwrap returns [ErrDenied].
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Inbox reports whether it is answers that may not be heard: every request over the
// connection would wait in vain.
func (e *DeniedError) Inbox() bool {
	return e.Verb == "subscribe" && strings.HasPrefix(e.Subject, "_INBOX")
}

// Denied returns what err, as a connection's error handler gets it, says of a
// missing permission, and nil when it is about something else.
func Denied(err error) *DeniedError {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	text := err.Error()
	for _, p := range []struct{ before, verb string }{
		{"Publish with Reply of ", "publish with a reply"},
		{"Publish to ", "publish"},
		{"Subscription to ", "subscribe"},
	} {
		if _, rest, ok := strings.Cut(text, p.before+`"`); ok {
			subject, _, _ := strings.Cut(rest, `"`)
			return &DeniedError{Verb: p.verb, Subject: subject}
		}
	}
	return nil
}

// DeniedSince returns the permission that nc was found to lack last, and nil when
// that is what its LastError was before. It is for who makes a request now and then,
// and need not know at once: others on the connection may be refused something too,
// so look at its subject.
func DeniedSince(nc *nats.Conn, before error) *DeniedError {
	err := nc.LastError()
	if err == before { //nolint:errorlint // is it the same one
		return nil
	}
	return Denied(err)
}

// Ask calls f, which makes one request to subject, and returns why that failed: a
// missing permission is a [DeniedError], for the broker says so on the connection and
// never answers. When ctx has no end of its own, it has limit.
func Ask(ctx context.Context, nc *nats.Conn, subject string, limit time.Duration, f func(context.Context) error) error {
	before := nc.LastError()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err := f(ctx)
	if err == nil {
		return nil
	}
	if d := DeniedSince(nc, before); d != nil && strings.Contains(d.Subject, subject) {
		return d
	}
	return err
}

// OnDenied has f called with each permission that the connection is found to lack,
// from its callback goroutine, until stop is called: f must not block. The
// connection's error handler goes on being called; do not set another one
// meanwhile. Each call leaves a few bytes behind on the connection.
func OnDenied(nc *nats.Conn, f func(*DeniedError)) (stop func()) {
	var hear atomic.Pointer[func(*DeniedError)]
	hear.Store(&f)
	chain.Lock()
	defer chain.Unlock()
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if f := hear.Load(); f != nil {
			if d := Denied(err); d != nil {
				(*f)(d)
			}
		}
		if next != nil {
			next(nc, sub, err)
		}
	})
	return func() { hear.Store(nil) }
}

// chain has error handlers put before others one after the other.
var chain sync.Mutex

// Guard is ctx for requests over nc: it ends as soon as the broker refuses one of
// them, with a [*DeniedError] as its cause, which [Why] puts into the error. want
// says which subjects they are; nil means all.
func Guard(ctx context.Context, nc *nats.Conn, want func(subject string) bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := OnDenied(nc, func(d *DeniedError) {
		if want == nil || want(d.Subject) {
			cancel(d)
		}
	})
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Why returns the missing permission that ended a [Guard]'s context, and
// otherwise err. It returns nil for a nil err.
func Why(ctx context.Context, err error) error {
	if d, ok := errors.AsType[*DeniedError](context.Cause(ctx)); ok && err != nil {
		return d
	}
	return err
}
