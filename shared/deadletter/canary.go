package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
