package worker

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const limitsEnforced = true

const maxFiles = 4096 // that one process of a task may have open: the kernel's memory for them is not the task's

// limit sets the limits of a process that waits for its assignment, except that of
// memory. The limits are hard ones: without privileges it cannot raise them again.
func (i *isolation) limit(pid int) error {
	type rlimit struct {
		name     string
		resource int
		max      int64
	}
	limits := []rlimit{
		{"size of a file", unix.RLIMIT_FSIZE, i.temp},
		{"core dump", unix.RLIMIT_CORE, 0}, // it would be as large as the cap
		{"open files", unix.RLIMIT_NOFILE, maxFiles},
	}
	if i.cpu > 0 { // a soft limit before it would be a signal that Go ignores
		limits = append(limits, rlimit{"processor time", unix.RLIMIT_CPU, int64(i.cpu.Seconds())})
	}
	for _, l := range limits {
		var have unix.Rlimit
		if err := unix.Prlimit(pid, l.resource, nil, &have); err != nil {
			return fmt.Errorf("ask for the limit of %s: %w", l.name, err)
		}
		to := min(uint64(l.max), have.Max)
		if err := unix.Prlimit(pid, l.resource, &unix.Rlimit{Cur: to, Max: to}, nil); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
	}
	return nil
}

// limitMemory caps what this process may occupy, before it runs its task. The kernel
// limits what is mapped to write to (not RLIMIT_AS, because Go reserves more address
// space than it ever uses), so what is mapped and has never been used comes on top:
// 40 MiB of a runtime's tables, and with C 8 MiB of stack for each thread.
func limitMemory(occupied int64) error {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	var total, resident, shared, text, lib, data int64 // pages
	if _, err := fmt.Sscan(string(statm), &total, &resident, &shared, &text, &lib, &data); err != nil {
		return fmt.Errorf("read /proc/self/statm: %w", err)
	}
	unused := max(0, data-(resident-shared)) * int64(os.Getpagesize())
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &have); err != nil {
		return fmt.Errorf("ask for the limit of memory: %w", err)
	}
	to := min(uint64(occupied+unused), have.Max)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: to, Max: to}); err != nil {
		return fmt.Errorf("limit memory: %w", err)
	}
	return nil
}

// killStrays kills the processes that have mark in their environment: those that
// left the group of the task that started them. One that is started while it looks
// is found by the next round. The process spared is let live. Only those among pids
// are looked at, unless that is nil.
func killStrays(mark string, spared int, pids func() []int) {
	if pids == nil {
		pids = everybody
	}
	for range strayRounds {
		found := false
		for _, pid := range pids() {
			if pid == spared || !marked(pid, mark) {
				continue
			}
			found = true
			if p, err := os.FindProcess(pid); err == nil { // holds on to this process, not to its number
				if marked(pid, mark) {
					_ = p.Kill()
				}
				_ = p.Release()
			}
		}
		if !found {
			return
		}
	}
}

// strayRounds is enough for a process that starts others as fast as it can, while
// each of them is killed before it has started its own.
const strayRounds = 20

func everybody() []int {
	entries, _ := os.ReadDir("/proc") // without it there is nothing to find
	pids := make([]int, 0, len(entries))
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// startedSince returns what lists the numbers of processes that have been started since
// now, and perhaps others. After a moment only these are few: the kernel gives them in
// order. That saves a look at every process of the machine, which takes longer than a
// small task (BenchmarkIsolated).
func startedSince() func() []int {
	first, since := lastPID(), time.Now()
	return func() []int {
		last := lastPID()
		if first == 0 || last < first || last-first > mostStarted || time.Since(since) > fewStart {
			return everybody()
		}
		pids := make([]int, 0, last-first)
		for p := first + 1; p <= last; p++ {
			pids = append(pids, p)
		}
		return pids
	}
}

const (
	fewStart    = time.Second // in which a machine does not use up all numbers, of which there are 32,768 at least
	mostStarted = 256         // numbers that are tried one by one
)

// lastPID is the number that was given last, and 0 when that is not known.
func lastPID() int {
	text, _ := os.ReadFile("/proc/loadavg")
	f := bytes.Fields(text)
	if len(f) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(string(f[len(f)-1]))
	return pid
}

// marked reports whether a process was started with mark in its environment. A
// process that has been killed has none.
func marked(pid int, mark string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false // it has ended, or is another user's
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if string(v) == mark {
			return true
		}
	}
	return false
}
