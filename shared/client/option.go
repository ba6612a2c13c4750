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
}

func newOrder(opts []PublishOption) (order, error) {
	var o order
	var errs []error
	for _, opt := range opts {
		errs = append(errs, opt.applyPublish(&o))
	}
	return o, errors.Join(errs...)
}

const maxID = 256 // bytes

// ID is the task's id, and the broker's dedupe key: publishing twice with one id
// within ten minutes stores one task. It is 1 to 256 bytes of UTF-8 without
// control characters and without space at its ends; the default is a new one of
// 130 random bits. An id must not be used for two tasks of one class, whatever
// their kinds: the second would be taken for a repetition of the first.
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
// subject, so it is 1 to 64 of A-Z, a-z, 0-9, "_" and "-". The default is none.
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
