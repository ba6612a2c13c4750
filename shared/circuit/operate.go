package circuit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

// Entry is one breaker in the bucket.
type Entry struct {
	Service string `json:"service"`
	breaker.Record
}

// List returns the breakers of which there is a record, of one service or, when
// that is "", of all. A closed one has a record for 10 min, and none afterwards.
// What cannot be read is an error in its place, and the rest follows. Its error
// wraps [record.ErrNoBucket] or [broker.ErrDenied].
func List(ctx context.Context, js jetstream.JetStream, service string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		filter := ">"
		if service != "" {
			filter = service + ".*"
		}
		for e, err := range record.List[breaker.Record](ctx, bucket(js), filter) {
			of, _, _ := strings.Cut(e.Key, ".")
			if !yield(Entry{of, e.Value}, err) {
				return
			}
		}
	}
}

// Order is what an operator wants of one breaker.
type Order struct {
	Service     string
	Destination string
	For         time.Duration // of Open: how long no call is let through, up to 24 h; afterwards it is probed
	Reason      string
	By          string // "" means user@host
}

// MaxOpen is the longest time for which [Open] opens a breaker.
const MaxOpen = 24 * time.Hour

// Open has all processes of the service leave the destination alone, and returns the
// record. It replaces what is there, also a longer time. The act is in the audit
// trail; when that cannot take it, nothing is done: see [audit.ErrNotStored]. Other
// errors wrap [record.ErrNoBucket] or [broker.ErrDenied].
func Open(ctx context.Context, js jetstream.JetStream, o Order) (Entry, error) {
	if o.For < time.Second || o.For > MaxOpen {
		return Entry{}, fmt.Errorf("open the breaker of %s for %v: want 1s to %v", o.Destination, o.For, MaxOpen)
	}
	return order(ctx, js, "breaker.open", o, breaker.Record{
		State: breaker.Open, Until: time.Now().Add(o.For).UTC().Truncate(time.Millisecond),
	})
}

// Close has all processes of the service call the destination again, at once and
// without probes. Returned values and errors are as those of [Open].
func Close(ctx context.Context, js jetstream.JetStream, o Order) (Entry, error) {
	return order(ctx, js, "breaker.close", o, breaker.Record{State: breaker.Closed})
}

func order(ctx context.Context, js jetstream.JetStream, verb string, o Order, r breaker.Record) (Entry, error) {
	if err := task.CheckToken(o.Service); err != nil {
		return Entry{}, err
	}
	if o.Destination == "" {
		return Entry{}, errors.New("a breaker needs a destination")
	}
	filter := ""
	if !r.Until.IsZero() {
		filter = "until " + r.Until.Format(time.RFC3339)
	}
	act, err := audit.Record(ctx, js, audit.Entry{Verb: verb, By: o.By, Reason: o.Reason, Targets: []string{o.Service + " " + o.Destination}, Filter: filter})
	if err != nil {
		return Entry{}, err
	}
	r.Destination, r.Reason, r.By, r.At = o.Destination, o.Reason, act.By, time.Now().UTC()
	_, err = put(ctx, bucket(js), o.Service, r, record.Any)
	counts := map[string]int{}
	if err == nil {
		counts[string(r.State)] = 1
	}
	if _, aerr := audit.Record(context.WithoutCancel(ctx), js, act.Outcome(counts, err)); aerr != nil {
		err = errors.Join(err, fmt.Errorf("the trail does not say how it ended: %w", aerr))
	}
	return Entry{o.Service, r}, err
}
