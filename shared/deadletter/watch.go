package deadletter

import (
	"context"
	"slices"
	"time"

	"github.com/droverhq/drover/shared/client"
)

// follow is one redriven task whose end is not known.
type follow struct {
	letter  Letter // without its body
	receipt client.Receipt
	gone    bool // when it was last looked at
}

// room looks after the tasks that are open, and waits while there are too many.
func (r *run) room(ctx context.Context) error {
	if r.Unwatched || len(r.open) < maxOpen && time.Since(r.looked) < lookPause {
		return nil
	}
	return r.wait(ctx, maxOpen)
}

// end waits for the ends of all.
func (r *run) end(ctx context.Context) error {
	if !r.Unwatched {
		if err := r.wait(ctx, 1); err != nil {
			return err
		}
	}
	r.tell(Event{What: Ended})
	return nil
}

// wait looks after the open tasks, at least once, until fewer than these are left.
func (r *run) wait(ctx context.Context, fewer int) error {
	until := time.Now().Add(r.Wait)
	for {
		if err := r.look(ctx); err != nil {
			return err
		}
		switch {
		case r.failing():
			return &StopError{Stage: r.stage, Failing: true, Tally: r.tally}
		case len(r.open) < fewer:
			return nil
		case time.Now().After(until):
			return &StopError{Stage: r.stage, Wait: r.Wait, Tally: r.tally}
		}
		if err := sleep(ctx, lookPause); err != nil {
			return err
		}
	}
}

// failing reports whether more have failed than are borne.
func (r *run) failing() bool {
	if r.tally.Failed <= r.Tolerated.Number {
		return false
	}
	if float64(r.tally.Failed) > r.Tolerated.Share*float64(r.tally.Redriven) {
		return true
	}
	failed := 0
	for _, f := range r.recent {
		if f {
			failed++
		}
	}
	return len(r.recent) == recentEnds && float64(failed) > r.Tolerated.Share*recentEnds
}

// look asks once where each open task is.
func (r *run) look(ctx context.Context) error {
	type answer struct {
		fate Fate
		text string
		err  error
	}
	answers := make([]answer, len(r.open))
	each(len(r.open), func(i int) {
		a := &answers[i]
		a.fate, a.text, a.err = FateOf(ctx, r.js, r.open[i].letter, r.open[i].receipt)
	})
	r.looked = time.Now()
	still := r.open[:0]
	var errs []error
	for i, f := range slices.Clone(r.open) {
		a := answers[i]
		switch {
		case a.err != nil:
			errs = append(errs, a.err)
			still = append(still, f)
		case a.fate.Failed():
			r.decide(true)
			r.tell(Event{What: Failed, Letter: f.letter, Receipt: f.receipt, Text: a.text, Fate: a.fate})
		case a.fate == Gone && f.gone:
			r.decide(false)
		default:
			f.gone = a.fate == Gone
			still = append(still, f)
		}
	}
	r.open = still
	r.tell(Event{What: Looked})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(errs) > 0 {
		return errs[0] // of many that say the same
	}
	return nil
}

func (r *run) decide(failed bool) {
	r.tally.Waiting--
	if failed {
		r.tally.Failed++
	} else {
		r.tally.Done++
	}
	if r.recent = append(r.recent, failed); len(r.recent) > recentEnds {
		r.recent = r.recent[1:]
	}
}
