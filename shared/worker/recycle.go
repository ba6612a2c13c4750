package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strconv"
	"time"

	"github.com/droverhq/drover/shared/telemetry"
)

// ErrRecycle is returned by Run, wrapped with the reason, when the process has
// done its share of work and should be replaced by a fresh one: see [RecycleAfter]
// and [RecycleAbove]. Everything was settled or given back.
var ErrRecycle = errors.New("time for a fresh process")

const (
	recycleEvery = time.Second      // between two looks, and two requests for the turn
	freeEvery    = 10 * time.Second // between two times that the runtime is made to return memory
	leakPatience = time.Minute      // for the turn, when slots are leaked
)

// recycling is when a worker ends by itself. The zero value is never.
type recycling struct {
	tasks int64
	bytes int64
	turn  func(context.Context) error // nil: it is always its turn
}

// RecycleAfter has Run drain and return [ErrRecycle] once so many deliveries are
// settled, whatever their verdict. 0, the default, is never.
func RecycleAfter(tasks int) Option {
	return option(func(c *config) error {
		if tasks < 0 {
			return fmt.Errorf("recycle after %d tasks: want 0 for never, or more", tasks)
		}
		c.recycle.tasks = int64(tasks)
		return nil
	})
}

// RecycleAbove has Run drain and return [ErrRecycle] once the process occupies
// more than so many bytes. 0, the default, is never.
//
// The mark is held against the resident set of the whole process, because that is
// what a container is killed for and what a leak outside of Go's heap shows in.
// Memory that the runtime has only not yet returned does not count: it is made to
// return it before the worker ends for it, at most every ten seconds. Children that
// run suspects are not counted. Where the system does not tell the resident set,
// what Go's runtime has mapped stands for it.
func RecycleAbove(bytes int64) Option {
	return option(func(c *config) error {
		if bytes < 0 {
			return fmt.Errorf("recycle above %d bytes: want 0 for never, or more", bytes)
		}
		c.recycle.bytes = bytes
		return nil
	})
}

// Turn is asked before Run drains to be recycled, or because of leaked slots, so
// that the processes of a service do that one after the other. An error means that
// it is not this worker's turn: it goes on working, and asks again about every
// second. ask must return soon after its context is done. Whoever gives the turn
// has to take it back when Run has returned.
//
// Leaked slots wait for the turn for at most a minute, and not at all when a lane
// has no other slot left. Without this option it is always a worker's turn.
func Turn(ask func(ctx context.Context) error) Option {
	return option(func(c *config) error { c.recycle.turn = ask; return nil })
}

// watchRecycle ends the worker when a reason for a fresh process comes up and it
// is its turn. It returns when ctx is done.
func (w *Worker) watchRecycle(ctx context.Context) {
	if w.recycle.tasks == 0 && w.recycle.bytes == 0 && w.recycle.turn == nil {
		return // leaks end a worker without a turn by themselves
	}
	tick := time.NewTicker(recycleEvery)
	defer tick.Stop()
	var mem memory
	var leaking time.Time // since when; zero while it does not
	told := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		due := w.leaking()
		if due == nil {
			leaking = time.Time{}
			due = w.worn(&mem, now)
		} else if leaking.IsZero() {
			leaking = now
		}
		if due == nil {
			continue
		}
		if err := w.askTurn(ctx, leaking, now); err != nil {
			if !told && ctx.Err() == nil {
				told = true
				w.log.InfoContext(ctx, "a fresh process is due: this one works on until it is its turn",
					slog.String("reason", due.Error()), slog.Any("not_yet", err), slog.String(telemetry.TaskService, w.service))
			}
			continue
		}
		w.log.InfoContext(ctx, "worker drains for a fresh process to take its place",
			slog.String("reason", due.Error()), slog.String(telemetry.TaskService, w.service))
		w.stop(due)
		return
	}
}

// askTurn returns nil when the worker may end now.
func (w *Worker) askTurn(ctx context.Context, leaking, now time.Time) error {
	switch {
	case w.recycle.turn == nil:
		return nil
	case !leaking.IsZero() && (now.Sub(leaking) >= leakPatience || w.stuck()):
		return nil // it does next to nothing: waiting helps nobody
	}
	return w.recycle.turn(ctx)
}

// leaking returns ErrLeaked when too many slots are lost.
func (w *Worker) leaking() error {
	if n := w.leaked.Load(); n >= int64(w.leaks) {
		return fmt.Errorf("%w: %d handlers of %s ignore their cancelled contexts", ErrLeaked, n, w.service)
	}
	return nil
}

// stuck reports whether a lane has lost all its slots.
func (w *Worker) stuck() bool {
	for _, l := range w.lanes {
		l.mu.Lock()
		full := l.leaked >= l.slots
		l.mu.Unlock()
		if full {
			return true
		}
	}
	return false
}

// worn returns ErrRecycle when the process has reached a mark.
func (w *Worker) worn(mem *memory, now time.Time) error {
	if w.recycle.tasks > 0 {
		var n int64
		for _, l := range w.lanes {
			n += l.settled()
		}
		if n >= w.recycle.tasks {
			return fmt.Errorf("%w: %s has settled %d tasks, its mark is %d", ErrRecycle, w.service, n, w.recycle.tasks)
		}
	}
	if w.recycle.bytes > 0 {
		if used := mem.above(w.recycle.bytes, now); used > 0 {
			return fmt.Errorf("%w: %s occupies %d MiB, its mark is %d MiB", ErrRecycle, w.service, used>>20, w.recycle.bytes>>20)
		}
	}
	return nil
}

// memory looks at how much of it the process occupies.
type memory struct {
	freed time.Time // when the runtime was last made to return what it does not need
}

// above returns how much the process occupies when that is more than mark with
// all garbage gone, and 0 otherwise.
func (m *memory) above(mark int64, now time.Time) int64 {
	used := resident()
	if used <= mark {
		return 0
	}
	if !m.freed.IsZero() && now.Sub(m.freed) < freeEvery {
		return 0 // it was below without its garbage a moment ago; look again later
	}
	debug.FreeOSMemory()
	if used = resident(); used > mark {
		return used
	}
	m.freed = now
	return 0
}

// resident is the resident set of this process in bytes.
func resident() int64 {
	// Second field, in pages: proc_pid_statm(5).
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := bytes.Fields(text); len(f) > 1 {
			if pages, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				return pages * int64(os.Getpagesize())
			}
		}
	}
	s := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
