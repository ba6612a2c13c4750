package client

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

// Option configures a [Client].
type Option interface{ applyClient(*Client) error }

type option func(*Client) error

func (o option) applyClient(c *Client) error { return o(c) }

// TracerProvider sets where spans go. The default is the global provider of
// OpenTelemetry; nil makes no spans.
func TracerProvider(tp trace.TracerProvider) Option {
	return option(func(c *Client) error {
		if tp == nil {
			tp = noop.NewTracerProvider()
		}
		c.tracer = tp.Tracer(telemetry.Scope)
		return nil
	})
}

// PublishOption configures one publish, or each task of a [PublishAll].
type PublishOption interface{ applyPublish(*order) error }

type publishOption func(*order) error

func (o publishOption) applyPublish(p *order) error { return o(p) }

// order is what options ask for.
type order struct {
	id       string
	class    task.Class // "" for the class that the arguments name
	tenant   string
	deadline time.Time
	room     time.Duration // to wait for it
}

// newOrder is what opts ask of c.
func (c *Client) newOrder(opts []PublishOption) (order, error) {
	o := order{room: c.room}
	var errs []error
	for _, opt := range opts {
		errs = append(errs, opt.applyPublish(&o))
	}
	return o, errors.Join(errs...)
}

const maxID = 256 // bytes

// ID is the task's id: publishing two tasks of one kind and class with one id
// within ten minutes stores the first. Tasks of other kinds and classes may have
// it as well. It is 1 to 256 bytes of UTF-8 without control characters and without
// space at its ends; the default is a new one of 130 random bits.
//
// An id of 26 letters A to Z and digits 2 to 7 is taken for one that was made
// here, and must only publish that very task again, when it is not known to be
// stored: of all kinds in a class it names one task. For a task that follows from
// another, make an id of both, such as "mail-" and task.Info.ID.
func ID(id string) PublishOption {
	return publishOption(func(o *order) error {
		switch {
		case id == "" || len(id) > maxID:
			return fmt.Errorf("%w: id of %d bytes, want 1 to %d", ErrOption, len(id), maxID)
		case !utf8.ValidString(id) || strings.TrimSpace(id) != id || strings.ContainsFunc(id, unicode.IsControl):
			return fmt.Errorf("%w: id %q, want UTF-8 without control characters or space at its ends", ErrOption, id)
		}
		o.id = id
		return nil
	})
}

// Class publishes to this class instead of the one that the arguments name.
func Class(c task.Class) PublishOption {
	return publishOption(func(o *order) error {
		o.class = c
		return task.CheckToken(string(c))
	})
}

// Tenant says on whose behalf the task runs. It becomes the last token of the
// subject, so it is 1 to 64 of A-Z, a-z, 0-9, "_" and "-". It needs no
// registration. A class that is fair, as bulk is, has tenants take turns. The
// default is none, which has a turn of its own.
func Tenant(name string) PublishOption {
	return publishOption(func(o *order) error {
		o.tenant = name
		return task.CheckToken(name)
	})
}

// Deadline says when the task is no longer worth starting: a worker that gets it
// later dead-letters it as expired. A retry after t expires as well. The zero
// time means none, which is the default; a time that has passed is not refused.
func Deadline(t time.Time) PublishOption {
	return publishOption(func(o *order) error {
		o.deadline = t
		return nil
	})
}

// CommonOption configures a [Client], or one publish over what the client says.
type CommonOption interface {
	Option
	PublishOption
}

type waitForRoom time.Duration

// WaitForRoom has a publish that is refused because its class is full tried
// again, under the same id and with jittered pauses of 25 ms to 2 s, until there
// is room, d is over since the first refusal, or the context ends. The error then
// still wraps [ErrFull] in a [*FullError]. 0, which is the default, does not wait;
// less is an error wrapping [ErrOption].
//
// Of a [PublishAll], d is the longest time in which not one task finds room. While
// it waits, tasks of its other classes wait as well, and nothing more is kept in
// memory than the tasks that it was given.
func WaitForRoom(d time.Duration) CommonOption { return waitForRoom(d) }

func (w waitForRoom) check() error {
	if w < 0 {
		return fmt.Errorf("%w: wait for room of %v, want 0 or more", ErrOption, time.Duration(w))
	}
	return nil
}

func (w waitForRoom) applyClient(c *Client) error {
	c.room = time.Duration(w)
	return w.check()
}

func (w waitForRoom) applyPublish(o *order) error {
	o.room = time.Duration(w)
	return w.check()
}
