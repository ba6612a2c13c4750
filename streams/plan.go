package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrRefused is returned by Plan and Apply when the fleet asks for a change that
// the broker cannot make without losing or stranding tasks. The text says for each
// what to do first.
var ErrRefused = errors.New("refused")

// Plan compares the broker with the fleet and changes nothing. No changes means
// that they agree. When some change cannot be made live the list still holds all
// of them, and the error is a [*RefusedError], which wraps [ErrRefused].
func Plan(ctx context.Context, js jetstream.JetStream, fleet *Fleet) ([]Change, error) {
	steps, err := plan(ctx, js, fleet)
	var out []Change
	for _, s := range steps {
		out = append(out, s.Change)
	}
	return out, err
}

// Apply makes the changes that Plan lists and returns those that it made, with
// what is extra. It makes none when one of them is refused. A second Apply has
// nothing left to do, and two at once do no harm. When the broker fails in the
// middle the changes made so far are returned with the error; run it again.
func Apply(ctx context.Context, js jetstream.JetStream, fleet *Fleet) ([]Change, error) {
	steps, err := plan(ctx, js, fleet)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, s := range steps {
		if s.do != nil {
			if err := s.do(ctx); err != nil {
				return out, fmt.Errorf("%s %s: %w%s", s.Action, s.Object, err, hint(err))
			}
		}
		out = append(out, s.Change)
	}
	return out, nil
}

// step is a change and how to make it; do is nil for one that is only reported.
type step struct {
	Change
	do     func(context.Context) error
	copies int // that it newly asks the broker for; 0 when none
}

func plan(ctx context.Context, js jetstream.JetStream, fleet *Fleet) ([]step, error) {
	fleet, err := fleet.ready()
	if err != nil {
		return nil, fmt.Errorf("plan streams: %w", err)
	}
	if err := checkBroker(js); err != nil {
		return nil, fmt.Errorf("plan streams: %w", err)
	}
	p := &planner{js: js, want: fleet.Topology()}
	for _, f := range []func(context.Context) error{p.bodies, p.buckets, p.streams, p.consumers, p.extraStreams, p.replicas} {
		if err := f(ctx); err != nil {
			return nil, fmt.Errorf("plan streams: %w", err)
		}
	}
	var refused []Change
	for _, s := range p.steps {
		if s.Action == Refuse {
			refused = append(refused, s.Change)
		}
	}
	if refused != nil {
		return p.steps, &RefusedError{refused}
	}
	return p.steps, nil
}
