package deadletter

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/droverhq/drover/shared/client"
)

const redriveLimit = 30 * time.Second // of one letter, also when the canary is interrupted

// redrive redrives a batch, one letter each pause. What has begun is finished.
func (r *run) redrive(ctx context.Context, batch []Letter, pause time.Duration) error {
	answers := make(chan answer, len(batch)) // so that no sender waits
	begun := 0
	var wg sync.WaitGroup
	defer wg.Wait()
	var err error
	slots := make(chan struct{}, atOnce)
	start := time.Now()
	for i, l := range batch {
		if err = sleep(ctx, time.Until(start.Add(time.Duration(i)*pause))); err != nil {
			break
		}
		slots <- struct{}{}
		begun++
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redriveLimit)
			defer cancel()
			rc, err := r.Do(ctx, l)
			answers <- answer{l, rc, err}
		})
		if err = r.drain(answers, &begun, 0); err != nil {
			break
		}
	}
	return errors.Join(err, r.drain(answers, &begun, begun))
}

type answer struct {
	letter  Letter
	receipt client.Receipt
	err     error
}

// drain takes in the answers that are there, and waits for so many. begun counts
// those that are to come.
func (r *run) drain(answers <-chan answer, begun *int, wait int) error {
	var errs error
	for ; *begun > 0; wait-- {
		var a answer
		if wait > 0 {
			a = <-answers
		} else {
			select {
			case a = <-answers:
			default:
				return errs
			}
		}
		*begun--
		errs = errors.Join(errs, r.took(a))
	}
	return errs
}

// took notes what became of one letter. It returns an error that stops the canary.
func (r *run) took(a answer) error {
	a.letter.Body = nil
	switch {
	case a.err == nil, errors.Is(a.err, ErrStays):
		r.tally.Redriven++
		r.tally.Waiting++
		if !r.Unwatched {
			r.open = append(r.open, &follow{letter: a.letter, receipt: a.receipt})
		}
		r.tell(Event{What: Redriven, Letter: a.letter, Receipt: a.receipt, Err: a.err})
	case errors.Is(a.err, ErrNotFound):
		r.tally.Skipped++
		r.tell(Event{What: Skipped, Letter: a.letter})
	default:
		r.tally.Refused++
		r.tell(Event{What: Refused, Letter: a.letter, Err: a.err})
		if stops(a.err) {
			return a.err
		}
	}
	return nil
}

// each calls f with 0 to n-1, several at once, and returns when all have returned.
func each(n int, f func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

// sleep waits for d, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
