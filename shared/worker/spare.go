package worker

import (
	"context"
	"sync"
	"time"
)

// spareFor is how long the process started ahead waits for its task.
const spareFor = time.Minute

// spare hands out the process of an isolated kind that was started ahead: the start of
// one takes 8 ms for a binary of 40 MB, which is longer than many a task
// (BenchmarkIsolated).
type spare struct {
	wanted chan struct{} // buffered: a task was taken, so another one may follow
	ready  chan *child   // unbuffered: what is offered is here, or with who takes it
	idle   time.Duration // for how long it waits
}

func newSpare() *spare {
	return &spare{wanted: make(chan struct{}, 1), ready: make(chan *child), idle: spareFor}
}

// take returns the process that was started ahead, or nil, and asks for the next.
func (s *spare) take() *child {
	var c *child
	select {
	case c = <-s.ready:
	default:
	}
	select {
	case s.wanted <- struct{}{}:
	default:
	}
	return c
}

// keep has a process ready, each time that one was asked for, until ctx is done.
func (s *spare) keep(ctx context.Context, start func() (*child, error)) {
	for {
		select {
		case <-s.wanted:
		case <-ctx.Done():
			return
		}
		if c, err := start(); err == nil { // else the next task starts its own, and says why not
			s.offer(ctx, c)
		}
	}
}

// offer waits until the process is taken, and ends it if that takes too long.
func (s *spare) offer(ctx context.Context, c *child) {
	lapse := time.NewTimer(s.idle)
	defer lapse.Stop()
	select {
	case s.ready <- c:
		return
	case <-c.ended: // by itself or by someone else: it is of no use, and nothing was lost
	case <-lapse.C:
	case <-ctx.Done():
	}
	c.kill("no task came")
	_ = c.close() // its folder is empty, and a cgroup that stays is found by the next worker's sweep
}

// keepSpares has processes ready for the isolated kinds, until ctx is done.
func (w *Worker) keepSpares(ctx context.Context) {
	var wg sync.WaitGroup
	for _, k := range w.kinds {
		if i := k.isolation; i != nil {
			wg.Go(func() { i.spare.keep(ctx, func() (*child, error) { return startChild(i, w.cgroups, w.grace) }) })
		}
	}
	wg.Wait()
}
