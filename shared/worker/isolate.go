package worker

import (
	"errors"
	"fmt"
	"time"
)

// Isolated runs every task of this kind in a process of its own: this binary,
// started again for that one task with the same arguments (see [IsChild]), with
// connections of its own and the service's credentials. What the task does to
// that process harms no other task, and a process that ends without a verdict is
// a failed attempt like any other. Its error says "oom" when it reached its memory
// cap, "killed" when it reached another limit, and else "died".
//
// Without limits it guards against crashes and against a handler that does not
// return: its context is cancelled as in the worker's own process, and half the
// grace later (see [Grace]) the process is killed with everything that it started.
// Where this process may divide its cgroup (version 2), each task has one of its own,
// and nothing leaves that. Elsewhere they are found by their process group and, on
// Linux, by an environment variable: one that leaves its group and clears its
// environment too, or that runs as another user, is not found. [Status] says which of
// both it is.
//
// TMPDIR is a folder of the task's own, removed after it, with a limit (see
// [TempSpace]). What the task prints goes to standard error as far as 64 KiB;
// the rest is dropped, and the last of it is in the error.
//
// Once a kind has had a task, the process of its next one is started while that runs,
// and waits for up to a minute, connected: its start delays no task of a steady stream.
//
// It guards memory and time, not secrets: the task can read what the worker can,
// and reach the same network.
func Isolated(limits ...IsolationLimit) HandlerOption {
	return handlerOption(func(k *kind) error {
		if k.isolation != nil {
			return errors.New("isolated: given twice")
		}
		k.isolation = &isolation{temp: defaultTemp, spare: newSpare()}
		var errs []error
		for _, l := range limits {
			errs = append(errs, l.applyIsolation(k.isolation))
		}
		return errors.Join(errs...)
	})
}

// IsolationLimit is what a process of an isolated kind may use.
type IsolationLimit interface{ applyIsolation(*isolation) error }

type isolationLimit func(*isolation) error

func (f isolationLimit) applyIsolation(i *isolation) error { return f(i) }

// isolation is the limits of a kind that is isolated.
type isolation struct {
	memory int64         // bytes; 0: no cap
	cpu    time.Duration // 0: no limit
	temp   int64         // bytes
	spare  *spare
	ends   ends
}

const (
	minMemory   = 32 << 20 // bytes: a Go process with a connection takes a third of it
	defaultTemp = 1 << 30  // bytes
	minTemp     = 1 << 20  // bytes
)

// Memory caps what an isolated task's process may occupy, in bytes, at least 32 MiB.
// About 10 MiB of it are the service's own. The garbage collector does all it can
// from four fifths of the cap (GOMEMLIMIT). Without Memory there is no cap. Only Linux
// enforces it.
//
// In a cgroup it is the cap of the process and of all that it starts together. Without
// one (RLIMIT_DATA) each process that the task starts has a cap of its own, of the same
// size at least; in a binary that links C each thread that starts during the task takes
// 8 MiB of it; and files that are mapped into memory and memory that is shared are not
// counted.
func Memory(bytes int64) IsolationLimit {
	return isolationLimit(func(i *isolation) error {
		i.memory = bytes
		if bytes < minMemory {
			return fmt.Errorf("memory %d B: want at least %d (%s)", bytes, minMemory, size(minMemory))
		}
		return nil
	})
}

// CPUTime is how much processor time an isolated task's process may use, rounded
// up to seconds, its start included: several busy processors use it up several
// times as fast as the clock. Each process that the task starts has as much of its
// own. Without CPUTime only the time limit ends it. Only Linux enforces it.
func CPUTime(d time.Duration) IsolationLimit {
	return isolationLimit(func(i *isolation) error {
		i.cpu = (d + time.Second - 1).Truncate(time.Second)
		if d <= 0 {
			return fmt.Errorf("processor time %v: want more than 0", d)
		}
		return nil
	})
}

// TempSpace is how much an isolated task may keep in its TMPDIR, in bytes, at least
// 1 MiB; the default is 1 GiB. The folder is measured every 100 ms, or less often
// when that takes long, and counts at least 4 KiB for each entry, so a task can
// exceed it by what it writes in that time. A single file, anywhere, cannot: writing
// it fails with EFBIG on Linux. Files that are deleted but still open, and those in
// other folders, are not counted.
func TempSpace(bytes int64) IsolationLimit {
	return isolationLimit(func(i *isolation) error {
		i.temp = bytes
		if bytes < minTemp {
			return fmt.Errorf("temp space %d B: want at least %d (%s)", bytes, minTemp, size(minTemp))
		}
		return nil
	})
}

// heap is where the garbage collector of a process with this memory cap begins to
// do all it can. Below the cap, because the collector does not count all that is
// mapped: it must get its turn before the kernel refuses.
func (i *isolation) heap() int64 { return i.memory / 5 * 4 }

// endReason says how the process of an isolated task came to its end without a
// verdict. They are values of error.type.
type endReason string

const (
	endOOM    endReason = "oom"    // it reached its memory cap
	endKilled endReason = "killed" // it reached another limit
	endDied   endReason = "died"   // by itself, or by someone else
)

// endError is the failure of an isolated task whose process ended without a verdict.
type endError struct {
	reason endReason
	detail string
}

func (e *endError) Error() string { return string(e.reason) + ": " + e.detail }

// size is a number of bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 1<<30 && bytes%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 1<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}
