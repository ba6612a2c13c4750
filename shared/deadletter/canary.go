package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
)

// Canary redrives many letters, a few at first: each stage has to end before the
// next begins, and the rest follows at a rate, with at most a thousand tasks whose
// end is not known. It stops when too many fail again: their new generation has
// failed its first attempt, or is in DEAD again. A task that is in none of its
// streams any more is done.
type Canary struct {
	Stages    []int         // letters of each stage; nil means 1, then 10; empty means that there are none
	Rate      float64       // letters a second of the rest; 0 means 50
	Wait      time.Duration // for the ends within one stage; 0 means 5 min
	Tolerated Tolerance     // failures that do not stop it; the zero value means none

	// Do redrives one letter, and may change it. nil means [Redrive].
	Do func(context.Context, Letter) (client.Receipt, error)
	// Unwatched redrives without looking what becomes of it.
	Unwatched bool

	// Before is called with the letters that are about to be redriven, at most 100.
	// An error stops the canary. It may be nil.
	Before func(context.Context, []Letter) error
	// Observe is called with all that happens, from one goroutine at a time. It may
	// be nil.
	Observe func(Event)
}

// Tolerance is how many failures a canary bears: up to a number, or up to a share of
// what it redrove, whichever is more. Of the share the last hundred ends count, too.
type Tolerance struct {
	Number int
	Share  float64 // 0 to 1
}

// Tally counts what a canary did.
type Tally struct {
	Redriven int // of these the next three are known
	Done     int
	Failed   int
	Waiting  int // not ended yet, or not looked at
	Skipped  int // somebody else redrove or discarded them first
	Refused  int // they cannot be redriven, and stay
}

// What is the kind of an [Event].
type What int

// What happens to letters and stages.
const (
	Began    What = iota // a stage
	Redriven             // Letter, with Receipt; Err says that the letter stays all the same
	Skipped              // Letter
	Refused              // Letter, because of Err
	Failed               // Letter, with Text
	Looked               // nothing new but the tally
	Ended                // a stage
)

// Event is one thing that happens while a canary runs.
type Event struct {
	What    What
	Stage   int // the first is 1; that of the rest is one more than there are stages
	Size    int // letters of the stage; 0 for the rest
	Letter  Letter
	Receipt client.Receipt
	Text    string // the error of the new generation
	Fate    Fate   // of a failure: Retrying or Died
	Err     error
	Tally   Tally
}

// StopError is returned when a canary stopped by itself. What it did not redrive
// stays in DEAD.
type StopError struct {
	Stage   int
	Failing bool // too many failed again; otherwise they did not end in time
	Wait    time.Duration
	Tally   Tally
}

// Error says why it stopped, and what to do.
func (e *StopError) Error() string {
	if e.Failing {
		return fmt.Sprintf("stopped in stage %d: %d of %d failed again, and the others stay: mend the cause, then redrive again", e.Stage, e.Tally.Failed, e.Tally.Redriven)
	}
	return fmt.Sprintf("stopped in stage %d: %d of %d have not ended within %v, and the others stay: see with `drover lanes` whether they wait for a worker", e.Stage, e.Tally.Waiting, e.Tally.Redriven, e.Wait)
}

const (
	canaryRate  = 50 // letters a second
	canaryWait  = 5 * time.Minute
	lookPause   = 250 * time.Millisecond
	maxOpen     = 1000 // tasks whose end is not known
	batchOfRest = 100
	recentEnds  = 100
	atOnce      = 8 // requests
)

// Run redrives letters until there are no more, or it stops: with a *[StopError], an
// error of [Redrive] that the next letter would meet too, the error of letters or of
// Before, or the cause of ctx's end. What is under way is finished first. The tally
// says how far it came in any case.
func (c Canary) Run(ctx context.Context, js jetstream.JetStream, letters iter.Seq2[Letter, error], opts ...Option) (Tally, error) {
	if c.Stages == nil {
		c.Stages = []int{1, 10}
	}
	if c.Rate <= 0 {
		c.Rate = canaryRate
	}
	if c.Wait <= 0 {
		c.Wait = canaryWait
	}
	if c.Do == nil {
		c.Do = func(ctx context.Context, l Letter) (client.Receipt, error) { return Redrive(ctx, js, l, opts...) }
	}
	next, stop := iter.Pull2(letters)
	defer stop()
	r := &run{Canary: c, js: js, next: next}
	err := r.all(ctx)
	return r.tally, err
}

// run is one canary under way. Its fields belong to one goroutine.
type run struct {
	Canary

	js    jetstream.JetStream
	next  func() (Letter, error, bool)
	ended bool // there are no more letters

	stage  int
	size   int
	tally  Tally
	open   []*follow
	recent []bool // whether the last ones failed
	looked time.Time
}

// follow is one redriven task whose end is not known.
type follow struct {
	letter  Letter // without its body
	receipt client.Receipt
	gone    bool // when it was last looked at
}

func (r *run) all(ctx context.Context) error {
	for i, size := range r.Stages {
		if r.ended {
			break
		}
		r.stage, r.size = i+1, size
		if err := r.few(ctx); err != nil {
			return err
		}
	}
	if r.ended {
		return nil
	}
	r.stage, r.size = len(r.Stages)+1, 0
	return r.rest(ctx)
}

// few does one stage: so many letters, and then their ends.
func (r *run) few(ctx context.Context) error {
	began := false
	for left := r.size; left > 0 && !r.ended; {
		batch, err := r.take(ctx, min(left, batchOfRest))
		if err != nil {
			return err
		}
		if !began && len(batch) > 0 {
			began = true
			r.tell(Event{What: Began})
		}
		before := r.tally.Redriven
		if err := r.redrive(ctx, batch, 0); err != nil {
			return err
		}
		left -= r.tally.Redriven - before // those that others took show nothing
	}
	if !began {
		return nil
	}
	return r.end(ctx)
}

// rest redrives what the stages left, at the rate.
func (r *run) rest(ctx context.Context) error {
	size := max(1, min(batchOfRest, int(r.Rate)))
	began := false
	for {
		batch, err := r.take(ctx, size)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			break
		}
		if !began {
			began = true
			r.tell(Event{What: Began})
		}
		if err := r.redrive(ctx, batch, time.Duration(float64(time.Second)/r.Rate)); err != nil {
			return err
		}
		if err := r.room(ctx); err != nil {
			return err
		}
	}
	if !began {
		return nil
	}
	return r.end(ctx)
}

// take reads up to n letters.
func (r *run) take(ctx context.Context, n int) ([]Letter, error) {
	var batch []Letter
	for len(batch) < n && !r.ended {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l, err, ok := r.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			r.ended = true
			break
		}
		batch = append(batch, l)
	}
	if len(batch) > 0 && r.Before != nil {
		if err := r.Before(ctx, batch); err != nil {
			return nil, err
		}
	}
	return batch, nil
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

func (r *run) tell(e Event) {
	if r.Observe != nil {
		e.Stage, e.Size, e.Tally = r.stage, r.size, r.tally
		r.Observe(e)
	}
}

// stops reports whether an error of one redrive would be the next letter's too.
func stops(err error) bool {
	for _, own := range []error{ErrNoSubject, ErrNoBody, ErrEdit, client.ErrTooLarge, task.ErrBadBody} {
		if errors.Is(err, own) {
			return false
		}
	}
	return true
}
