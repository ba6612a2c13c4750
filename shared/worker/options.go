package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

// Class is how a worker serves one class of tasks. Zero fields take the defaults
// that they name.
type Class struct {
	Name       task.Class
	Slots      int           // handlers that run at once; 0 means 32
	RetrySlots int           // handlers of retried tasks that run at once, beside Slots; 0 means Slots/4, at least 2
	TimeLimit  time.Duration // of one run of a handler; 0 means 1 min
	Retry      retry.Policy  // its zero value means 5 attempts, from 1 s, up to 10 min
	MaxDeliver int           // deaths until a task is dead-lettered as crash-loop, at least 2; 0 means 3
	Partitions int           // that the broker divides tasks into by tenant, to be taken in turn; 0 means none: tasks are taken as they came
}

// durables are the consumers of the class's tasks of one service.
func (c *Class) durables(service string) []string {
	out := []string{service}
	for n := range c.Partitions {
		out = append(out, task.PartitionConsumer(service, n))
	}
	return out
}

func (c Class) withDefaults() Class {
	if c.Slots == 0 {
		c.Slots = 32
	}
	if c.RetrySlots == 0 {
		c.RetrySlots = max(2, c.Slots/4)
	}
	if c.TimeLimit == 0 {
		c.TimeLimit = time.Minute
	}
	if c.MaxDeliver == 0 {
		c.MaxDeliver = 3
	}
	c.Retry = c.Retry.WithDefaults()
	return c
}

// suspectFrom is the number of deaths from which a task runs alone: two, because
// one happens to any task in company, and one less than the last.
func (c *Class) suspectFrom() int { return min(2, c.MaxDeliver-1) }

func (c Class) validate() error {
	var errs []error
	if err := task.CheckToken(string(c.Name)); err != nil {
		errs = append(errs, err)
	}
	if c.Slots < 0 || c.RetrySlots < 0 {
		errs = append(errs, fmt.Errorf("%d slots and %d retry slots: neither can be negative", c.Slots, c.RetrySlots))
	}
	if c.Partitions < 0 {
		errs = append(errs, fmt.Errorf("%d partitions: that cannot be", c.Partitions))
	}
	if c.TimeLimit < 0 {
		errs = append(errs, fmt.Errorf("time limit %v is negative", c.TimeLimit))
	}
	if c.MaxDeliver < 0 || c.MaxDeliver == 1 {
		errs = append(errs, fmt.Errorf("max-deliver %d: want 2 or more, so that a suspect can be tried alone", c.MaxDeliver))
	}
	if err := c.Retry.Validate(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return fmt.Errorf("class %q: %w", c.Name, errors.Join(errs...))
	}
	return nil
}

// Pool says which of a service's tasks a worker takes.
type Pool string

// The pools. In production the retries can have a deployment of their own.
const (
	AllPools  Pool = "all"   // live tasks and retries, each in slots of their own
	LivePool  Pool = "live"  // only tasks as they were published
	RetryPool Pool = "retry" // only due retries, and suspects
)

// Option configures a [Worker].
type Option interface{ apply(*config) error }

type option func(*config) error

func (o option) apply(c *config) error { return o(c) }

type config struct {
	classes []Class
	pool    Pool
	drain   time.Duration
	grace   time.Duration
	leaks   int
	recycle recycling
	log     *slog.Logger
	traces  trace.TracerProvider
	meter   metric.MeterProvider
}

// Serve names the classes that the worker takes tasks from. Without it the
// worker serves [task.Default] with the defaults of [Class].
func Serve(classes ...Class) Option {
	return option(func(c *config) error {
		var errs []error
		for _, class := range classes {
			for _, have := range c.classes {
				if have.Name == class.Name {
					errs = append(errs, fmt.Errorf("class %q: served twice", class.Name))
				}
			}
			errs = append(errs, class.validate())
			c.classes = append(c.classes, class.withDefaults())
		}
		return errors.Join(errs...)
	})
}

// Only restricts the worker to one pool; the default is [AllPools].
func Only(p Pool) Option {
	return option(func(c *config) error {
		switch p {
		case AllPools, LivePool, RetryPool:
			c.pool = p
			return nil
		}
		return fmt.Errorf("pool %q: want %s, %s or %s", p, AllPools, LivePool, RetryPool)
	})
}

// DrainLimit is how long Run lets running handlers finish once its context is
// done, before it cancels them and gives their tasks back. The default is 25 s.
// Handlers then have the grace to return, and what is left 10 s to be settled:
// give a supervisor 60 s before it kills.
func DrainLimit(d time.Duration) Option {
	return option(func(c *config) error {
		if d < 0 {
			return fmt.Errorf("drain limit %v is negative", d)
		}
		c.drain = d
		return nil
	})
}

// Grace is how long a handler may take to return once its context is cancelled,
// before it is abandoned: its task goes on elsewhere and its slot is counted as
// leaked until it does return. The default is 5 s.
func Grace(d time.Duration) Option {
	return option(func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("grace %v: want more than 0", d)
		}
		c.grace = d
		return nil
	})
}

// LeakLimit is how many slots may be leaked at one time before Run drains and
// returns [ErrLeaked], for a supervisor to start a fresh process. The default is 4.
func LeakLimit(n int) Option {
	return option(func(c *config) error {
		if n < 1 {
			return fmt.Errorf("leak limit %d: want 1 or more", n)
		}
		c.leaks = n
		return nil
	})
}

// Logger is where the worker reports changes of its state, and tasks that do not go
// well: a dead letter as an error, a failed attempt as a warning, with the text of the
// failure. What waits without an attempt is logged for debugging, and a task that is
// done is not logged. The default is slog.Default().
func Logger(l *slog.Logger) Option {
	return option(func(c *config) error { c.log = l; return nil })
}

// TracerProvider makes the spans of attempts and moves. The default is the
// global one of OpenTelemetry.
func TracerProvider(p trace.TracerProvider) Option {
	return option(func(c *config) error { c.traces = p; return nil })
}

// MeterProvider makes the worker's metrics. The default is the global one of
// OpenTelemetry.
func MeterProvider(p metric.MeterProvider) Option {
	return option(func(c *config) error { c.meter = p; return nil })
}
