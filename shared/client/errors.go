package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
)

// Errors that publishing returns, wrapped with the kind and what to do.
var (
	// ErrUnknown is returned when patience ended before the broker said whether
	// it has the task: it may be stored or not. Publish again with the same id.
	ErrUnknown = errors.New("the task may or may not be stored")
	// ErrNoStream is returned when no stream takes the task's subject, or, for a
	// large body, when the object store is missing. A connection that may not ask
	// which streams there are gets it when none took the task for longer than an
	// election takes, or until the context's deadline: then the stream may also be
	// without a leader, and the error says so. Nothing is stored.
	ErrNoStream = errors.New("no stream takes it")
	// ErrFull is returned when the class's stream, or the account or disk below
	// it, has no room. Nothing is stored; publish again when the backlog shrinks,
	// or let [WaitForRoom] do that. It is wrapped by a [*FullError], which says how
	// full and when.
	ErrFull = errors.New("the stream is full")
	// ErrAccountFull is returned, with ErrFull, when it is the account that has no
	// room: its limit, max_file, is for all streams together, however empty the
	// class's is.
	ErrAccountFull = errors.New("the account's storage is full")
	// ErrBrokerFull is returned, with ErrFull, when it is the broker's node that has
	// no room: its limit is max_file_store.
	ErrBrokerFull = errors.New("the broker's storage is full")
	// ErrTooLarge is returned when a body is above 16 MiB, or a message above what
	// its stream or the broker takes. Nothing is stored.
	ErrTooLarge = errors.New("too large")
	// ErrDenied is returned when the connection's credentials do not allow the
	// publish, or do not let it hear the answer. In the second case the task may
	// be stored, and the error wraps ErrUnknown as well.
	ErrDenied = errors.New("the broker does not allow it")
	// ErrOption is returned when an option or argument is not legal. Nothing was sent.
	ErrOption = errors.New("bad option")
)

// fate is what one try tells about a message.
type fate int

const (
	isStored  fate = iota
	isRefused      // not stored, and the next try would fare no better
	isAbsent       // not stored by this try; worth another
	isUnknown      // stored or not; worth another
	isOver         // stored or not by earlier tries; there can be no other
)

// Codes of the broker's API errors that publishing meets.
const (
	codeAccountResources = 10002
	codeUnavailable      = 10008
	codeInsufficient     = 10023
	codeMemory           = 10028
	codeStorage          = 10047
	codeMessageTooLarge  = 10054
	codeStoreFailed      = 10077
	codeHeaderTooLarge   = 10097
	codeInProcess        = 10158
)

// judge says what the error of one try means, and returns it as the caller shall
// see it if it is the last.
func judge(msg *nats.Msg, err error) (fate, error) {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return judgeAPI(msg, api)
	}
	switch {
	case err == nil:
		return isStored, nil
	case errors.Is(err, nats.ErrMaxPayload):
		return isRefused, fmt.Errorf("%w: the message has %d bytes, more than the broker's max_payload", ErrTooLarge, size(msg))
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrInvalidConnection):
		return isOver, err
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded):
		return isAbsent, err
	case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, nats.ErrHeadersNotSupported):
		return isRefused, err
	}
	return isUnknown, err // a timeout, a lost connection, an answer that is none
}

func judgeAPI(msg *nats.Msg, err *jetstream.APIError) (fate, error) {
	switch err.ErrorCode {
	case codeAccountResources:
		return isRefused, &FullError{Reason: err.Description, Limit: ErrAccountFull}
	case codeInsufficient, codeMemory, codeStorage:
		return isRefused, &FullError{Reason: err.Description, Limit: ErrBrokerFull}
	case codeMessageTooLarge, codeHeaderTooLarge:
		return isRefused, tooLarge(msg, err)
	case codeStoreFailed:
		switch {
		case strings.HasPrefix(err.Description, "maximum "): // messages, bytes, or either per subject
			return isRefused, &FullError{Reason: err.Description}
		case strings.HasPrefix(err.Description, "message too large"):
			return isRefused, tooLarge(msg, err)
		}
		return isUnknown, err // the store is closing, or its disk fails
	case codeInProcess:
		return isUnknown, err // an earlier try is about to be stored
	}
	switch err.Code {
	case 408, 429, 503:
		return isAbsent, err
	case 500: // no leader, or not known yet
		return isUnknown, err
	}
	return isRefused, err
}

func tooLarge(msg *nats.Msg, err *jetstream.APIError) error {
	return fmt.Errorf("%w for %s: the message has %d bytes, %d of them headers: %s",
		ErrTooLarge, msg.Subject, size(msg), size(msg)-len(msg.Data), err.Description)
}

// size is how many bytes a stream counts for msg.
func size(msg *nats.Msg) int {
	n := len(msg.Data)
	if len(msg.Header) > 0 {
		n += len("NATS/1.0\r\n\r\n")
	}
	for k, vs := range msg.Header {
		for _, v := range vs {
			n += len(k) + len(": \r\n") + len(v)
		}
	}
	return n
}

func noStream(subject string) error {
	if strings.HasPrefix(subject, "$O.") {
		return fmt.Errorf("%w: the object store for large bodies is missing: create it with `drover streams apply`", ErrNoStream)
	}
	return fmt.Errorf("%w: %s: check that fleet.yaml has this service with this class, and that `drover streams apply` was run", ErrNoStream, subject)
}

// noLeader is noStream for who could not find out whether there is one.
func noLeader(subject string, denied bool) error {
	why := "the broker did not say which"
	if denied {
		why = "these credentials may not ask which"
	}
	return fmt.Errorf("%w; or the stream is there and has no leader now, because nodes of the broker are down: `drover doctor` tells (%s)", noStream(subject), why)
}

// denied returns an error wrapping [ErrDenied] when the last thing that the broker
// complained about on nc, other than before, is that it may not publish to
// subject or not hear the answer. A denied publish has no other sign: it is never
// answered.
func denied(nc *nats.Conn, before error, subject string) error {
	d := broker.DeniedSince(nc, before)
	if d == nil {
		return nil
	}
	switch inbox := cmp.Or(nc.Opts.InboxPrefix, "_INBOX"); {
	case d.Verb == "publish" && d.Subject == subject, d.Verb == "publish with a reply":
		return fmt.Errorf("%w: publish to %s: grant it to these credentials (producers in the fleet file, then `drover keys`)", ErrDenied, subject)
	case d.Verb == "subscribe" && strings.HasPrefix(d.Subject, inbox+"."):
		return fmt.Errorf("%w: subscribe to the connection's inbox, where answers come: grant it or set nats.CustomInboxPrefix; %w", ErrDenied, ErrUnknown)
	}
	return nil
}

// cause is why ctx ended, with the context's own error in it.
func cause(ctx context.Context) error {
	err, why := ctx.Err(), context.Cause(ctx)
	if why == nil || errors.Is(why, err) {
		return why
	}
	return fmt.Errorf("%w: %w", err, why)
}
